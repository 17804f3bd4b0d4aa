"""What the tests of jobs read from a run folder, and settings of a run that is long enough to be stopped."""

import json
import re

LONG = ["optim.epochs=100", "checkpoint.every_steps=25", "checkpoint.every_epochs=null", "monitor.validate_steps=300"]
"""300 steps, some seconds on two nodes: long enough to be stopped in the middle."""


def result(run):
    return json.loads((run / "result.json").read_text())


def steps(run):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["step"] for entry in entries if "train/loss" in entry]


def losses(run):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["train/loss"] for entry in entries if "train/loss" in entry]


def continued_after(log, run, at_least):
    """Return the step after which a run was continued, once: not from the start, and not before ``at_least``."""
    (step,) = map(int, re.findall(rf"continuing {run} after step (\d+)\n", log))
    assert step >= at_least > 0
    return step
