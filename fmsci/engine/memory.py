"""What each rank keeps in memory from step to step, in closed form. No torch: projections ask for many world sizes."""

from __future__ import annotations

from fmsci.config.sections import EngineSettings
from fmsci.engine.traffic import FLOAT32


def state_bytes(engine: EngineSettings, parameters: int, world_size: int, trained: int | None = None) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimizer that each rank holds; the latter two of ``trained`` ones.

    ZeRO cuts the optimizer's part over the ranks from stage 1 on, gradients from 2, weights from 3; its optimizer has a
    float32 copy of the weights beside the two moments.
    """
    learning = FLOAT32 * (parameters if trained is None else trained)

    def cut(size: int, from_stage: int) -> int:
        return -(-size // world_size) if engine.stage >= from_stage else size

    moments = 2 * learning if engine.stage == 0 else 3 * learning
    weights = cut(FLOAT32 * parameters, 3)
    return {"weight_bytes": weights, "gradient_bytes": cut(learning, 2), "optimizer_bytes": cut(moments, 1)}
