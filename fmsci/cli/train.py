"""``fmsci train`` and ``fmsci evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmsci.cli.options import AsJson
from fmsci.world import StopSignals

if TYPE_CHECKING:
    from fmsci.config import TrainSettings


def train(
    config: Annotated[Path, typer.Argument(help="settings, a YAML file such as configs/pretrain/quickstart.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, on top of the file")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would happen, start nothing")] = False,
    world_size: Annotated[int | None, typer.Option(min=1, help="ranks to plan for, with --dry-run")] = None,
    test: Annotated[bool, typer.Option("--test", help="afterwards measure the best model on the test split")] = False,
    as_json: AsJson = False,
) -> None:
    """Pretrain a model, or fine-tune one where init= names its folder. Started again, it continues."""
    signals = StopSignals()
    signals.take()  # first of all: what comes while torch is imported is obeyed; and for good: to the exit code
    _train(config, overrides or [], dry_run, world_size, test, as_json, signals)


def _train(
    config: Path,
    overrides: list[str],
    dry_run: bool,
    world_size: int | None,
    test: bool,
    as_json: bool,
    signals: StopSignals,
) -> None:
    from fmsci.config import TrainSettings, load_settings
    from fmsci.errors import SettingsError

    settings = load_settings(TrainSettings, config, overrides)
    if world_size is not None and not dry_run:
        raise SettingsError("--world-size goes with --dry-run; a real run has as many ranks as its launcher starts")
    if dry_run:
        _dry_run(settings, world_size or 1, as_json)
        return
    from fmsci.world import detect_world

    world = detect_world()  # before torch is imported: a launcher's mistake shows at once
    from fmsci.engine.device import pick_device
    from fmsci.engine.group import process_group
    from fmsci.evaluate import evaluate as measure
    from fmsci.evaluation import evaluation_path
    from fmsci.terminal import duration, say
    from fmsci.train.attempt import forget_outcome
    from fmsci.train.run import run_training

    forget_outcome(settings, world)
    device = pick_device(settings.engine.device, world)
    model, folders = settings.run / "model", settings.data.folders

    def measure_test(between: Callable[[], None]) -> dict[str, Any]:
        tests = [
            measure(model, data, "test", evaluation_path(model, data, "test"), world, device, between)
            for data in folders
        ]
        return tests[0] if len(tests) == 1 else _mean(tests)

    engine = settings.engine
    with process_group(world, device, engine.timeout_s, engine.rendezvous_s, always=engine.kind == "zero"):
        result = run_training(settings, world, device, measure_test if test else None, signals)
    if not world.is_main:
        return
    best = result["best"]
    say(
        f"{settings.run}: best validation error {best['valid_rel_l2']:.4f} at step {best['step']} of "
        f"{result['steps']}, {duration(result['elapsed_s'])}"
    )
    if test:
        test_error, count = result["test"]["rel_l2"], result["test"]["count"]
        say(f"test error {test_error:.4f} over {count} samples, with the model of step {best['step']}")
    else:
        say(f"next: fmsci evaluate {model} --data {folders[0]}")
    if as_json:
        say(json.dumps(result))


def evaluate(
    model: Annotated[Path, typer.Argument(help="a model folder, such as RUN/model")],
    data: Annotated[Path, typer.Option(help="a data folder made by fmsci generate")],
    split: Annotated[str, typer.Option(help="train, valid or test")] = "test",
    output: Annotated[
        Path | None, typer.Option(help="result file; RUN/evaluations/DATA-SPLIT.json if not given")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model's error on a split of a data folder.

    On every sample of it; writes the result and a picture.
    """
    from fmsci.errors import UserError, nearest
    from fmsci.shards.layout import SPLITS

    if split not in SPLITS:
        raise UserError(f"there is no split '{split}'{nearest(split, SPLITS)}; allowed: {', '.join(SPLITS)}")
    from fmsci.world import detect_world

    world = detect_world()
    from fmsci.engine.device import pick_device
    from fmsci.engine.group import process_group
    from fmsci.evaluate import evaluate as measure
    from fmsci.evaluation import evaluation_path
    from fmsci.terminal import say

    device = pick_device("auto", world)
    target = output or evaluation_path(model, data, split)
    with process_group(world, device, timeout_s=600.0):
        result = measure(model, data, split, target, world, device)
    if world.is_main:
        say(f"{model} on {result['count']} {split} samples of {data}: relative L2 error {result['rel_l2']:.4f}")
        say(f"result {target}, picture {target.with_suffix('.png')}")
        if as_json:
            say(json.dumps(result))


def _mean(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the tests on several folders come to; every folder counts the same."""
    error = sum(test["rel_l2"] for test in tests) / len(tests)
    return {"rel_l2": error, "count": sum(test["count"] for test in tests), "folders": tests}


def _dry_run(settings: TrainSettings, world_size: int, as_json: bool) -> None:
    from fmsci.terminal import say, table
    from fmsci.train.dry_run import describe, dry_run
    from fmsci.train.recorded import check_recorded

    check_recorded(settings)
    facts = dry_run(settings, world_size)
    floor = _floor(settings, facts)
    table("what would happen", ("fact", "value"), describe(facts) + ([] if floor is None else [floor]))
    if as_json:
        say(json.dumps(facts))


def _floor(settings: TrainSettings, facts: dict[str, Any]) -> tuple[str, str] | None:
    """Return the row of the local batch's floor, where a GPU is here whose steps are measured."""
    from fmsci.engine.device import gpu_name, num_devices
    from fmsci.scaling.floor import local_floor

    device = gpu_name(settings.engine.device)
    return None if device is None else local_floor(settings, facts, device, max(1, num_devices()))
