"""What a training run would do, without starting it: no process, no weights, only arithmetic."""

from __future__ import annotations

from typing import Any

import torch

from fmsci.config import TrainSettings
from fmsci.config.sections import OptimSettings
from fmsci.dataset.order import num_batches, share
from fmsci.engine.memory import state_bytes
from fmsci.engine.traffic import FLOAT32, sent_bytes
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.terminal import amount
from fmsci.train.build import choose_model
from fmsci.train.optim import parameter_groups


def dry_run(settings: TrainSettings, world_size: int) -> dict[str, Any]:
    """Return the facts of a run on ``world_size`` ranks. Raises UserError for what would stop it."""
    architecture, scales, data, _ = choose_model(settings)
    samples, grid, engine = len(data.train), data.train.grid, settings.engine
    batch = min(settings.optim.batch_size, samples)
    steps = num_batches(samples, batch)
    largest = _size(share(batch, world_size, 0))
    smallest = _size(share(batch, world_size, world_size - 1))
    p = architecture.num_parameters
    transform = architecture.choose_transform(engine.transform)
    # auto may be asked where the GPUs are not: counted as there
    joined = architecture.joins_lift(transform, engine.device == "cpu")
    trained = _num_trained(architecture, scales, settings.optim)
    return {
        "run": str(settings.run),
        "parameters": p,
        "trained_parameters": trained,
        "grid": grid,
        "in_channels": architecture.in_channels,
        "width": architecture.width,
        "modes": architecture.modes,
        "layers": architecture.layers,
        **state_bytes(settings.engine, p, world_size, trained),
        "field_bytes": architecture.saved_bytes(grid, grid, engine.recompute, joined=joined)
        // (2 if engine.precision == "bf16" else 1),
        "transform": transform,
        "checkpoint_bytes": (p + 2 * trained) * FLOAT32,
        "step_bytes": sent_bytes(settings.engine, p, world_size, trained),
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


def _num_trained(architecture: Architecture, scales: Scales, settings: OptimSettings) -> int:
    """Count the parameters that are not frozen. Raises UserError where a setting names a block that there is not."""
    with torch.device("meta"):  # shapes alone
        operator = SolutionOperator(architecture, scales)
    return sum(one.numel() for group in parameter_groups(operator, settings) for one in group["params"])


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts as rows for people."""
    local = f"{facts['local_batch_largest']}"
    least = "" if facts["transform"] == "dft" else "more than "  # what the composed form keeps is torch's affair
    fields = f"{least}{amount(facts['field_bytes'])} for each sample of a piece"
    if facts["local_batch_smallest"] != facts["local_batch_largest"]:
        local = f"{facts['local_batch_smallest']} or {local}"
    few = facts["trained_parameters"] < facts["parameters"]
    count = f"{facts['parameters']:,}" + (f", {facts['trained_parameters']:,} of them trained" if few else "")
    memory = facts["weight_bytes"] + facts["gradient_bytes"] + facts["optimizer_bytes"]
    return [
        ("run folder", facts["run"]),
        (
            "real parameters",
            f"{count} (width {facts['width']}, modes {facts['modes']}, {facts['layers']} layers)",
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
