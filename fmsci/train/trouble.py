"""What goes wrong on rank 0 while the others compute: kept until all ranks are where it can be raised on all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Trouble:
    """The first thing that rank 0 could not write. Raised there alone, it would leave the others in a collective."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def happened(self) -> bool:
        """Tell whether there is any, as far as this rank knows."""
        return self.error is not None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what goes wrong within the block."""
        try:
            yield
        except Exception as error:  # whatever it is: the ranks are told, and end with it
            self.error = self.error or error

    def told(self) -> float:
        """Raise it; for ``decided_by_main``."""
        if self.error is not None:
            raise self.error
        return 0.0
