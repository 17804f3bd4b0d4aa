"""Weights of the paper's published code, in and out: its names and its order of wavenumbers.

There a layer's spectral weights are two tensors (C_in, C_out, m, m, 2), real and imaginary part last: ``weights1`` for
ky = 0..m-1 and ``weights2`` for ky = -m..-1, kx = 0..m-1. The pointwise weights are those of a convolution, (d, d, 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fmsci.errors import UserError
from fmsci.model.fno import FNO


def from_reference(state: Mapping[str, Tensor]) -> FNO:
    """Return the model whose weights the paper's code saved: ``fc0``, ``sp_convs.i``, ``ws.i``, ``fc1``, ``fc2``.

    Raises UserError where the names or shapes are others.
    """
    given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    layers = sum(name.startswith("ws.") and name.endswith(".weight") for name in given)
    try:
        width, channels = given["fc0.weight"].shape
        modes = given["sp_convs.0.weights1"].shape[2]
        model = FNO(channels, width, modes, layers)
        own = {
            "lift.weight": given.pop("fc0.weight"),
            "lift.bias": given.pop("fc0.bias"),
            "head.inner": given.pop("fc1.weight"),
            "head.inner_bias": given.pop("fc1.bias"),
            "head.outer": given.pop("fc2.weight"),
            "head.outer_bias": given.pop("fc2.bias"),
        }
        for index in range(layers):
            plus, minus = (given.pop(f"sp_convs.{index}.weights{part}") for part in (1, 2))
            ky_first = (part.permute(4, 2, 3, 0, 1) for part in (plus, minus.flip(2)))
            own[f"layers.{index}.spectral"] = torch.cat(tuple(ky_first), dim=1)
            own[f"layers.{index}.pointwise"] = given.pop(f"ws.{index}.weight").flatten(1)
            own[f"layers.{index}.bias"] = given.pop(f"ws.{index}.bias")
        if given:
            raise UserError(f"these weights belong to no part of the paper's model: {', '.join(list(given)[:3])}")
        model.load_state_dict(own)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"these are no weights of the paper's Fourier neural operator: {reason}") from None
    return model


def to_reference(model: FNO) -> dict[str, Tensor]:
    """Return the weights of a model under the names and in the order of the paper's code."""
    own = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    m = model.architecture.modes
    given = {
        "fc0.weight": own["lift.weight"],
        "fc0.bias": own["lift.bias"],
        "fc1.weight": own["head.inner"],
        "fc1.bias": own["head.inner_bias"],
        "fc2.weight": own["head.outer"],
        "fc2.bias": own["head.outer_bias"],
    }
    for index in range(model.architecture.layers):
        spectral = own[f"layers.{index}.spectral"]
        for part, rows in ((1, spectral[:, :m]), (2, spectral[:, m:].flip(1))):
            given[f"sp_convs.{index}.weights{part}"] = rows.permute(3, 4, 1, 2, 0).contiguous()
        given[f"ws.{index}.weight"] = own[f"layers.{index}.pointwise"][:, :, None]
        given[f"ws.{index}.bias"] = own[f"layers.{index}.bias"]
    return given
