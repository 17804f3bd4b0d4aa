"""The time of a step from a few numbers: computing by size, links by latency and bandwidth, bytes by engine, overlap.

    step = computing + what exchanging adds beyond the computing that goes on beside it

Pure functions. The numbers come from measured points (:mod:`fmsci.scaling.fit`), or are assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmsci.engine.buckets import at_once, portions
from fmsci.engine.traffic import ROUNDS, payload
from fmsci.scaling.points import REPLAYED, Point

BACKWARD = 2 / 3
"""The backward pass's share of the computing: it has twice the products of the forward pass."""


@dataclass(frozen=True)
class Compute:
    """Forward and backward of B samples: fixed_s + sample_s B, but at least floor_s; and the optimizer's update.

    A GPU has a floor: small steps wait for the host, which launches the kernels.
    """

    floor_s: float
    fixed_s: float
    sample_s: float
    update_s: float

    def seconds(self, samples: float, pieces: int = 1) -> float:
        """Return the time of the samples of one rank, computed in so many pieces."""
        return pieces * max(self.floor_s, self.fixed_s + self.sample_s * samples / pieces)


@dataclass(frozen=True)
class Link:
    """One class of links: inside a node (each rank's own), or between nodes (each node's).

    A byte takes byte_s, and limited / rate more where the link is limited to a known rate. ``overlap`` is 1 where
    exchanging goes on wholly beside the backward pass, 0 where it begins only at its end.
    """

    latency_s: float
    byte_s: float
    limited: float = 1.0
    overlap: float = 0.0
    measured: bool = False

    def per_byte(self, limit_mbit: float | None) -> float:
        """Return seconds a byte."""
        return self.byte_s + (0.0 if limit_mbit is None else self.limited / (limit_mbit * 125e3))


@dataclass(frozen=True)
class Estimate:
    """A projected step: computing, what exchanging adds, and their sum, in seconds."""

    compute_s: float
    exchange_s: float

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.compute_s + self.exchange_s

    @property
    def communication(self) -> float:
        """Share of the step that exchanging adds."""
        return self.exchange_s / self.step_s


@dataclass(frozen=True)
class CostModel:
    """All numbers. ``compute``: by :attr:`fmsci.scaling.measured.Measured.computing`.

    ``crowd``: by the number of ranks, how much longer they compute when all do at once.
    ``zero``: seconds that DeepSpeed takes of every step, and of every parameter in it, for itself.
    """

    compute: Mapping[tuple[str, ...], Compute]
    inside: Link | None = None
    between: Link | None = None
    crowd: Mapping[int, float] = field(default_factory=dict)
    zero: tuple[float, float] = (0.0, 0.0)
    rounds: str = "ring"
    on_gpu: bool = False

    def estimate(self, point: Point, nodes: int) -> Estimate:
        """Return the time of a step. KeyError where its computing, or a class of links, is not known."""
        key = self.key(point)
        own = self.compute[key]
        crowd = self.crowding(point.world_size)
        cut = point.world_size if point.how.stage >= 1 else 1
        computing = crowd * own.seconds(point.local, point.how.accumulate)
        update = crowd * own.update_s / cut
        if point.how.kind == "zero":
            update += crowd * (self.zero[0] + self.zero[1] * point.shape.num_parameters)
        window = BACKWARD * computing / point.how.accumulate
        return Estimate(computing + update, self.exchange_s(point, nodes, window, point.replayed and REPLAYED in key))

    def key(self, point: Point) -> tuple[str, ...]:
        """Return which computing is that of a point: as its ranks would start it where that is measured."""
        plain, replayed = point.computing, (*point.computing, REPLAYED)
        first, second = (replayed, plain) if point.replayed else (plain, replayed)
        return second if second in self.compute and first not in self.compute else first

    def crowding(self, ranks: int) -> float:
        """Return the factor of so many ranks: as measured, else that of the nearest number measured."""
        if not self.crowd or ranks == 1:
            return 1.0
        return self.crowd[min(self.crowd, key=lambda known: (abs(known - ranks), known))]

    def exchange_s(self, point: Point, nodes: int, window_s: float, replayed: bool = False) -> float:
        """Return what exchanging adds to a step whose last backward pass takes ``window_s``.

        After a replay it goes in one piece, and nothing goes on beside it.
        """
        ranks, how = point.world_size, point.how
        if ranks == 1:
            return 0.0
        link = self.between if nodes > 1 else self.inside
        if link is None:
            raise KeyError("between" if nodes > 1 else "inside")
        whole = payload(how, point.shape.num_parameters, ranks)
        reduced = "reduce_scatter" if how.stage == 3 else "all_reduce"
        times = how.accumulate if how.stage >= 2 else 1
        parts = at_once(how, point.shape) if replayed else portions(how, point.shape)
        seconds = [self._collective_s(reduced, size, point, nodes) for size, _ in parts]
        overlap = link.overlap if how.kind == "ddp" or self.on_gpu else 0.0  # DeepSpeed overlaps on GPUs alone
        added = times * hidden([ready for _, ready in parts], seconds, window_s, overlap)
        if "all_gather" in whole:
            pieces = how.accumulate if how.stage == 3 else 1
            # the weights of stage 3 come layer by layer, those of stages 1 and 2 in one
            messages = point.shape.layers if how.stage == 3 else 1
            gather = self._collective_s("all_gather", whole["all_gather"] // pieces // messages, point, nodes)
            beside = overlap * window_s * (1 - 1 / messages)
            added += pieces * max(messages * gather - beside, gather)
        return added

    def _collective_s(self, kind: str, size: float, point: Point, nodes: int) -> float:
        """Return the time of one collective over ``size`` bytes: messages in a row, and bytes round the ring.

        Between nodes a ring crosses each node's link once; a tree has as many messages as its height.
        """
        ranks, rounds = point.world_size, ROUNDS[kind]
        if kind == "reduce_scatter" and not self.on_gpu:
            rounds = ROUNDS["all_reduce"]  # gloo has no other: it sums everything and keeps a part
        per_byte = self.inside.per_byte(None) if self.inside is not None and ranks > nodes else 0.0
        hops, latency = ranks - 1.0, self.inside.latency_s if self.inside is not None else 0.0
        if nodes > 1:
            assert self.between is not None
            per_byte = max(per_byte, self.between.per_byte(point.limit_mbit))
            wait = hops * self.between.latency_s
            if self.rounds == "tree" and kind == "all_reduce":
                wait = math.ceil(math.log2(nodes)) * self.between.latency_s + (ranks // nodes - 1) * latency
        else:
            wait = hops * latency
        return rounds * (wait + (ranks - 1) / ranks * size * per_byte)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {
            "compute": {" ".join(key): vars(value) for key, value in self.compute.items()},
            "inside": None if self.inside is None else vars(self.inside),
            "between": None if self.between is None else vars(self.between),
            "crowd": {str(ranks): factor for ranks, factor in self.crowd.items()},
            "zero": {"step_s": self.zero[0], "parameter_s": self.zero[1]},
            "rounds": self.rounds,
        }


def hidden(ready: list[float], seconds: list[float], window_s: float, overlap: float) -> float:
    """Return how long after the backward pass the last portion is there; each waits for the one before it.

    Portion i can begin when the share ``ready[i]`` of the pass is done, with overlap 1; at its end with overlap 0.
    """
    end = 0.0
    for share, took in zip(ready, seconds, strict=True):
        end = max(end, window_s * (1 - overlap * (1 - share))) + took
    return end - window_s
