"""The one place that chooses between the engines."""

from __future__ import annotations

from torch.optim import Optimizer

from fmsci.config.sections import EngineSettings
from fmsci.engine.api import Engine
from fmsci.engine.ddp import DDPEngine
from fmsci.engine.replay_rule import replays
from fmsci.engine.zero_config import deepspeed_config
from fmsci.metrics import Loss, squared_error
from fmsci.model.operator import SolutionOperator
from fmsci.world import World


def build_engine(
    settings: EngineSettings,
    operator: SolutionOperator,
    optimizer: Optimizer,
    world: World,
    grad_clip: float | None,
    skip_nonfinite: bool = False,
    loss: Loss = squared_error,
    numbers: int | None = None,
) -> Engine:
    """Return the engine that the settings name, around a model and its optimizer; the process group must be up.

    ``numbers``: see :func:`fmsci.engine.replay_rule.numbers_of_step`; without, several ranks never replay.

    Raises UserError where DeepSpeed is wanted and missing, or its file contradicts the settings.
    """
    if settings.kind == "ddp":
        return DDPEngine(
            operator,
            optimizer,
            world,
            grad_clip,
            precision=settings.precision,
            compress=settings.compress,
            skip_nonfinite=skip_nonfinite,
            loss=loss,
            replay=replays(settings, world.size, next(operator.parameters()).device.type, numbers),
        )
    from fmsci.engine.zero import ZeroEngine

    config = deepspeed_config(
        world_size=world.size,
        accumulate=settings.accumulate,
        num_parameters=sum(parameter.numel() for parameter in operator.parameters()),
        stage=settings.zero_stage,
        offload=settings.offload,
        grad_clip=grad_clip,
        compress=settings.compress,
        on_gpu=next(operator.parameters()).device.type == "cuda",
        extra=settings.deepspeed_config,
    )
    return ZeroEngine(
        operator,
        optimizer,
        world,
        config,
        precision=settings.precision,
        skip_nonfinite=skip_nonfinite,
        loss=loss,
    )
