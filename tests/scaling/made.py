"""Points that a known cost model would have given: what a fit should find again."""

from fmsci.config.sections import EngineSettings
from fmsci.scaling.cost import Compute, CostModel, Link
from fmsci.scaling.measured import Measured
from fmsci.scaling.points import Point

ENGINES = {
    "ddp": EngineSettings(),
    "ddp_bf16": EngineSettings(compress=True),
    "zero1": EngineSettings(kind="zero", zero_stage=1),
    "zero2": EngineSettings(kind="zero", zero_stage=2),
    "zero3": EngineSettings(kind="zero", zero_stage=3),
}
MODEL = CostModel(
    compute={("1M", "fp32"): Compute(0.0, 4e-3, 3e-3, 8e-4), ("16M", "fp32"): Compute(0.0, 6e-3, 9e-3, 12e-3)},
    inside=Link(2e-4, 5e-10, overlap=0.5, measured=True),
    between=Link(7e-4, 2e-9, limited=1.07, overlap=0.3, measured=True),
    crowd={2: 1.02, 3: 1.5, 4: 2.1},
    zero=(0.0, 0.0),
)


def point(ranks, batch, engine="ddp", model="1M", limit=None):
    return Point(ranks, model, engine, ENGINES[engine], batch, 64, 3, limit)


def as_measured(one, nodes, cost=MODEL, factor=1.0):
    """Return the point as if ``cost`` were the truth; ``factor`` is an error of the step."""
    own = cost.compute[one.model, "fp32"]
    alone = cost.crowding(one.world_size) * (own.seconds(one.local, one.how.accumulate) + own.update_s)
    step = factor * cost.estimate(one, nodes).step_s
    update = cost.crowding(one.world_size) * own.update_s
    return Measured(one, nodes, "cpu", step, step, step, alone, update, 0.0, None)


def measured(engines=("ddp",), limits=(100.0, 400.0), cost=MODEL):
    """Return points on one rank, on two ranks of a node, and on 2 to 4 nodes of one rank."""
    found = [as_measured(point(1, b, model=model), 1, cost) for model in ("1M", "16M") for b in (2, 4, 8)]
    for engine in engines:
        for model in ("1M", "16M"):
            for local in (2, 8):
                found.append(as_measured(point(2, 2 * local, engine, model), 1, cost))
                for ranks in (2, 3, 4):
                    for limit in limits:
                        found.append(as_measured(point(ranks, ranks * local, engine, model, limit), ranks, cost))
    return found
