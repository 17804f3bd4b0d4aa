"""The settings of a study: which pretrained models meet which downstream tasks, and how both arms are tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from fmsci.config.schema import Schema, text_names
from fmsci.config.sections import Count, Positive, Seed


def _is_name(value: str) -> str:
    if not value or not all(letter.isalnum() or letter in "._" for letter in value):
        raise ValueError("should be a name of letters, digits, '.' and '_': folders are named by it")
    return value


Name = Annotated[str, AfterValidator(_is_name)]


class DataSources(Schema):
    """``data`` of a study: the data folders that it makes where they are missing."""

    configs: tuple[Path, ...] = Field((), description="generate configurations")
    overrides: tuple[str, ...] = Field((), description="key=value settings over each of them")
    folder: Path | None = Field(None, description="data folders go here, under the names that they have there")


class ModelSource(Schema):
    """One of ``models``: a pretrained model that the study makes (``train``), or that is there (``folder``)."""

    folder: Path | None = Field(None, description="a model folder that is there already")
    train: Path | None = Field(None, description="a train configuration: the study pretrains with it")
    overrides: tuple[str, ...] = Field((), description="key=value settings over that configuration")
    tasks: tuple[str, ...] | None = Field(None, description="the tasks that it is compared on; all where not set")

    @model_validator(mode="after")
    def _folder_or_train(self) -> ModelSource:
        if (self.folder is None) == (self.train is None):
            raise ValueError("should have exactly one of folder and train")
        if self.folder is not None and self.overrides:
            raise ValueError("should have overrides only with train: the model in its folder is as it is")
        return self


class StudySettings(Schema):
    """``fmsci study``: pretrained models x downstream tasks x samples, fine-tuned against from scratch.

    Learning rates are swept on the first seed and chosen by validation error, for each arm and number of samples; the
    further seeds take the chosen rate.
    """

    study: Literal["q1", "q2", "q3", "q4", "recipe"] = Field(
        description="what the report shows: q1 samples, q2 size of the model, q3 shift of the task, q4 mixed physics; "
        "recipe: how models are pretrained, each against the first, with no runs downstream"
    )
    run: Path = Field(description="the folder of the study: report, table, pictures, jobs")
    runs: Path | None = Field(
        None, description="the folder of the run folders, RUN/runs where not set; studies may share one"
    )
    data: DataSources = Field(default_factory=DataSources)
    models: Annotated[dict[Name, ModelSource], Field(min_length=1)] = Field(description="pretrained models by name")
    tasks: dict[Name, Path] = Field(default_factory=dict, description="downstream data folders by name")
    samples: tuple[Count, ...] = Field((), description="downstream training samples; none for recipe")
    train: Path = Field(description="a train configuration: the base of every downstream run")
    overrides: tuple[str, ...] = Field((), description="key=value settings over it")
    rates: tuple[Positive, ...] = Field((), description="learning rates to try; that of ``train`` alone where not set")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        (0,), description="the rates are tried with the first, the others repeat the best; each draws its own samples"
    )
    steps: Count | dict[Count, Count] | None = Field(
        None, description="optimizer steps of a run in either arm, in whole epochs; one number, or one by samples"
    )
    validations: Count = Field(20, description="validations of a run, evenly over its steps")
    targets: tuple[Positive, ...] = Field((), description="errors whose price in samples the report tells")
    workers: Count = Field(1, description="runs at the same time on this machine")
    gpus: Count = Field(1, description="GPUs of this machine that the runs are spread over, where there are any")
    ratio_below: Positive | None = Field(
        None, description="fail unless error(fine-tuned) / error(scratch) is below this wherever both are measured"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_are_text(cls, document: Any) -> Any:
        return text_names(document, "models", "tasks")

    @field_validator("samples", mode="after")
    @classmethod
    def _fewest_first(cls, samples: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(samples))  # curves go from the fewest on

    @model_validator(mode="after")
    def _fits_together(self) -> StudySettings:
        for what, values in (("samples", self.samples), ("rates", self.rates), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"'{what}' is {list(values)} but should name each once")
        for name, there in (("samples", list(self.samples)), ("tasks", self.tasks)):
            if self.study == "recipe" and there:
                raise ValueError(f"should have no '{name}': recipe has no runs downstream")
            if self.study != "recipe" and not there:
                raise ValueError(f"'{name}' is {there} but should have at least 1 item")
        if self.samples and self.steps is None:
            raise ValueError("should have 'steps', those of a run in either arm")
        if self.study == "recipe" and any(source.train is None for source in self.models.values()):
            raise ValueError("should pretrain all its models (models.NAME.train): a recipe is compared, not a folder")
        if isinstance(self.steps, dict):
            for count in self.samples:
                if count not in self.steps:
                    raise ValueError(f"'steps' has no number for {count} samples; give one for each of 'samples'")
        for name, source in self.models.items():
            for task in source.tasks or ():
                if task not in self.tasks:
                    raise ValueError(f"'models.{name}' names the task '{task}'; there is {', '.join(self.tasks)}")
        return self

    @property
    def runs_folder(self) -> Path:
        """The folder of the run folders."""
        return self.runs or self.run / "runs"

    def steps_for(self, samples: int) -> int:
        """Return the optimizer steps that a run with so many samples has at least."""
        assert self.steps is not None, "there are no samples without it"
        return self.steps[samples] if isinstance(self.steps, dict) else self.steps
