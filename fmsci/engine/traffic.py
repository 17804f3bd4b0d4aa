"""How many bytes the ranks exchange in an optimizer step, in closed form."""

from __future__ import annotations

from fmsci.config.sections import EngineSettings

FLOAT32, BFLOAT16 = 4, 2

ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
"""How often the bytes of a collective go round a ring of ranks."""


def payload(
    settings: EngineSettings, num_parameters: int, world_size: int, trained: int | None = None
) -> dict[str, int]:
    """Return the bytes that each collective works on in one optimizer step, of P parameters in K pieces.

    ``trained`` counts those that are not frozen: the others have no gradient, and only stage 3 gathers them.
    ddp and stage 0 sum the gradient once, P numbers, however many pieces. Stages 1 and 2 sum it too (DeepSpeed reduces
    whole buckets; stage 2 after every piece, as it keeps only its part) and then gather the new weights. Stage 3
    gathers the weights and scatters the gradient for every piece. What fills parts up to equal sizes, and a few
    single numbers, are left out.
    """
    if world_size == 1:
        return {}
    learning = num_parameters if trained is None else trained
    gradient = learning * (BFLOAT16 if settings.compress else FLOAT32)
    if settings.stage == 3:
        gathered = settings.accumulate * num_parameters * FLOAT32
        return {"all_gather": gathered, "reduce_scatter": settings.accumulate * gradient}
    reduced = {"all_reduce": gradient * (settings.accumulate if settings.stage == 2 else 1)}
    return reduced | ({"all_gather": learning * FLOAT32} if settings.stage else {})


def sent_bytes(settings: EngineSettings, num_parameters: int, world_size: int, trained: int | None = None) -> int:
    """Return the bytes that each rank sends in one optimizer step where collectives go round in rings.

    Of B bytes an all-gather or a reduce-scatter sends (N - 1) / N B, an all-reduce is one of each.
    """
    worked_on = payload(settings, num_parameters, world_size, trained)
    return sum(ROUNDS[kind] * count * (world_size - 1) // world_size for kind, count in worked_on.items())
