"""The settings of scaling runs: which steps are timed on how many ranks, and what is known of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fmsci.config.schema import Schema, text_names
from fmsci.config.sections import Count, EngineSettings, NonNegative, Positive, Precision, Size
from fmsci.config.study import Name


class LinkSettings(Schema):
    """``network.inside`` and ``network.between``: one class of links, as far as nothing has measured it."""

    gbytes_s: Positive = Field(description="bytes a second in units of 1e9; between nodes: of a whole node, one way")
    latency_us: NonNegative = Field(description="microseconds of one message")
    overlap: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="1: exchanging goes on wholly beside the backward pass; 0: it begins at its end"
    )


class NetworkSettings(Schema):
    """``network.*``: what measured points do not tell."""

    inside: LinkSettings | None = Field(None, description="links inside a node, assumed until points measure them")
    between: LinkSettings | None = Field(None, description="links between nodes, assumed until points measure them")
    rounds: Literal["ring", "tree"] = Field(
        "ring", description="steps of a sum over many nodes: ring as gloo, or tree as NCCL where messages are small"
    )
    limit_mbit: Positive | None = Field(
        None, description="the rate that links between nodes are limited to, where it is known; names the points"
    )


class ScalingSettings(Schema):
    """``fmsci scaling``: every combination of world size, model, engine, precision and batch is one timed point."""

    run: Path = Field(description="the folder of the points, the report and its figures")
    world_sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(description="numbers of ranks")
    weak: tuple[Count, ...] = Field((), description="samples of each rank in a step: weak scaling")
    strong: tuple[Count, ...] = Field((), description="samples of all ranks in a step: strong scaling")
    models: Annotated[tuple[Size, ...], Field(min_length=1)] = Field(("1M",), description="sizes of the model")
    engines: Annotated[dict[Name, EngineSettings], Field(min_length=1)] = Field(
        default_factory=lambda: {"ddp": EngineSettings()}, description="engine settings by name; precision apart"
    )
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32",)
    grid: Annotated[int, Field(ge=8)] = Field(128, description="points along each side of the fields")
    coefficients: Count = Field(3, description="coefficients of a sample: 3 for poisson")
    data: Path | None = Field(None, description="a data folder to read; samples made in memory where not set")
    warmup: Count = Field(3, description="steps before anything is timed")
    steps: Count = Field(10, description="steps of a repeat")
    repeats: Count = Field(5, description="repeats; the median is reported, and the spread")
    measured: tuple[Path, ...] = Field((), description="more measured points: points.json of other scaling runs")
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    memory_gib: Positive | None = Field(None, description="memory of a device, for projections")
    device_hour: Positive | None = Field(None, description="price of a device for an hour, in any currency")

    @model_validator(mode="before")
    @classmethod
    def _names_are_text(cls, document: Any) -> Any:
        return text_names(document, "engines")

    @model_validator(mode="after")
    def _fits_together(self) -> ScalingSettings:
        if not self.weak and not self.strong:
            raise ValueError("should have samples in weak or in strong")
        for what in ("world_sizes", "weak", "strong", "models", "precisions"):
            values = getattr(self, what)
            if len(set(values)) < len(values):
                raise ValueError(f"'{what}' is {list(values)} but should name each once")
        for name, engine in self.engines.items():
            if "precision" in engine.model_fields_set:
                raise ValueError(f"'engines.{name}' has a precision; write it in precisions")
        return self
