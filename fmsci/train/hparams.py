"""A run's line in TensorBoard's HParams: the settings that tell runs apart, and the errors that they led to."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from fmsci.config import TrainSettings
from fmsci.files import discard
from fmsci.terminal import warn
from fmsci.train.learning_rate import peak_lr

SUFFIX = ".hparams"
"""Ends the name of the event file, beside those of the curves: the same run to TensorBoard, and replaced as a whole."""


def write_hparams(settings: TrainSettings, result: dict[str, Any]) -> None:
    """Write the line of a finished run, in place of an earlier one; where that fails it is told: the run is finished.

    (``SummaryWriter.add_hparams`` would make another run folder inside this one.)
    """
    try:
        _write(settings, result)
    except OSError as error:
        warn(f"{settings.run} has no line in TensorBoard's HParams: {error.strerror or error}; the run is finished")


def _write(settings: TrainSettings, result: dict[str, Any]) -> None:
    folder = settings.run / "tensorboard"
    for old in folder.glob(f"*{SUFFIX}"):
        discard(old)
    errors = {"final/valid_rel_l2": float(result["best"]["valid_rel_l2"])}
    if "test" in result:
        errors["final/test_rel_l2"] = float(result["test"]["rel_l2"])
    with SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
        for summary in hparams(_facts(settings, result), errors):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for name, value in errors.items():
            writer.add_scalar(name, value, int(result["steps"]))


def _facts(settings: TrainSettings, result: dict[str, Any]) -> dict[str, float | int | str]:
    optim, count = settings.optim, int(result["num_parameters"])
    return {
        "arm": "from scratch" if settings.init is None else "fine-tuned",
        "init": str(settings.init or ""),
        "data": ", ".join(folder.name for folder in settings.data.folders),
        "train_samples": int(result["train_samples"]),
        "parameters": count,
        "lr": peak_lr(optim, count, settings.init is not None),
        "epochs": optim.epochs,
        "batch_size": optim.batch_size,
        "optimizer": optim.optimizer,
        "weight_decay": optim.weight_decay,
        "schedule": optim.schedule,
        "warmup": optim.warmup,
        "precision": settings.engine.precision,
        "seed": settings.seed,
    }
