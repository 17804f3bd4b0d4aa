"""Every setting with its type, range, default and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fmsci.config.schema import Schema

Count = Annotated[int, Field(ge=1, le=2**53)]
Whole = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]
NonNegative = Annotated[float, Field(ge=0)]
RangeEnd = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Far outside every range that makes sense; float64 holds all that is computed from it."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Literal["64K", "1M", "16M", "256M"]
"""Those of :data:`fmsci.model.sizes.SIZES`; a test holds them against each other."""
Precision = Literal["fp32", "tf32", "bf16"]


class GenerateSettings(Schema):
    """``fmsci generate``: which samples to make, and where."""

    system: str = Field(description="the equation: poisson, advection_diffusion or helmholtz")
    range: tuple[RangeEnd, RangeEnd] = Field(
        description="range of the system's varied coefficient, as in SYS-1(lo, hi)"
    )
    grid: Annotated[int, Field(ge=8, le=8192)] = Field(64, description="points along each side of the unit square")
    seed: Seed = Field(0, description="another seed, other samples")
    train: Count = Field(description="samples in the training split")
    valid: Count = Field(description="samples in the validation split")
    test: Count = Field(description="samples in the test split")
    shard_samples: Count = Field(256, description="samples in one file")
    options: dict[str, str] = Field(default_factory=dict, description="ways to draw that a system offers, by name")
    output: Path = Field(description="the data folder to write")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> GenerateSettings:
        if not self.range[0] <= self.range[1]:
            raise ValueError(f"range is {list(self.range)} but the first number should not exceed the second")
        return self


class MixtureSettings(Schema):
    """One folder of ``data.mixture``."""

    path: Path = Field(description="a data folder made by fmsci generate")
    weight: Positive = Field(1.0, description="its share of every epoch, relative to the other weights")
    train_samples: Count | None = Field(None, description="use the first so many of its training samples")


class DataSettings(Schema):
    """``data.*``: which samples to learn from."""

    path: Path | None = Field(None, description="a data folder made by fmsci generate")
    train_samples: Count | None = Field(None, description="use the first so many training samples (subsets are nested)")
    subset: Seed = Field(
        0, description="not 0: train_samples are so many others, drawn by this number (those of one number are nested)"
    )
    valid_samples: Count | None = Field(None, description="use the first so many validation samples of each folder")
    mixture: Annotated[tuple[MixtureSettings, ...], Field(min_length=1)] | None = Field(
        None, description="instead of path: several data folders, for one model with all six coefficients"
    )
    cache: Literal["none", "host", "device"] = Field(
        "none", description="host: read each sample at most once; device: all samples live on the device"
    )
    prefetch: Annotated[int, Field(ge=0, le=64)] = Field(
        2, description="batches that a background thread reads ahead; 0 reads each when it is needed"
    )

    @model_validator(mode="after")
    def _path_or_mixture(self) -> DataSettings:
        if (self.path is None) == (self.mixture is None):
            raise ValueError("should have exactly one of path and mixture")
        if self.mixture is not None and self.subset:
            raise ValueError("should have no subset with a mixture: of each entry the first train_samples are taken")
        if self.mixture is not None and self.train_samples is not None:
            raise ValueError("should have train_samples inside the entries of its mixture")
        if self.subset and self.train_samples is None:
            raise ValueError("should have subset only with train_samples: without them all samples are taken")
        names = [folder.name for folder in self.folders]
        for name in names:
            if names.count(name) > 1:  # results are filed under the folder's name
                raise ValueError(f"should have folders of different names in its mixture, not two called '{name}'")
        return self

    @property
    def folders(self) -> tuple[Path, ...]:
        """The data folders, one or several."""
        if self.mixture is not None:
            return tuple(part.path for part in self.mixture)
        return () if self.path is None else (self.path,)


class ModelSettings(Schema):
    """``model.*``: the architecture; ``size`` sets width and modes, each can be set by hand."""

    size: Size | None = Field(None, description="the dial; 1M where nothing is said")
    width: Count | None = Field(None, description="channels of a Fourier layer")
    modes: Count | None = Field(None, description="kept wavenumbers along each axis")
    layers: Count | None = Field(None, description="Fourier layers; 4 where nothing is said")
    initial: Literal["paper", "balanced"] | None = Field(
        None, description="spectral weights at the start (docs/fourier_layer.md); paper where not set"
    )

    @model_validator(mode="after")
    def _size_sets_something(self) -> ModelSettings:
        if None not in (self.size, self.width, self.modes):
            raise ValueError(
                "should have size, or width and modes, not all three: nothing is left for size to set "
                "(model.width=null model.modes=null leaves it to size)"
            )
        return self

    @property
    def architecture(self) -> dict[str, Any]:
        """What defines the architecture; what is not set is None."""
        return self.model_dump(exclude={"initial"})


class OptimSettings(Schema):
    """``optim.*``: Adam and its schedule."""

    lr: Positive | None = Field(None, description="peak learning rate; a default by the model's size where not set")
    epochs: Count = Field(description="passes over the training samples")
    batch_size: Count = Field(128, description="samples of one optimizer step over ALL ranks")
    loss: Literal["squared", "relative"] = Field(
        "squared",
        description="squared error, as in the paper; relative: that of each sample over its solution's square",
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adamw decays weights apart from the gradient")
    weight_decay: NonNegative = Field(0.0, description="decay of weights, of adamw")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine falls from lr to 0 over the steps")
    schedule_by: Literal["step", "epoch"] = Field("step", description="epoch: the cosine falls once an epoch")
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="optimizer steps of linear warm-up")
    grad_clip: Positive | None = Field(None, description="largest allowed L2 norm of the gradient")
    freeze: tuple[str, ...] = Field((), description="blocks that are not trained: lift, layers, layers.0 ..., head")
    lr_factors: dict[str, Positive] = Field(
        default_factory=dict, description="factor of the learning rate by block; the narrower name counts"
    )
    on_nonfinite: Literal["stop", "skip", "rewind"] = Field(
        "stop",
        description="a gradient or loss that is not finite: skip its update (waits for the device every step), "
        "or go back to the last checkpoint and leave out that batch",
    )

    @model_validator(mode="after")
    def _only_adamw_decays(self) -> OptimSettings:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("should have optimizer adamw with a weight_decay")
        return self


class EngineSettings(Schema):
    """``engine.*``: how a step runs on many devices."""

    kind: Literal["ddp", "zero"] = Field("ddp", description="ddp: PyTorch's; zero: DeepSpeed's, which cuts the state")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="with zero, cut over the ranks: 1 optimizer state, 2 gradients too, 3 weights too, 0 nothing"
    )
    offload: bool = Field(False, description="with zero: optimizer state and update on the host")
    deepspeed_config: Path | None = Field(None, description="with zero: a JSON file with more of DeepSpeed's settings")
    precision: Precision = Field(
        "fp32", description="matrix products; parameters, gradients and optimizer state stay float32"
    )
    compress: bool = Field(False, description="gradients travel between the ranks as bfloat16, half the bytes")
    transform: Literal["auto", "dft", "fft"] = Field("auto", description="matrix products, or fast Fourier transforms")
    recompute: Annotated[int, Field(ge=0)] = Field(
        0, description="keep the field of every so many layers only and compute the others again: less memory"
    )
    accumulate: Count = Field(1, description="pieces that each rank's part of a batch is computed in, to save memory")
    replay: bool = Field(
        True,
        description="with ddp on GPUs: record a step's kernels once and replay them; on several GPUs in short steps",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="CPU threads of a process; its share of the cores where not set"
    )
    rendezvous_s: Seconds = Field(60.0, description="seconds that the ranks wait for each other at the start")
    timeout_s: Seconds = Field(600.0, description="seconds after which a silent rank ends the job")

    @model_validator(mode="after")
    def _zero_alone_has_its_settings(self) -> EngineSettings:
        if self.kind == "ddp" and (self.offload or self.deepspeed_config is not None):
            raise ValueError("should have offload and deepspeed_config only with kind zero")
        if self.offload and self.zero_stage == 0:
            raise ValueError("should have a zero_stage of 1 or more with offload")
        return self

    @property
    def stage(self) -> int:
        """Which of ZeRO's stages it has: 0, which cuts nothing, where it is not ZeRO."""
        return self.zero_stage if self.kind == "zero" else 0


class CheckpointSettings(Schema):
    """``checkpoint.*``: when to save; a run always saves when it is asked to stop and when it ends."""

    every_epochs: Count | None = Field(1, description="save after so many epochs")
    every_steps: Count | None = Field(None, description="save after so many optimizer steps")
    every_minutes: Positive | None = Field(10.0, description="save after so many minutes")
    keep: Count = Field(2, description="how many of the newest checkpoints stay")
    keep_best: bool = Field(True, description="the checkpoint of the best validation error stays too")
    keep_every_epochs: Count | None = Field(None, description="that of every so many epochs stays too")
    keep_finished: bool = Field(
        True, description="false: a finished run has no checkpoints, three times its model; nothing continues from it"
    )
    deadline_minutes: Positive | None = Field(
        None, description="save and stop after so many minutes; under Slurm also before the job's end"
    )
    margin_minutes: Positive = Field(
        5.0, description="so long before the end of a Slurm job; at most a tenth of the time that is left at the start"
    )


class MonitorSettings(Schema):
    """``monitor.*``: what is written while training."""

    every_steps: Count = Field(10, description="optimizer steps between two entries")
    validate_steps: Count | None = Field(
        None, description="optimizer steps between two validations; after each epoch where not set"
    )
    pictures: bool = Field(
        True, description="pictures of fields and of the error by wavenumber in TensorBoard, now and then as it falls"
    )
    profile: Count | None = Field(
        None, description="so many steps near the start are profiled: RUN/profile has a trace and a table"
    )
    wandb: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="a project of W&B that the curves are copied to, offline unless WANDB_MODE=online"
    )


class TrainSettings(Schema):
    """``fmsci train``: pretraining, and fine-tuning when ``init`` names a model folder."""

    run: Path = Field(description="the run folder")
    seed: Seed = Field(0, description="seed of the initial weights and of the order of samples")
    init: Path | None = Field(None, description="start from this model folder (its scales are kept)")
    data: DataSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    optim: OptimSettings
    engine: EngineSettings = Field(default_factory=EngineSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
