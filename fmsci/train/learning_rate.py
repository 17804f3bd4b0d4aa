"""The learning rate: a pure function of the step, one for every engine, without torch: studies are planned by it."""

from __future__ import annotations

import math

from fmsci.config.sections import OptimSettings

PAPER_LR = 1e-3
"""That of arXiv 2306.00258 at every size."""

DEFAULT_LR = ((2_000_000, 1e-2), (math.inf, 3e-3))
"""Peak learning rate where ``optim.lr`` is not set: (parameters up to, rate). As tools/tune_lr.py found them, the table
is in docs/benchmarks.md: 1e-2 was best from 64K to 16M, where 3e-3 is as good and further from diverging; at 256M 3e-3
is better than the paper's."""


def peak_lr(settings: OptimSettings, num_parameters: int, pretrained: bool = False) -> float:
    """Return the peak learning rate: ``optim.lr``, else the default for a model of so many parameters.

    One that is ``pretrained`` starts from the paper's rate: a high one would undo what it has learned.
    """
    if settings.lr is not None:
        return settings.lr
    if pretrained:
        return PAPER_LR
    return next(rate for largest, rate in DEFAULT_LR if num_parameters <= largest)


def learning_rate(settings: OptimSettings, peak: float, step: int, num_steps: int, epoch_steps: int = 1) -> float:
    """Return the rate of optimizer step ``step`` of ``num_steps``: linear warm-up, then cosine to 0 or constant.

    With ``schedule_by`` epoch, the cosine stays where it is for the ``epoch_steps`` steps of an epoch, as in
    arXiv 2306.00258. The warm-up goes by steps in any case.
    """
    if step < settings.warmup:
        return peak * (step + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return peak
    if settings.schedule_by == "epoch":
        return peak * 0.5 * (1.0 + math.cos(math.pi * (step // epoch_steps) / (num_steps // epoch_steps)))
    done = (step - settings.warmup) / max(1, num_steps - settings.warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))
