"""``fmsci model``: look at model folders, take the paper's checkpoints in, export and publish them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmsci.cli.options import AsJson

if TYPE_CHECKING:
    from fmsci.model.scales import Scales
    from fmsci.model.training_range import TrainingRange

app = typer.Typer(
    help="Look at model folders; import, export and publish models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder, such as RUN/model")]


@app.command()
def info(folder: Folder, json_: AsJson = False) -> None:
    """Check a model folder and print what it is and its errors.

    Its weights are read too; and what it was trained on is told.
    """
    from fmsci.model_folder.reading import open_model_folder
    from fmsci.model_folder.weights import load_operator
    from fmsci.terminal import say, table

    opened = open_model_folder(folder)
    load_operator(folder)
    config = opened.config
    arch = config.architecture
    say(
        f"{folder}: Fourier neural operator, {config.num_parameters:,} parameters (width {arch.width}, modes "
        f"{arch.modes}, {arch.layers} layers), needs a grid of at least {2 * arch.modes} x {2 * arch.modes}"
    )
    rows = [[name, str(value)] for name, value in config.trained_on.items() if value is not None]
    measured = config.measured.items()
    rows += [[name, f"{value:.4g}" if isinstance(value, float) else str(value)] for name, value in measured]
    ranges = opened.training_range
    if ranges is not None:
        rows.append(["systems, grid", f"{', '.join(ranges.systems)}, {ranges.grid} x {ranges.grid}"])
        rows += [[name, f"{low:.4g} to {high:.4g}"] for name, (low, high) in ranges.coefficients.items()]
        rows.append(["L2 norm of the source", "{:.4g} to {:.4g}".format(*ranges.source_norm)])
    table("Trained on, measured, range of the training data", ["fact", "value"], rows)
    if json_:
        say(config.model_dump_json())


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="a checkpoint of the paper's code, ckpt.tar")],
    system: Annotated[str, typer.Option(help="poisson, advection_diffusion or helmholtz")],
    output: Annotated[Path, typer.Option(help="the model folder to write")],
    scales: Annotated[Path | None, typer.Option(help="the scales of its training data, ..._scales.npy")] = None,
    data: Annotated[Path | None, typer.Option(help="or the training data themselves, as a data folder")] = None,
    grid: Annotated[int, typer.Option(min=1, help="grid of its training data, with --scales")] = 128,
) -> None:
    """Take in a checkpoint of the paper's code.

    It is read without running anything in it.
    """
    from fmsci.errors import UserError, nearest
    from fmsci.library.adopt import adopt_checkpoint
    from fmsci.pde import SYSTEMS
    from fmsci.terminal import say

    if system not in SYSTEMS:
        raise UserError(f"--system is '{system}'{nearest(system, SYSTEMS)} but should be one of {', '.join(SYSTEMS)}")
    found, described, ranges = _trained_with(system, scales, data, grid)
    count = adopt_checkpoint(checkpoint, output, system, found, described, ranges)
    say(f"{output}: {count:,} parameters, from {checkpoint}")
    say(f"next: fmsci evaluate {output} --data {data or 'DATA'}")


def _trained_with(
    system: str, scales: Path | None, data: Path | None, grid: int
) -> tuple[Scales, str, TrainingRange | None]:
    """Return the scales of the training data, those data in words, and their range where it is known."""
    from fmsci.dataset.build import Data
    from fmsci.dataset.samples import SampleSet
    from fmsci.errors import UserError
    from fmsci.library.adopt import read_scales

    if (scales is None) == (data is None):
        raise UserError("the model needs the scales of its training data: give one of --scales and --data")
    if scales is not None:
        return read_scales(scales, system, grid), f"the paper's, with the scales of {scales.name}", None
    assert data is not None
    train = SampleSet(data, "train")
    if train.manifest.system != system:
        raise UserError(f"{data} holds {train.manifest.system}, not {system}; give its training data")
    trained_on = Data(train, {})
    return trained_on.scales(), str(data), trained_on.training_range


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option(help="the file to write, such as model.pt2")],
    grid: Annotated[
        tuple[int, int] | None, typer.Option(help="NY NX; else the grid of the training data", min=1)
    ] = None,
) -> None:
    """Write a torch.export program, which runs without fmsci.

    Wherever torch does, on one grid and any batch.
    """
    from fmsci.library.export import export_model
    from fmsci.terminal import say

    ny, nx = export_model(folder, output, grid)
    say(f"{output}: source (B, {ny}, {nx}) and coefficients (B, K) to solution (B, {ny}, {nx}), float32")
    say(f'run it with: torch.export.load("{output}").module()(source, coefficients)')


@app.command()
def push(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="the model's name on the hub")],
    hub: Annotated[Path | None, typer.Option(help="a folder that serves as hub; else the Hugging Face Hub")] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new repository of the hub public")] = False,
) -> None:
    """Publish a model folder: its four files, checked."""
    from fmsci.library.share import push as publish
    from fmsci.terminal import say

    say(f"{folder} is at {publish(folder, name, hub, private=not public)}")
    say('load it with: fmsci.from_hub("{}"{})'.format(name, "" if hub is None else f', hub="{hub}"'))
