"""The one place that chooses between the engines."""

from __future__ import annotations

from torch.optim import Optimizer

from fmsci.config.sections import EngineSettings
from fmsci.engine.api import Engine
from fmsci.engine.ddp import DDPEngine
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
) -> Engine:
    """Return the engine that the settings name, around a model and its optimizer; the process group must be up.

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
            replay=replays(settings, world, next(operator.parameters()).device.type),
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


def replays(settings: EngineSettings, world: World, device: str) -> bool:
    """Tell whether steps are recorded and replayed: on one GPU, where nothing asks for what a recording cannot do.

    Pieces of a batch add up their gradients where a replay would overwrite them; computing layers again is for models
    whose steps are long; and the ranks of several GPUs speak to each other while a backward pass runs.
    """
    alone = settings.kind == "ddp" and world.size == 1 and device == "cuda"
    return settings.replay and alone and settings.accumulate == 1 and not settings.recompute
