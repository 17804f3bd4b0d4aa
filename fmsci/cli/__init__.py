"""The verbs: each reads settings and calls one function. Heavy imports wait until a verb runs."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fmsci import __version__
from fmsci.cli import data, doctor, generate, model, predict, scaling, status, study, submit, train, watch, worker
from fmsci.errors import EXIT_FAILURE, EXIT_MISTAKE, EXIT_REQUEUE, Failure, Interrupted, SettingsError, UserError
from fmsci.terminal import flush, print_error, warn
from fmsci.world import World, detect_world, ignore_signals, postpone_garbage

# Click's UsageError, wherever this version of typer keeps it: a wrong option, a missing argument.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

NOT_OURS_TO_USE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
    errno.EROFS,
}
"""What the system says of a path that the user should not have named, wherever it is first touched."""

app = typer.Typer(
    help="From equations to a pretrained, fine-tuned and measured neural operator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"fmsci {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="print the version and end")
    ] = False,
) -> None:
    """From equations to a pretrained, fine-tuned and measured neural operator."""


app.command("generate")(generate.generate)
app.command("train")(train.train)
app.command("evaluate")(train.evaluate)
app.command("predict")(predict.predict)
app.command("study")(study.study)
app.command("scaling")(scaling.scaling)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit.submit)
app.command("status", context_settings={"ignore_unknown_options": True})(status.status)
app.command("watch")(watch.watch)
app.command("doctor")(doctor.doctor)
app.command("worker", hidden=True)(worker.worker)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")


def main(words: Sequence[str] | None = None) -> None:
    """Run a verb, that of the command line where none is given; always ends in SystemExit or an error nobody foresaw.

    A user's mistake is one sentence on stderr and exit code 2, a saved run exits with 75.
    """
    postpone_garbage()
    try:
        code = app(words, standalone_mode=False)
    except UsageError as error:
        context = error.ctx
        if context is not None and error.message == context.get_help():  # no verb was given: that is a question
            print(error.message)
            sys.exit(0)
        where = context.command_path if context else "fmsci"
        wrong = error.format_message().rstrip(".")
        if "'--range'" in wrong:
            wrong = "--range needs two numbers, LO HI, as in --range 1 5"
        _end(f"{wrong}; see '{where} --help'", EXIT_MISTAKE, told_by_all=True)
    except typer.Abort:
        _end("interrupted", 130, told_by_all=True)
    except UserError as error:
        _end(str(error), EXIT_MISTAKE, told_by_all=isinstance(error, SettingsError))
    except Failure as error:
        _end(str(error), EXIT_FAILURE)
    except OSError as error:
        if error.filename is None or error.errno not in NOT_OURS_TO_USE:
            _unexpected()
        _end(_unusable(error), EXIT_MISTAKE)
    except Interrupted as error:
        ignore_signals()  # the exit code is a promise
        _end(f"interrupted: {error}; start the same command again to continue", EXIT_REQUEUE, told_by_all=True)
    except KeyboardInterrupt:
        _end("interrupted", 130, told_by_all=True)
    except Exception:
        _unexpected()
    else:
        _leave(code if isinstance(code, int) else 0)


def _unusable(error: OSError) -> str:
    """Say why a path does not serve, and which part of it is the file where a folder should be."""
    path = Path(str(error.filename))
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        for place in (path, *path.parents):
            if place.is_file():
                return f"{place} is a file, not a folder; give another path"
    return f"cannot use {path}: {error.strerror}; give another path"


def _end(sentence: str, code: int, told_by_all: bool = False) -> NoReturn:
    """Print one line and exit. What every rank finds alike (``told_by_all``) is left to rank 0."""
    line = " ".join(sentence.splitlines())
    world = _world()
    if not world.is_main:
        line = f"rank {world.rank} on {world.host}: {line}"
    if world.is_main or not told_by_all:
        warn(line)
    _leave(code)


def _unexpected() -> NoReturn:
    """End with the traceback of the error under way; among several ranks each of its lines says whose it is."""
    world = _world()
    if world.size == 1:
        raise
    place = f"rank {world.rank} on {world.host}: "
    print_error("".join(f"{place}{line}\n" for line in traceback.format_exc().splitlines()))
    _leave(EXIT_FAILURE)


def _leave(code: int) -> NoReturn:
    """End the process with an exit code.

    After training on several ranks it ends at once: DDP never lets go of its process group (torch 2.13), so gloo's
    threads are still there while Python takes itself apart, and in one run of some twenty they abort the process.
    """
    if "torch.distributed" in sys.modules and _world().size > 1:
        flush()
        os._exit(code)
    sys.exit(code)


def _world() -> World:
    try:
        return detect_world()
    except UserError:
        return World()
