"""``fmsci predict``: a file of samples through a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmsci.cli.options import AsJson


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder, such as RUN/model")],
    given: Annotated[Path, typer.Option("--input", help="HDF5: fields (N, 1 or 2, ny, nx) and tensor (N, K)")],
    output: Annotated[Path, typer.Option("--output", help="the HDF5 file to write; a picture goes beside it")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict the solutions of a file of samples.

    Where the file has the solutions too: errors and a comparison.
    """
    import json

    from fmsci.library.model import load
    from fmsci.library.predict import predict_file
    from fmsci.shards.foreign import open_samples
    from fmsci.terminal import Progress, say, warn

    samples = open_samples(given)
    trained = load(model, device)
    with Progress(f"predict {given.name}", samples.count, "samples") as bar:
        result = predict_file(trained, given, output, bar.update)
    if result["outside"]:
        warn(f"{result['outside']}: the model {model} has not been measured there")
    if "rel_l2" in result:
        mean, median, largest = (result["rel_l2"][name] for name in ("mean", "median", "max"))
        say(
            f"relative L2 error over {result['count']:,} samples: mean {mean:.4f}, median {median:.4f}, "
            f"largest {largest:.4f} (sample {result['worst_sample']})"
        )
    else:
        say(f"{result['count']:,} samples; {given} has no solutions to measure against")
    say(f"predictions {output}, picture {result['picture']}")
    if as_json:
        say(json.dumps(result))
