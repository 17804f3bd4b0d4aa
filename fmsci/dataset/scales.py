"""The scales that a model takes from its training samples, where several folders are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmsci.dataset.mixture import Mixture
from fmsci.errors import UserError
from fmsci.model.scales import Scales


def mixture_scales(mixture: Mixture) -> Scales:
    """Return the medians over a mixture's training samples: of ||f||_2 / n, and of each column's non-zero sizes.

    A sample counts as often as an epoch visits it on average: drawn / size of its folder. So the medians are those of
    what the model sees, and with weights in proportion to the sizes they are the plain medians over all samples.

    Raises UserError where half of the sources or more are zero everywhere.
    """
    visits = [np.full(size, drawn / size) for size, drawn in zip(mixture.sizes, mixture.drawn, strict=True)]
    weight = np.concatenate(visits)
    norm = np.concatenate([one.figure("source_norm") for one in mixture.sets])
    source = weighted_median(norm, weight)
    if source == 0:
        folders = ", ".join(str(one.folder) for one in mixture.sets)
        raise UserError(
            f"half of the samples of {folders} or more have a source that is zero everywhere: they give no scale; "
            "leave them out"
        )
    tensor = np.concatenate([one.expand(one.figure("tensor")) for one in mixture.sets])
    coefficients = {}
    for column, name in enumerate(mixture.columns):
        sizes = np.abs(tensor[:, column])
        present = sizes > 0
        coefficients[name] = weighted_median(sizes[present], weight[present]) if present.any() else 1.0
    return Scales(source, coefficients)


def weighted_median(values: NDArray[Any], weights: NDArray[np.float64]) -> float:
    """Return the value below and above which lies half of the weight; the mean of two where it falls between them.

    With equal weights this is the median. Halves are told from near-halves to 1 part in 10^12, as weights are sums.
    """
    rising = np.argsort(values, kind="stable")
    ordered = values[rising].astype(np.float64)
    reached = np.cumsum(weights[rising])
    half, slack = reached[-1] / 2, 1e-12 * reached[-1]
    low = ordered[np.searchsorted(reached, half - slack)]
    high = ordered[np.searchsorted(reached, half + slack)]
    return float((low + high) / 2)
