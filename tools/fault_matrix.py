#!/usr/bin/env python
"""Break training and generation on purpose and see that nothing is lost: moment x fault x engine, two ranks each.

    python tools/fault_matrix.py                               all 78 cells, 15 to 25 s each on 2 cores
    python tools/fault_matrix.py --record cells.json --minutes 9   a part of them; again, and it goes on with the others
    python tools/fault_matrix.py --engine ddp zero2 --fault kill term --moment train
    python tools/fault_matrix.py --engine --fault damaged      generation alone

Every cell starts a run, waits for the moment, breaks it, starts the same command again until it is finished, and
compares the last checkpoint's weights and optimizer state, the best model and the curve, bit by bit, with those of a
run that nothing disturbed; for generation every file and the manifest. And it must see its fault: exit code and
sentence of the broken start, a stop in a validation inside it, a damaged checkpoint named by the second start, a lost
rank with its host by the rank that is left (which is started without mpiexec, as that would end it first).

Prints the tables of docs/reliability.md; fails where a cell does. ``--record`` keeps what came out and does not repeat
cells that held; with ``--minutes`` no cell begins later, and the exit code is 75 until all have been reached. A full
disk is a small file system in memory, for which the cell needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from fault_cell import SAVED, Subject, cell, disk, finish
from fault_subjects import generation, prepare, training

MOMENTS = ("train", "validate", "save")
FAULTS = ("kill", "term", "usr2", "disk-full", "damaged", "lost-rank")
ENGINES = {"ddp": ["engine.kind=ddp"]}
ENGINES |= {f"zero{stage}": ["engine.kind=zero", f"engine.zero_stage={stage}"] for stage in (1, 2, 3)}
NOT_REACHED = "not reached"
Key = tuple[str, str, str]


def main() -> int:
    """Run the chosen cells; return the exit code."""
    parser = argparse.ArgumentParser(description="Break training and generation on purpose; see that nothing is lost.")
    for name, choices in (("engine", ENGINES), ("fault", FAULTS), ("moment", MOMENTS)):
        parser.add_argument(f"--{name}", nargs="*", choices=choices, default=list(choices))
    parser.add_argument("--no-generation", dest="generation", action="store_false")
    parser.add_argument("--record", type=Path, help="a JSON file of what came out; cells that held are not repeated")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so many minutes")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = Cells(chosen.record, 60 * chosen.minutes)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        left = found.left(["generation"] * chosen.generation, ["generate"], chosen.fault)
        if left:
            whole = generation(base / "whole-data")
            finish(whole.arguments)
            for key in left:
                found.tell(key, generation(base / key[2] / "data"), whole)
        command = prepare(base) if found.left(chosen.engine, chosen.moment, chosen.fault) else []
        for engine in chosen.engine:
            left = found.left([engine], chosen.moment, chosen.fault)
            if not left:
                continue
            arguments = [*command, *ENGINES[engine]]
            whole = training(arguments, base / f"whole-{engine}", "train")
            finish(whole.arguments)
            for key in left:
                found.tell(key, training(arguments, base / "-".join(key) / "run", key[1]), whole)
    for columns, moments in ((["generation"] * chosen.generation, ["generate"]), (chosen.engine, chosen.moment)):
        if columns:
            show(found, columns, moments, chosen.fault)
    asked = [*keys(["generation"] * chosen.generation, ["generate"], chosen.fault)]
    asked += keys(chosen.engine, chosen.moment, chosen.fault)
    results = [found[key] for key in asked]
    if any(result not in (*SAVED, NOT_REACHED) for result in results):
        return 1
    return 75 if NOT_REACHED in results else 0


def keys(columns: list[str], moments: list[str], faults: list[str]) -> list[Key]:
    """Return the cells of a table."""
    return [(one, moment, fault) for one in columns for moment in moments for fault in faults]


class Cells:
    """What came out of each cell, kept in a file where one is given."""

    def __init__(self, record: Path | None, seconds: float) -> None:
        self._record, self._end = record, time.monotonic() + seconds
        kept = json.loads(record.read_text()) if record is not None and record.exists() else {}
        self._found: dict[str, str] = {name: said for name, said in kept.items() if said in SAVED}

    def __getitem__(self, key: Key) -> str:
        return self._found.get(" ".join(key), NOT_REACHED)

    def left(self, columns: list[str], moments: list[str], faults: list[str]) -> list[Key]:
        """Return the cells of a table that are still to be run; none when the time is over."""
        if time.monotonic() > self._end:
            return []
        return [key for key in keys(columns, moments, faults) if self[key] == NOT_REACHED]

    def tell(self, key: Key, subject: Subject, whole: Subject) -> None:
        """Run a cell, if there is time, and say what came out of it."""
        begun = time.monotonic()
        if begun > self._end:
            return
        with disk(subject.folder.parent, small=key[2] == "disk-full") as there:
            said = cell(subject, key[2], whole) if there else SAVED[1]
        print(f"{' '.join(key):32} {said} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
        self._found[" ".join(key)] = said
        if self._record is not None:
            aside = self._record.with_suffix(".new")
            aside.write_text(json.dumps(self._found, indent=1) + "\n")
            aside.replace(self._record)


def show(found: Cells, columns: list[str], moments: list[str], faults: list[str]) -> None:
    """Print a table."""
    print("| moment | fault | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for moment in moments:
        for fault in faults:
            print(f"| {moment} | {fault} | " + " | ".join(found[one, moment, fault] for one in columns) + " |")
    print()


if __name__ == "__main__":
    sys.exit(main())
