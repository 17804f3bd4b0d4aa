"""Caches: the same bits as storage, read from it at most once, and a training run that cannot tell the difference."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmsci.config import TrainSettings, load_settings
from fmsci.dataset import cache
from fmsci.dataset.cache import DeviceCache, HostCache, cached
from fmsci.dataset.samples import SampleSet
from fmsci.errors import UserError
from fmsci.train.run import run_training
from fmsci.world import World
from tests.commands import run
from tests.conftest import TRAINING

CPU = torch.device("cpu")


class Counted:
    """A sample set that notes which samples were asked for."""

    def __init__(self, source):
        self.source, self.asked = source, []
        self.columns, self.grid, self.order = source.columns, source.grid, source.order

    def __len__(self):
        return len(self.source)

    def gather(self, indices, pin=False):
        self.asked += indices.tolist()
        return self.source.gather(indices, pin)


@pytest.fixture
def counted(poisson_data):
    return Counted(SampleSet(poisson_data, "train"))


@pytest.mark.parametrize("kind", [HostCache, lambda source: DeviceCache(source, CPU)], ids=["host", "device"])
def test_a_cache_gives_the_bits_and_the_layout_of_storage(counted, kind):
    kept = kind(counted)
    for numbers in ([4, 0, 12], [4], [12, 12, 1, 4], list(range(13))):
        numbers = np.array(numbers)
        given, expected = kept.gather(numbers), counted.source.gather(numbers)
        for name in ("fields", "coefficients", "source", "solution"):
            assert torch.equal(getattr(given, name), getattr(expected, name))
            assert getattr(given, name).stride() == getattr(expected, name).stride()
    assert (len(kept), kept.grid, kept.columns) == (13, 16, counted.columns)


def test_the_host_cache_reads_what_is_asked_for_and_that_once(counted):
    kept = HostCache(counted)
    assert counted.asked == []
    kept.gather(np.array([5, 3, 5]))
    kept.gather(np.array([3, 7]))
    assert counted.asked == [3, 5, 7]
    for epoch in range(3):
        kept.gather(kept.order(0, epoch))
    assert sorted(counted.asked) == list(range(13))


@pytest.mark.parametrize("bound", [{"PIECE": 4}, {"PIECE_BYTES": 3 * 8 * 16**2}, {"PIECE_BYTES": 1}])
def test_the_device_cache_reads_everything_once_when_first_needed(counted, monkeypatch, bound):
    for name, most in bound.items():
        monkeypatch.setattr(cache, name, most)
    gathered, gather = [], counted.gather
    monkeypatch.setattr(counted, "gather", lambda numbers: gathered.append(len(numbers)) or gather(numbers))
    kept = DeviceCache(counted, CPU)
    assert counted.asked == []
    for epoch in range(3):
        kept.gather(kept.order(0, epoch))
    assert counted.asked == list(range(13))
    assert max(gathered) == (4 if "PIECE" in bound else 3 if bound["PIECE_BYTES"] > 1 else 1)


def test_a_cache_that_does_not_fit_is_a_sentence(counted, monkeypatch):
    assert cached(counted, "none", CPU, 1) is counted
    assert isinstance(cached(counted, "host", CPU, 1), HostCache)
    monkeypatch.setattr(cache.os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 50}.get)
    assert isinstance(cached(counted, "device", CPU, 1), DeviceCache)  # 26.2 KiB of 50
    sentence = (
        r"data.cache=host takes 26.2 KiB but this host has 25.0 KiB for each of 2 process\(es\); use data.cache=none"
    )
    with pytest.raises(UserError, match=sentence):
        cached(counted, "host", CPU, 2)


def final_bits(folder):
    """Return everything that a run learned: the best model, the last weights and optimizer state, the curve."""
    (last,) = [path for path in (folder / "checkpoints").iterdir() if path.name.endswith("12")]
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    curve = [{key: value for key, value in line.items() if not key.startswith(("perf/", "memory/"))} for line in lines]
    files = (folder / "model" / "model.safetensors", last / "model.safetensors", last / "optimizer.safetensors")
    return [{name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()} for path in files], curve


@pytest.mark.parametrize(
    ("kind", "prefetch"), [("none", 0), ("host", 2), ("host", 0), ("device", 2), ("device", 0), ("none", 7)]
)
def test_training_is_bit_identical_for_every_cache_and_with_or_without_prefetch(
    trained, train_config, tmp_path, kind, prefetch
):
    own = [f"run={tmp_path / 'run'}", *TRAINING, f"data.cache={kind}", f"data.prefetch={prefetch}"]
    run_training(load_settings(TrainSettings, train_config, own), World(), CPU)
    assert final_bits(tmp_path / "run") == final_bits(trained)


@pytest.mark.distributed
def test_three_ranks_train_the_same_with_another_cache(train_config, tmp_path):
    for name, own in (("plain", ["data.prefetch=0"]), ("kept", ["data.cache=host"])):
        run(["train", train_config, f"run={tmp_path / name}", *TRAINING, *own], ranks=3)
    assert final_bits(tmp_path / "kept") == final_bits(tmp_path / "plain")


def test_a_restart_may_choose_another_cache(trained, train_config):
    own = [f"run={trained}", *TRAINING, "data.cache=host", "data.prefetch=0"]
    result = run_training(load_settings(TrainSettings, train_config, own), World(), CPU)
    assert result["steps"] == 12
