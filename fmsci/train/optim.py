"""Adam and its schedule, in one place for every engine. The learning rate is a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fmsci.config.sections import OptimSettings
from fmsci.errors import UserError
from fmsci.train.adam import Adam

PAPER_LR = 1e-3
"""That of arXiv 2306.00258 at every size."""

DEFAULT_LR = ((2_000_000, 1e-2), (30_000_000, 3e-3), (math.inf, PAPER_LR))
"""Peak learning rate where ``optim.lr`` is not set: (parameters up to, rate). As tools/tune_lr.py found them, the table
is in docs/benchmarks.md: 1e-2 was best from 64K to 16M, where 3e-3 is as good and further from diverging; above, no
measurement."""


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


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Return Adam (or AdamW) over the parameters that are not frozen; one fused pass over the weights.

    Raises UserError where a setting names a block that the model does not have.
    """
    return Adam(
        parameter_groups(model, settings),
        lr=1e-3,
        weight_decay=settings.weight_decay,
        decoupled_weight_decay=settings.optimizer == "adamw",
        fused=True,
    )


def parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Return the groups of parameters that are not frozen, by learning rate. Frozen ones are marked so in the model.

    Each group has the key ``lr_factor``, by which an engine multiplies the learning rate. Raises UserError where a
    setting names a block that the model does not have.
    """
    _check_blocks(model, settings)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if any(in_block(name, block) for block in settings.freeze):
            parameter.requires_grad_(False)
            continue
        named = [block for block in settings.lr_factors if in_block(name, block)]
        groups.setdefault(settings.lr_factors[max(named, key=len)] if named else 1.0, []).append(parameter)
    if not groups:
        raise UserError(f"optim.freeze is {', '.join(settings.freeze)}: nothing is left to train")
    return [{"params": params, "lr_factor": factor} for factor, params in groups.items()]


def in_block(name: str, block: str) -> bool:
    """Tell whether the parameter ``name`` of an operator belongs to a block: lift, layers, layers.2, head."""
    inside = name.removeprefix("fno.")
    return inside.startswith((f"{block}.", f"{block}_"))


def _check_blocks(model: nn.Module, settings: OptimSettings) -> None:
    names = [name for name, _ in model.named_parameters()]
    for setting, blocks in (("freeze", settings.freeze), ("lr_factors", tuple(settings.lr_factors))):
        for block in blocks:
            if not any(in_block(name, block) for name in names):
                raise UserError(f"optim.{setting} names '{block}'; a model has lift, layers, layers.0 and so on, head")
