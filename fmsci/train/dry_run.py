"""What a training run would do, without starting it: no process, no weights, only arithmetic."""

from __future__ import annotations

from typing import Any

from fmsci.config import TrainSettings
from fmsci.config.sections import EngineSettings
from fmsci.dataset.order import num_batches, share
from fmsci.engine.traffic import sent_bytes
from fmsci.terminal import amount
from fmsci.train.build import choose_model

BYTES = 4
"""fp32 weights, gradients and Adam moments."""


def dry_run(settings: TrainSettings, world_size: int) -> dict[str, Any]:
    """Return the facts of a run on ``world_size`` ranks. Raises UserError for what would stop it."""
    architecture, _, data, _ = choose_model(settings)
    samples, grid, engine = len(data.train), data.train.grid, settings.engine
    batch = min(settings.optim.batch_size, samples)
    steps = num_batches(samples, batch)
    largest = _size(share(batch, world_size, 0))
    smallest = _size(share(batch, world_size, world_size - 1))
    p = architecture.num_parameters
    return {
        "run": str(settings.run),
        "parameters": p,
        "grid": grid,
        "in_channels": architecture.in_channels,
        "width": architecture.width,
        "modes": architecture.modes,
        "layers": architecture.layers,
        **state_bytes(settings.engine, p, world_size),
        "field_bytes": architecture.saved_bytes(grid, grid, engine.recompute, joined=engine.device == "cpu")
        // (2 if engine.precision == "bf16" else 1),
        "transform": architecture.choose_transform(engine.transform),
        "checkpoint_bytes": 3 * p * BYTES,
        "step_bytes": sent_bytes(settings.engine, p, world_size),
        "train_samples": samples,
        "steps_per_epoch": steps,
        "steps": steps * settings.optim.epochs,
        "world_size": world_size,
        "global_batch": batch,
        "local_batch_largest": largest,
        "local_batch_smallest": smallest,
        "accumulate": settings.engine.accumulate,
        "piece_largest": _size(share(largest, settings.engine.accumulate, 0)),
    }


def state_bytes(engine: EngineSettings, parameters: int, world_size: int) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimizer that each rank holds.

    ZeRO cuts the optimizer's part over the ranks from stage 1 on, gradients from 2, weights from 3; its optimizer has a
    float32 copy of the weights beside the two moments.
    """
    stage = engine.zero_stage if engine.kind == "zero" else 0
    whole = parameters * BYTES

    def cut(size: int, from_stage: int) -> int:
        return -(-size // world_size) if stage >= from_stage else size

    moments = 2 * whole if stage == 0 else 3 * whole
    return {"weight_bytes": cut(whole, 3), "gradient_bytes": cut(whole, 2), "optimizer_bytes": cut(moments, 1)}


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts as rows for people."""
    local = f"{facts['local_batch_largest']}"
    least = "" if facts["transform"] == "dft" else "more than "  # what the composed form keeps is torch's affair
    fields = f"{least}{amount(facts['field_bytes'])} for each sample of a piece"
    if facts["local_batch_smallest"] != facts["local_batch_largest"]:
        local = f"{facts['local_batch_smallest']} or {local}"
    memory = facts["weight_bytes"] + facts["gradient_bytes"] + facts["optimizer_bytes"]
    return [
        ("run folder", facts["run"]),
        (
            "real parameters",
            f"{facts['parameters']:,} (width {facts['width']}, modes {facts['modes']}, {facts['layers']} layers)",
        ),
        ("weights + gradients + optimizer", f"{amount(memory)} on each rank"),
        ("kept between forward and backward", fields),
        ("Fourier transform", facts["transform"]),
        ("checkpoint", amount(facts["checkpoint_bytes"])),
        ("training samples", f"{facts['train_samples']:,}"),
        ("optimizer steps", f"{facts['steps']:,} ({facts['steps_per_epoch']:,} an epoch)"),
        ("global batch", f"{facts['global_batch']} on {facts['world_size']} rank(s): {local} each"),
        ("sent by each rank", f"{amount(facts['step_bytes'])} an optimizer step"),
        ("accumulation", f"{facts['accumulate']} piece(s) of at most {facts['piece_largest']}"),
    ]
