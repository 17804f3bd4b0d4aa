"""What each of thousands of ranks asks the one store that they share, and what it fetches from its device."""

import json
from collections import Counter

import pytest
import torch
import torch.distributed as dist

from fmsci.config.sections import DataSettings
from fmsci.dataset.build import build_data
from fmsci.engine import collective, group
from fmsci.engine.collective import by_rank, read_by_main
from fmsci.errors import Lost, UserError
from fmsci.train.build import shared_scales
from fmsci.world import World

RANKS = 4096


class CountingStore:
    """A store that knows how often it was asked."""

    def __init__(self, keys=()):
        self.keys, self.asked = dict.fromkeys(keys, b"host"), Counter()

    def set(self, key, value):
        self.asked["set"] += 1
        self.keys[key] = value.encode()

    def get(self, key):
        self.asked["get"] += 1
        return self.keys[key]

    def add(self, key, count):
        self.asked["add"] += 1
        self.keys[key] = self.keys.get(key, 0) + count
        return self.keys[key]

    def check(self, keys):
        self.asked["check"] += 1
        return all(key in self.keys for key in keys)

    def wait(self, keys, limit):
        self.asked["wait"] += 1
        if not all(key in self.keys for key in keys):
            raise RuntimeError("wait timeout")


def rank_of_many(rank):
    return World(rank, RANKS, 0, 4, "srun", f"node{rank // 4}", "node0", 29500)


def test_a_rank_asks_a_handful_of_questions_to_meet_thousands(monkeypatch):
    store = CountingStore()
    store.set("hosts", json.dumps([f"node{rank // 4}" for rank in range(RANKS)]))
    monkeypatch.setattr(group, "TCPStore", lambda *given, **how: store)
    assert group._meet(rank_of_many(17), 60.0) is store
    assert store.asked.total() < 10
    assert group._Meeting.hosts[4095] == "node1023"


def test_rank_0_tells_all_who_is_where(monkeypatch):
    store = CountingStore(f"host/{rank}" for rank in range(1, RANKS))
    monkeypatch.setattr(group, "TCPStore", lambda *given, **how: store)
    group._meet(rank_of_many(0), 60.0)
    assert json.loads(store.get("hosts")) == ["node0", *["host"] * (RANKS - 1)]


def test_a_node_that_is_missing_is_found_by_halves():
    store = CountingStore(f"host/{rank}" for rank in range(RANKS) if rank not in range(512, 520))
    assert group.without(store, "host", range(RANKS)) == list(range(512, 520))
    assert store.asked["check"] < 50


def test_many_ranks_that_never_come_are_not_all_named(monkeypatch):
    store = CountingStore()
    monkeypatch.setattr(group, "TCPStore", lambda *given, **how: store)
    with pytest.raises(UserError, match=r"rank 1, 2, 3, 4, 5, 6, 7, 8 and 4087 more never came in 60 s"):
        group._meet(rank_of_many(0), 60.0)


@pytest.mark.parametrize("first", [True, False])
def test_of_thousands_that_notice_a_lost_node_one_finds_out_which(monkeypatch, first):
    store = CountingStore(f"noticed/{rank}" for rank in range(RANKS) if rank not in range(512, 528))
    store.keys["noticed"] = RANKS - 17
    if not first:
        store.keys |= {"silent/asked": 1, "silent": json.dumps([*range(512, 528)]).encode()}
    monkeypatch.setattr(group, "GRACE_S", 0.0)
    monkeypatch.setattr(group._Meeting, "store", store)
    monkeypatch.setattr(group._Meeting, "hosts", tuple(f"node{rank // 4}" for rank in range(RANKS)))
    told = group.lost_rank(RuntimeError("Connection closed by peer"), rank_of_many(17))
    assert isinstance(told, Lost)
    assert "from rank 512 on node128, " in str(told)
    assert "rank 519 on node129 and 8 more, noticed by rank 17 on node4;" in str(told)
    assert store.asked.total() < (60 if first else 10)


def test_a_rank_that_notices_late_is_not_among_the_lost(monkeypatch):
    """The first to notice waits for the others so long only; they hear of it by its end."""
    store = CountingStore(f"noticed/{rank}" for rank in (0, 1, 3, 4))
    store.keys |= {"noticed": 4, "silent/asked": 2, "silent": json.dumps([2, 4, 5]).encode(), "ended": 0}
    monkeypatch.setattr(group._Meeting, "store", store)
    monkeypatch.setattr(group._Meeting, "hosts", tuple(f"node{rank}" for rank in range(6)))
    told = group.lost_rank(RuntimeError("Connection closed by peer"), World(5, 6, 0, 1, "srun", "node5", "node0", 1))
    assert "no sign of life from rank 2 on node2, noticed by rank 5 on node5;" in str(told)
    assert store.keys["silent/heard"] == 1


def test_what_rank_0_does_first_no_collective_waits_for(monkeypatch):
    order, store = [], CountingStore()
    monkeypatch.setattr(group._Meeting, "store", store)
    with pytest.raises(RuntimeError, match="wait timeout"), group.main_first(rank_of_many(3), "scales"):
        order.append("too early")
    with pytest.raises(UserError), group.main_first(rank_of_many(0), "scales"):
        raise UserError("a mistake")
    with group.main_first(rank_of_many(3), "scales"):  # which the next collective tells of
        order.append("after rank 0")
    assert order == ["after rank 0"]


def test_what_all_ranks_tell_is_fetched_in_one_piece():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = by_rank([1.0, 2.5], torch.device("cpu"))
    finally:
        dist.destroy_process_group()
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == by_rank([1.0, 2.5], torch.device("cpu")).tolist() == [[1.0, 2.5]]


def test_what_rank_0_reads_no_other_rank_reads(monkeypatch):
    def read():
        raise AssertionError("terabytes, of a thousand ranks")

    monkeypatch.setattr(collective, "total", lambda values, device: [0.0, 1.0])
    monkeypatch.setattr(dist, "broadcast", lambda tensor, src: tensor.fill_(7.0))
    shapes = {"a": (2, 3), "b": ()}
    found = dict(read_by_main(rank_of_many(3), torch.device("cpu"), shapes, read))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert all(bool((tensor == 7.0).all()) for tensor in found.values())
    monkeypatch.setattr(collective, "total", lambda values, device: [0.0, 0.0])  # there are none
    assert dict(read_by_main(rank_of_many(3), torch.device("cpu"), shapes, read)) == {}


def test_the_scales_of_a_mixture_are_measured_by_one_rank(monkeypatch, poisson_data):
    data = build_data(DataSettings(mixture=[{"path": poisson_data, "weight": 1.0}]))
    own = data.scales()
    told = [own.source, *own.coefficients.values()]
    monkeypatch.setattr(collective, "total", lambda values, device: [0.0, *told])
    assert shared_scales(rank_of_many(0), torch.device("cpu"), data) == own

    def fails(data):
        raise MemoryError("too many samples")

    failed = []
    monkeypatch.setattr(type(data), "scales", fails)
    monkeypatch.setattr(collective, "total", lambda values, device: failed.append(values[0]) or values)
    with pytest.raises(MemoryError):
        shared_scales(rank_of_many(0), torch.device("cpu"), data)
    assert failed == [1.0]  # the others are told first
    monkeypatch.setattr(collective, "total", lambda values, device: [0.0, *told])
    monkeypatch.setattr(type(data), "scales", None)
    assert shared_scales(rank_of_many(3), torch.device("cpu"), data) == own
