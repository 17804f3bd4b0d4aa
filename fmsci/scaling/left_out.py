"""How well the cost model foretells steps that its links were not fitted to: cross-validation over measured points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fmsci.config.scaling import NetworkSettings
from fmsci.scaling.fit import bare_s, fit, fit_links
from fmsci.scaling.measured import Measured


@dataclass(frozen=True)
class Foretold:
    """A measured step and what was projected for it, in seconds.

    ``projected_s``: all of it from the model; ``exchange_only_s``: the exchange from the model, the computing as those
    ranks did it without any exchange.
    """

    one: Measured
    projected_s: float
    exchange_only_s: float


def left_out(measured: Sequence[Measured], network: NetworkSettings | None = None) -> dict[str, list[Foretold]]:
    """Return how well steps are foretold that the links were not fitted to.

    Three ways: each pair of world size and link speed left out in turn, each world size, each speed. How crowded the
    ranks are on shared cores is always known, from their steps without any exchange.
    """
    apart = fit(measured, network)
    several = [one for one in measured if one.point.world_size > 1]
    keys: dict[str, Callable[[Measured], object]] = {
        "world size and link speed": lambda one: (one.point.world_size, one.point.limit_mbit),
        "world size": lambda one: one.point.world_size,
        "link speed": lambda one: one.point.limit_mbit,
    }
    found: dict[str, list[Foretold]] = {}
    for name, key in keys.items():
        groups = {key(one) for one in several}
        for group in sorted(groups, key=repr) if len(groups) > 1 else []:
            kept = [one for one in several if key(one) != group]
            kinds = {known.nodes > 1 for known in kept}
            model = fit_links(apart, kept)
            for one in several:
                if key(one) == group and (one.nodes > 1) in kinds:
                    step = model.estimate(one.point, one.nodes)
                    own = bare_s(one, apart) + one.wait_s + step.exchange_s
                    found.setdefault(name, []).append(Foretold(one, step.step_s, own))
    return found
