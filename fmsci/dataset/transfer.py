"""Samples on their way to the device, beside its computing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from fmsci.dataset.samples import Samples


class Transfer:
    """Moves samples to ``device``; on CUDA from pinned memory and on a stream of its own, so that copies overlap.

    ``beside`` says that another thread moves than the one that computes: only then is a stream of its own of use.
    """

    def __init__(self, device: torch.device, beside: bool) -> None:
        self.device = device
        self.pin = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.pin and beside else None  # type: ignore[no-untyped-call]

    def sending(self) -> AbstractContextManager[object]:
        """Return the context in which samples are gathered and moved."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def sent(self) -> torch.cuda.Event | None:
        """Return the mark that what was sent so far ends with."""
        return None if self._stream is None else self._stream.record_event()

    def received(self, mark: torch.cuda.Event | None, samples: Samples) -> None:
        """Make the computing stream (not this thread) wait for ``mark`` before it touches ``samples``."""
        if mark is None:
            return
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(mark)
        for tensor in (samples.fields, samples.coefficients):
            tensor.record_stream(stream)  # their memory belongs to the other stream: it is free when this one is done
