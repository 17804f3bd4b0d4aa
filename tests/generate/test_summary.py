"""Statistics that come piece by piece, and scales."""

import numpy as np
import pytest

from fmsci.config import GenerateSettings, parse
from fmsci.generate import generate, summary
from fmsci.generate.summary import Spread, build_scales
from fmsci.generate.tally import Tally
from fmsci.world import World


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_spread_is_that_of_the_whole(pieces):
    values = np.random.default_rng(0).normal(5, 2, 1000)
    values[::9] = np.nan
    spread = Spread()
    for part in (*np.array_split(values, pieces), np.full(3, np.nan)):
        spread.merge(Spread.of(part))
    known = values[~np.isnan(values)]
    found = spread.statistic()
    assert (found.min, found.max) == (known.min(), known.max())
    assert found.mean == pytest.approx(known.mean(), rel=1e-14)
    assert found.std == pytest.approx(known.std(), rel=1e-12)


def test_whoever_read_the_shards_the_manifest_is_the_same(tmp_path, monkeypatch):
    """Each rank of a generation reads its own: rank 0 would need minutes for those of all."""
    request = {"system": "helmholtz", "range": [1, 3], "grid": 16, "train": 22, "valid": 3, "test": 3}
    given = {**request, "shard_samples": 5, "output": str(tmp_path)}
    manifest = generate(parse(GenerateSettings, given, "here"), World())
    records = [record for split in manifest.splits.values() for record in split.shards]
    parts = [summary.summarize(tmp_path, manifest.facts, one, one.split == "train") for one in reversed(records)]
    monkeypatch.setattr(summary, "read_datasets", None)
    found = summary.merge(manifest.facts, 5, summary.in_order(parts))
    assert found.model_copy(update={"provenance": manifest.provenance}) == manifest


def test_scales_are_medians_of_sizes_that_are_not_zero():
    columns = {"k12": np.array([-3.0, 0.0, 1.0, 2.0]), "v1": np.zeros(4)}
    scales = build_scales(np.array([1.0, 2.0, 4.0]), columns)
    assert scales.source == 2
    assert scales.coefficients == {"k12": 2.0, "v1": 1.0}


def test_a_value_that_float32_rounds_out_of_its_range_is_counted_at_its_end():
    low, high = 9.99999999, 9.99999999
    values = np.array([low, high], np.float32)
    assert values.max() == 10.0
    tally = Tally(low, high)
    tally.add(values, values[:1])
    assert tally.table.tolist() == [[9, 2, 1]]
