"""One HDF5 file of predictions, for ``fmsci predict``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fmsci import __version__
from fmsci.shards.foreign import Array
from fmsci.shards.whole import publish_hdf5

PREDICTION, ERROR = "prediction", "rel_l2"

Write = Callable[[int, Array, "Array | None"], None]


@contextmanager
def write_predictions(
    path: Path, count: int, shape: tuple[int, int], columns: Sequence[str], with_error: bool, facts: dict[str, str]
) -> Iterator[Write]:
    """Yield a function that writes predictions (B, ny, nx) and errors (B,) from a sample on; publish at the end.

    The file has ``prediction (N, ny, nx)`` float32, in the order of the samples, ``rel_l2 (N,)`` where there is a
    truth, and ``facts`` as attributes. Raises UserError where it cannot be written.
    """
    with publish_hdf5(path) as (file, check):
        file.attrs.update({"columns": list(columns), "code_version": __version__, **facts})
        prediction = file.create_dataset(PREDICTION, (count, *shape), "<f4")
        errors = file.create_dataset(ERROR, (count,), "<f4") if with_error else None

        def write(first: int, values: Array, rel_l2: Array | None) -> None:
            prediction[first : first + len(values)] = values
            if errors is not None:
                errors[first : first + len(values)] = rel_l2
            check()

        yield write
