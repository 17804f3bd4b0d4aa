"""The figures of a stretch of steps, by hand: two ranks, of which the second waits for the first."""

from types import SimpleNamespace

import pytest
import torch

from fmsci.model.sizes import Architecture
from fmsci.train.pace import Pace

GIB = float(1 << 30)


def at(step, samples_seen):
    return SimpleNamespace(step=step, samples_seen=samples_seen)


@pytest.fixture
def job(monkeypatch):
    """Rank 0 of two: its clock, what both ranks tell of the stretch, and a device of a billion operations a second."""
    clock = SimpleNamespace(now=10.0)
    ranks = [[2.0, 0.5, 0.2, 3 * GIB], [2.0, 0.1, 1.2, GIB]]  # seconds, of them for data, for others; bytes
    monkeypatch.setattr("fmsci.train.pace.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("fmsci.train.pace.by_rank", lambda values, device: torch.tensor(ranks, dtype=torch.float64))
    monkeypatch.setattr("fmsci.train.pace.product_rate", lambda device, precision: 1e9)
    return SimpleNamespace(
        clock=clock,
        ranks=ranks,
        device=torch.device("cpu"),
        settings=SimpleNamespace(engine=SimpleNamespace(precision="fp32")),
        architecture=Architecture(4, 4, 2),
        loader=SimpleNamespace(samples=SimpleNamespace(grid=16), wait_s=7.0),
        engine=SimpleNamespace(watch=SimpleNamespace(take_wait_s=lambda: 0.2)),
    )


def test_the_figures_of_a_stretch(job):
    pace = Pace(job, at(6, 100))
    pace.prepare()
    job.clock.now, job.loader.wait_s = 12.0, 7.5
    operations = 3 * job.architecture.flops(16, 16)  # of a sample, with its backward pass
    assert pace.read(at(10, 132)) == pytest.approx(
        {
            "perf/samples_per_s": 16.0,
            "perf/step_ms": 500.0,
            "perf/data_wait": 0.25,
            "perf/data_wait_pct": (25 + 5) / 2,
            "perf/comm_pct": (10 + 60) / 2,
            "memory/peak_gib": 3.0,
            "perf/ranks": 2.0,
            "perf/slowest_rank": 0.0,
            "perf/slowest_rank_ms": 450.0,
            "perf/fastest_rank": 1.0,
            "perf/fastest_rank_ms": 200.0,
            "perf/flops_utilisation": 16 * operations / 2e9,
        }
    )


def test_each_stretch_begins_where_the_last_one_ended(job):
    pace = Pace(job, at(0, 0))
    job.clock.now, job.loader.wait_s = 12.0, 7.5
    assert "perf/flops_utilisation" not in pace.read(at(4, 32))  # nobody measured the device
    job.clock.now, job.loader.wait_s = 13.0, 7.6
    found = pace.read(at(5, 40))
    assert (found["perf/samples_per_s"], found["perf/step_ms"]) == pytest.approx((8.0, 1000.0))
    assert found["perf/data_wait"] == pytest.approx(0.1)
