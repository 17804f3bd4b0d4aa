"""DeepSpeed's configuration from our settings; a file of the user's may add to it, not contradict it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmsci.errors import SettingsError, UserError
from fmsci.files import read_json

OURS = {
    "optimizer": "optim.* makes the optimizer, the same for every engine",
    "scheduler": "optim.schedule sets the learning rate, the same for every engine",
    "tensorboard": "monitor.* writes TensorBoard, by optimizer step",
    "torch_autocast": "engine.precision=bf16 computes in bfloat16",
}
"""Sections of DeepSpeed that would do what a setting of ours does."""

LARGEST_BUCKET = 50_000_000
"""Numbers in a bucket of gradients: DeepSpeed's own default of 5e8 is a buffer of 2 GB in float32."""


def deepspeed_config(
    *,
    world_size: int,
    accumulate: int,
    num_parameters: int,
    stage: int,
    offload: bool,
    grad_clip: float | None,
    compress: bool,
    on_gpu: bool,
    extra: Path | None = None,
) -> dict[str, Any]:
    """Return DeepSpeed's configuration; ``extra`` is a JSON file with more keys.

    Its batch size counts one sample a piece: only products of the three matter to DeepSpeed, and the true pieces come
    from the loader. Parameters stay float32: DeepSpeed's bf16 and fp16 modes would cast them.

    Raises SettingsError where the file contradicts the settings.
    """
    bucket = 2 * max(1, min(num_parameters, LARGEST_BUCKET) // 2)  # DeepSpeed wants it even
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "contiguous_gradients": True,
        "overlap_comm": on_gpu and not offload,
    }
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    config: dict[str, Any] = {
        "train_batch_size": world_size * accumulate,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": grad_clip or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "wall_clock_breakdown": False,
        "communication_data_type": "bf16" if compress else "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }
    if extra is not None:
        more = _read(extra)
        if not offload:
            _refuse_offload(more.get("zero_optimization"), extra)
        _add(config, more, extra)
    return config


def _refuse_offload(zero: Any, path: Path) -> None:
    """Raise SettingsError where the file moves something to the host, or a disk, and ``engine.offload`` is false."""
    for key, value in zero.items() if isinstance(zero, dict) else ():
        if "offload" in key and value not in (None, False):  # offload_optimizer, offload_param, cpu_offload ...
            raise SettingsError(
                f"{path} has zero_optimization.{key}={value!r} but engine.offload is false; "
                "remove it there or set engine.offload=true"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path)
    except UserError as error:
        raise SettingsError(f"engine.deepspeed_config: {error}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"engine.deepspeed_config: {path} should hold a JSON object of DeepSpeed's settings")
    for key, reason in OURS.items():
        if key in document:
            raise SettingsError(f"{path} has '{key}', but {reason}; remove it there")
    return document


def _add(config: dict[str, Any], extra: dict[str, Any], path: Path, prefix: str = "") -> None:
    for key, value in extra.items():
        name = f"{prefix}{key}"
        if key not in config or key.endswith("bucket_size"):
            config[key] = value
        elif isinstance(config[key], dict) and isinstance(value, dict):
            _add(config[key], value, path, f"{name}.")
        elif config[key] != value:
            raise SettingsError(
                f"{path} has {name}={value!r} but the settings of the run make it {config[key]!r}; "
                "remove it there or change the setting"
            )
