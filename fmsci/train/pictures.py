"""Pictures of a run in TensorBoard: fields beside their solution, and the error by wavenumber."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fmsci.engine.collective import decided_by_main
from fmsci.figures import Fields, field_comparison, picture_of, spectrum_figure
from fmsci.train.build import Job
from fmsci.train.state import State

SHARE = 0.005
"""Drawing takes at most this share of a run's time, but for the first picture of a start and that of the last step."""

SHOWN = 2
"""So many validation samples, the first ones, are rows of the picture of fields."""


class Pictures:
    """Draws on rank 0. What is predicted for it is predicted on all ranks: they agree on when."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = time.monotonic()
        self._drawn_s = 0.0

    def due(self, state: State, improved: bool) -> bool:
        """Tell whether to draw now: an improved model, as far as time allows, and the last one. Collective."""
        last = state.step == self._job.num_steps
        if not self._job.settings.monitor.pictures or not (last or (improved and state.step)):
            return False
        return decided_by_main(self._job.world, self._job.device, lambda: float(self._affordable(state))) > 0

    def _affordable(self, state: State) -> bool:
        last = state.step == self._job.num_steps
        return last or self._drawn_s <= SHARE * (time.monotonic() - self._begun)

    def predict(self, system: str) -> tuple[Fields, Fields, Fields]:
        """Return sources, solutions and predictions of the samples that are shown. Collective."""
        split = self._job.valid[system]
        samples = split.gather(np.arange(min(SHOWN, len(split)))).to(self._job.device)
        predicted = self._job.engine.predict(samples.source, samples.coefficients)
        source, solution, u = (part.cpu().numpy() for part in (samples.source, samples.solution, predicted))
        return source, solution, u

    def draw(
        self, fields: tuple[Fields, Fields, Fields], spectrum: NDArray[np.float64] | None, title: str
    ) -> dict[str, NDArray[np.uint8]]:
        """Return the pictures by the beginning of their tags: ``fields``, ``spectrum``."""
        begun = time.monotonic()
        drawn = {"fields": field_comparison(*fields)}
        if spectrum is not None:
            drawn["spectrum"] = picture_of(spectrum_figure(spectrum, self._job.architecture.modes, title))
        self._drawn_s += time.monotonic() - begun
        return drawn


def by_band(spectrum: NDArray[np.float64], modes: int) -> dict[str, float]:
    """Return the relative error in the disc |k| < ``modes`` - 1/2 of the square that layers mix, and in all beyond.

    The squares of both add up to the mean square of the relative L2 error.
    """
    error = spectrum[0]
    return {"kept": float(np.sqrt(error[:modes].sum())), "beyond": float(np.sqrt(error[modes:].sum()))}
