"""Adam over the groups of a model's parameters, in one place for every engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fmsci.config.sections import OptimSettings
from fmsci.errors import UserError
from fmsci.train.adam import Adam


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
