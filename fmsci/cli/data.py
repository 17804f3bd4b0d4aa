"""``fmsci data``: look at data folders, check them, take data in and give them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmsci.cli.options import AsJson

if TYPE_CHECKING:
    from fmsci.shards import Manifest

app = typer.Typer(
    help="Look at data folders, check them, import and export data.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(metavar="PATH", help="a data folder")]

EXIT_DAMAGED = 1
SAMPLES_ON_SHEET = 12


@app.command()
def check(
    folder: Folder,
    solve: Annotated[bool, typer.Option("--solve", help="also solve every stored sample again")] = False,
    json_: AsJson = False,
) -> None:
    """Read every byte of a data folder and tell what is damaged.

    Or missing, or foreign; and how to repair it.
    """
    import json

    from fmsci.generate.agree import check_manifest, check_plan
    from fmsci.shards import read_manifest
    from fmsci.shards.check import FOREIGN, check_folder
    from fmsci.terminal import Progress, amount, say

    manifest = read_manifest(folder)
    shards = [shard for record in manifest.splits.values() for shard in record.shards]
    done = 0
    with Progress(f"check {folder}", sum(shard.bytes for shard in shards) >> 20, "MiB") as bar:

        def tell(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            bar.update(done >> 20)

        found = check_folder(folder, tell)
        agrees = check_manifest if all(one.problem == FOREIGN for one in found) else check_plan
        found += agrees(folder, manifest)
        findings = [(finding.file, finding.problem) for finding in found]
    if solve and not findings:
        findings = _check_samples(folder, manifest)
    for file, problem in findings:
        say(f"{folder / file}: {problem}")
    if findings:
        say(f"to repair: {_repair(folder, manifest, findings)}")
    else:
        count = sum(record.count for record in manifest.splits.values())
        say(f"{folder}: {manifest.title}, {len(shards)} shards, {count:,} samples, {amount(done)}, nothing wrong")
    if json_:
        say(json.dumps({"ok": not findings, "findings": [{"file": f, "problem": p} for f, p in findings]}))
    if findings:
        raise typer.Exit(EXIT_DAMAGED)


def _check_samples(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Return the first stored pair of each shard that does not solve its equation."""
    import numpy as np

    from fmsci.generate.adopt import judge
    from fmsci.generate.samples import LARGEST_PAIR_ERROR
    from fmsci.pde.arguments import find_system
    from fmsci.shards import open_split
    from fmsci.terminal import Progress, say

    system = find_system(manifest.system)
    findings = []
    worst, done = 0.0, 0
    with Progress("solve", sum(record.count for record in manifest.splits.values()), "samples") as bar:
        for split, record in manifest.splits.items():
            reader = open_split(folder, split)
            for shard in record.shards:
                for at in range(shard.first, shard.first + shard.count):
                    fields, tensor, _ = reader.gather(np.array([at]))
                    error = judge(system, fields, tensor)[0]
                    done += 1
                    bar.update(done)
                    if not error <= LARGEST_PAIR_ERROR:
                        findings.append((shard.file, f"sample {at}: ||u - solve(f)|| / ||u|| is {error:.2g}"))
                        break
                    worst = max(worst, error)
    say(f"||u - solve(f)|| / ||u|| is at most {worst:.1e}")
    return findings


def _repair(folder: Path, manifest: Manifest, findings: list[tuple[str, str]]) -> str:
    """Return what to do about damaged files."""
    from fmsci.config import parse
    from fmsci.errors import UserError
    from fmsci.files import read_json
    from fmsci.generate.plan import Request, request_of
    from fmsci.shards.check import FOREIGN
    from fmsci.shards.layout import MANIFEST, PLAN

    move = "move away what does not belong here"
    problems = {problem for _, problem in findings}
    if problems == {FOREIGN}:
        return move
    says = PLAN if (folder / PLAN).exists() else MANIFEST  # of the two, what says how the data are made
    try:
        request = parse(Request, read_json(folder / PLAN), str(folder / PLAN)) if says == PLAN else request_of(manifest)
    except UserError:
        return f"remove the folder and make the data again: {PLAN} does not say how"
    if request is None:
        again = "remove the folder and import the data again (fmsci data import)"
    else:
        again = f"{request.command(folder)} (it makes only what is bad or missing)"
        if any(file == says for file, _ in findings):
            again = f"if {says} says what the data should be: {again}"
    return f"{move}, then: {again}" if FOREIGN in problems else again


@app.command()
def info(
    folder: Folder,
    sheet: Annotated[Path | None, typer.Option(help="where the picture goes; contact_sheet.png in the folder")] = None,
    json_: AsJson = False,
) -> None:
    """Print what a data folder holds and draw some of its samples."""
    from fmsci.pde import SYSTEMS
    from fmsci.shards import read_manifest
    from fmsci.shards.layout import MEANINGS, SHEET
    from fmsci.terminal import say, table

    manifest = read_manifest(folder)
    made = "imported" if manifest.seed is None else f"seed {manifest.seed}"
    say(f"{folder}: {manifest.title}, grid {manifest.grid} x {manifest.grid}, {made}, by {manifest.provenance.program}")
    rows = [
        [split, f"{manifest.splits[split].count:,}", name, *(f"{value:.4g}" for value in (s.min, s.mean, s.max, s.std))]
        for split, statistics in manifest.statistics.items()
        for name, s in statistics.items()
    ]
    table("Samples", ["split", "samples", "figure", "min", "mean", "max", "std"], rows)
    of_system = SYSTEMS[manifest.system].figures if manifest.system in SYSTEMS else {}
    for name, meaning in {**MEANINGS, **of_system}.items():
        if any(name in statistics for statistics in manifest.statistics.values()):
            say(f"  {name}: {meaning}")
    if manifest.acceptance:
        drawn = [
            [v, f"{a.drawn:,}", f"{a.accepted:,}", _share(a.accepted, a.drawn)] for v, a in manifest.acceptance.items()
        ]
        table("Accepted draws, by the whole part of the coefficient", ["value", "drawn", "accepted", "share"], drawn)
    picture = sheet or folder / SHEET
    _draw_sheet(folder, manifest, picture)
    say(f"pictures of the first samples: {picture}")
    if json_:
        say(manifest.model_dump_json())


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _draw_sheet(folder: Path, manifest: Manifest, path: Path) -> None:
    """Publish a contact sheet of the first samples of the first split."""
    import numpy as np

    from fmsci.figures import contact_sheet, save_figure
    from fmsci.shards import open_split

    split = next(iter(manifest.splits))
    reader = open_split(folder, split)
    fields, tensor, _ = reader.gather(np.arange(min(SAMPLES_ON_SHEET, len(reader))))
    captions = [", ".join(f"{n} {v:.3g}" for n, v in zip(manifest.columns, row, strict=True)) for row in tensor]
    save_figure(contact_sheet(fields, captions, f"{manifest.title}, {split}"), path)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="HDF5 files in the paper's layout")],
    system: Annotated[str, typer.Option(help="poisson, advection_diffusion or helmholtz")],
    output: Annotated[Path, typer.Option(help="the data folder to write")],
    split: Annotated[str | None, typer.Option(help="train, valid or test; else the files' names tell")] = None,
    range_: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="LO HI; else the smallest that holds all samples")
    ] = None,
    shard_samples: Annotated[int, typer.Option(min=1, help="samples in one file of the data folder")] = 256,
    json_: AsJson = False,
) -> None:
    """Take in data that another program made.

    Every sample is solved again and must agree to 1e-5.
    """
    from fmsci.errors import UserError, nearest
    from fmsci.generate.adopt import import_files, split_of
    from fmsci.pde import SYSTEMS
    from fmsci.shards.foreign import open_samples
    from fmsci.shards.layout import SPLITS
    from fmsci.terminal import Progress, say

    if system not in SYSTEMS:
        raise UserError(f"--system is '{system}'{nearest(system, SYSTEMS)} but should be one of {', '.join(SYSTEMS)}")
    if split is not None and split not in SPLITS:
        raise UserError(f"--split is '{split}'{nearest(split, SPLITS)} but should be one of {', '.join(SPLITS)}")
    by_split: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for path in files:
        by_split[split or split_of(path)].append(path)
    with Progress(f"import {system}", sum(open_samples(path, solved=True).count for path in files), "samples") as bar:
        manifest = import_files(by_split, SYSTEMS[system], output, range_, shard_samples, bar.update)
    worst = max(statistics["pair_error"].max for statistics in manifest.statistics.values())
    counts = ", ".join(f"{record.count:,} {name}" for name, record in manifest.splits.items())
    say(f"{output}: {manifest.title}, {counts} samples; ||u - solve(f)|| / ||u|| at most {worst:.1e}")
    if json_:
        say(manifest.model_dump_json())


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option(help="the folder to write")],
    to: Annotated[str, typer.Option(help="the layout: well, that of The Well")] = "well",
) -> None:
    """Write a data folder in another program's layout."""
    from fmsci.errors import UserError
    from fmsci.shards import read_manifest
    from fmsci.shards.well import export_well
    from fmsci.terminal import Progress, say

    if to != "well":
        raise UserError(f"--to is '{to}' but should be: well")
    total = sum(record.count for record in read_manifest(folder).splits.values())
    with Progress(f"export {folder}", total, "samples") as bar:
        export_well(folder, output, bar.update)
    say(f'{output}: read it with WellDataset(path="{output}", well_split_name="train", n_steps_input=0)')
