"""The three systems through the whole generator: bits, checks, acceptance, options."""

import json

import numpy as np
import pytest

from fmsci.config import GenerateSettings, parse
from fmsci.errors import UserError
from fmsci.generate import generate, samples
from fmsci.generate.draws import Stream
from fmsci.generate.plan import build_request
from fmsci.generate.samples import SampleMaker, WrongSampleError
from fmsci.pde import SYSTEMS, pair_error
from fmsci.shards import open_split, read_manifest
from fmsci.world import World
from tests.commands import run
from tests.generate.folders import contents

RANGES = {"poisson": "[1,2.5]", "advection_diffusion": "[0.2,1]", "helmholtz": "[1,10]"}


def request(system, **changes):
    given = {"system": system, "range": RANGES[system], "grid": 24, "train": 50, "valid": 9, "test": 8} | changes
    return [f"{key}={value}" for key, value in given.items()]


def make(folder, **settings):
    given = {"grid": 16, "train": 20, "valid": 2, "test": 2, "shard_samples": 8, "output": str(folder)} | settings
    return generate(parse(GenerateSettings, given, "here"), World())


@pytest.mark.mpi
@pytest.mark.parametrize("system", ["advection_diffusion", "helmholtz"])
def test_the_same_bits_for_any_ranks_shards_and_batches(tmp_path, system):
    run(["generate", *request(system, shard_samples=8), f"output={tmp_path / 'one'}"])
    run(["generate", *request(system, shard_samples=8), f"output={tmp_path / 'three'}"], ranks=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    run(["generate", *request(system, shard_samples=64), f"output={tmp_path / 'large'}"])
    for name in ("fields", "tensor", "residual", "pair_error", "solution_max"):
        small = open_split(tmp_path / "one", "train").figure(name)
        assert np.array_equal(small, open_split(tmp_path / "large", "train").figure(name), equal_nan=True)


WAYS = [(system, {}) for system in sorted(SYSTEMS)]
WAYS += [("helmholtz", {"redraw": "source"}), ("helmholtz", {"w": "continuous", "redraw": "source"})]


@pytest.mark.parametrize(("system", "options"), WAYS)
def test_bits_do_not_depend_on_what_is_made_together(system, options, monkeypatch):
    stream = Stream(3, system, tuple(map(float, json.loads(RANGES[system]))), "train")

    def fields(batch_bytes):
        monkeypatch.setattr(samples, "BATCH_BYTES", batch_bytes)
        made = SampleMaker(SYSTEMS[system], stream, 32, options).make(5, 20)
        return np.concatenate([batch.fields.copy() for batch in made])

    assert np.array_equal(fields(1 << 21), fields(1))
    assert len(fields(1)) == 20


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_pair_solves_its_equation(tmp_path, system):
    make(tmp_path, system=system, range=json.loads(RANGES[system]), grid=32)
    reader = open_split(tmp_path, "train")
    fields, tensor, _ = reader.gather(np.arange(20))
    error, bound = pair_error(system, fields[:, 0], fields[:, 1], tensor), reader.figure("pair_error")
    assert error.max() < 1e-7
    assert np.all(error <= 1.01 * bound)
    assert bound.max() < 1e-5
    assert reader.figure("residual").max() < 1e-12
    low, high = json.loads(RANGES[system])
    seen = SYSTEMS[system].observe(tensor.astype(float), fields[:, 0].astype(float))
    assert low - 1e-5 <= seen.min()
    assert seen.max() <= high + 1e-5
    if SYSTEMS[system].keep_mean:
        assert np.all(fields[:, 0].max(axis=(1, 2)) == 1)
        assert abs(fields[:, 0].mean()) > 0.01
    else:
        assert np.abs(fields.mean(axis=(2, 3))).max() < 1e-7


def test_psi_is_stored_with_every_sample(tmp_path):
    make(tmp_path, system="advection_diffusion", range=[0.2, 0.4], grid=32)
    reader = open_split(tmp_path, "train")
    fields, tensor, _ = reader.gather(np.arange(20))
    exact = SYSTEMS["advection_diffusion"].observe(tensor.astype(float), fields[:, 0].astype(float))
    assert np.allclose(reader.figure("psi"), exact, rtol=1e-6)
    assert read_manifest(tmp_path).statistics["train"]["psi"].min >= 0.2 * (1 - 1e-6)


def test_rejected_draws_are_counted_and_drawn_again_as_a_whole(tmp_path):
    manifest = make(tmp_path, system="helmholtz", range=[3, 4], train=120)
    reader = open_split(tmp_path, "train")
    w = np.concatenate([open_split(tmp_path, split).figure("tensor")[:, 1] for split in ("train", "valid", "test")])
    assert reader.figure("solution_max").max() <= 2
    assert {value: counts.accepted for value, counts in manifest.acceptance.items()} == {
        "3": (w == 3).sum(),
        "4": (w == 4).sum(),
    }
    share = {value: counts.accepted / counts.drawn for value, counts in manifest.acceptance.items()}
    assert share["3"] > 0.9
    assert 0.2 < share["4"] < 0.55  # 36% in the long run
    drawn = [counts.drawn for counts in manifest.acceptance.values()]
    assert abs(drawn[0] - drawn[1]) < 5 * np.sqrt(sum(drawn))  # w is uniform before the rejection


def test_keeping_w_keeps_its_distribution(tmp_path):
    manifest = make(tmp_path, system="helmholtz", range=[3, 4], train=120, options={"redraw": "source"})
    w = open_split(tmp_path, "train").figure("tensor")[:, 1]
    assert abs((w == 4).sum() - 60) < 4 * np.sqrt(30)
    assert manifest.acceptance["4"].drawn > 2 * manifest.acceptance["3"].drawn
    assert manifest.options == {"w": "integer", "redraw": "source"}


def test_w_is_drawn_anew_where_no_source_passes(monkeypatch):
    """At w = 1.974 the wavenumbers (1, 2) resonate: all sources fail, and after a bounded number w changes."""
    monkeypatch.setattr(samples, "SOURCES_FOR_ONE_W", 4)
    options = {"w": "continuous", "redraw": "source"}
    stream = Stream(0, "helmholtz", (1.95, 2.2), "train")
    made = next(SampleMaker(SYSTEMS["helmholtz"], stream, 16, options).make(0, 30))
    tried = np.concatenate(made.tallied)
    assert 30 < len(tried) < 5000
    near = np.abs(tried - 1.974) < 0.004
    assert near.any()
    assert np.abs(made.rows["tensor"][:, 1] - 1.974).min() > np.abs(tried - 1.974).min()


def test_continuous_w_is_counted_by_whole_numbers(tmp_path):
    manifest = make(tmp_path, system="helmholtz", range=[2.5, 4.25], train=60, options={"w": "continuous"})
    assert set(manifest.acceptance) == {"2", "3", "4"}
    w = open_split(tmp_path, "train").figure("tensor")[:, 1]
    assert len(np.unique(w)) == 60
    assert w.min() >= 2.5
    assert w.max() <= 4.25


def test_a_range_where_nothing_passes_is_a_sentence(monkeypatch):
    monkeypatch.setattr(samples, "MOST_ATTEMPTS", 20)
    resonance = 0.01 * 4 * np.pi**2 * 5 + 1e-4
    stream = Stream(0, "helmholtz", (resonance, resonance), "train")
    with pytest.raises(UserError, match=r"sample 0 of train still has max\|u\| > 2 after 20 draws"):
        list(SampleMaker(SYSTEMS["helmholtz"], stream, 16, {"w": "continuous"}).make(0, 2))


def test_without_w_the_mean_is_removed_from_f_too():
    """w = 0 makes the symbol of the mean exactly 0."""
    made = next(SampleMaker(SYSTEMS["helmholtz"], Stream(0, "helmholtz", (0.0, 0.0), "train"), 16).make(0, 4))
    assert np.abs(made.fields.mean(axis=(2, 3))).max() < 1e-7
    assert made.rows["residual"].max() < 1e-12


def test_a_sample_that_does_not_solve_its_equation_stops_the_run(monkeypatch):
    monkeypatch.setattr(samples, "LARGEST_RESIDUAL", 0.0)
    with pytest.raises(WrongSampleError, match="sample 7 of valid does not solve poisson: the relative residual"):
        list(SampleMaker(SYSTEMS["poisson"], Stream(0, "poisson", (1.0, 5.0), "valid"), 16).make(7, 3))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"system": "poison"}, "'system' is 'poison' .did you mean 'poisson'.. but should be one of poisson"),
        ({"range": [1, 2.5]}, "both ends must be, got 1 and 2.5; or set options.w=continuous"),
        ({"options": {"w": "real"}}, "'options.w' is 'real' but should be one of integer, continuous"),
        ({"options": {"redaw": "all"}}, "unknown 'options.redaw' .did you mean 'redraw'..; helmholtz has: w, redraw"),
        ({"system": "poisson", "options": {"w": "integer"}}, "unknown 'options.w'; poisson has: none"),
    ],
)
def test_wrong_requests_are_sentences(changes, says):
    given = {"system": "helmholtz", "range": [1, 5], "train": 1, "valid": 1, "test": 1, "output": "x"} | changes
    with pytest.raises(UserError, match=says):
        build_request(parse(GenerateSettings, given, "here"))


@pytest.mark.parametrize(
    ("system", "range_", "grid", "first", "count"),
    [
        ("advection_diffusion", (2.0, 5.0), 128, 2121, 1),  # of configs/data/paper/ad-scale-adr2_5.yaml
        ("advection_diffusion", (5.0, 10.0), 32, 0, 40),
        ("poisson", (1000.0, 1000.0), 32, 0, 40),
    ],
)
def test_pairs_whose_bound_says_too_little_are_judged_by_their_error(system, range_, grid, first, count):
    seed = 4 if first else 0
    maker = SampleMaker(SYSTEMS[system], Stream(seed, system, range_, "train"), grid)
    for batch in maker.make(first, count):
        found = batch.rows["pair_error"]
        error = pair_error(system, batch.fields[:, 0], batch.fields[:, 1], batch.rows["tensor"].astype(float))
        assert np.all(error <= 1.01 * found)
        assert found.max() <= 1e-5


def test_a_ratio_that_no_advection_gives_is_a_sentence():
    maker = SampleMaker(SYSTEMS["advection_diffusion"], Stream(0, "advection_diffusion", (1e4, 1e4), "train"), 32)
    with pytest.raises(UserError, match=r"advection_diffusion \[10000, 10000\]: no advection .* choose another range"):
        list(maker.make(0, 40))


def on_grid(system, range_, n):
    """Return fields and coefficients of the first 64 samples on a grid."""
    batches = SampleMaker(SYSTEMS[system], Stream(0, system, range_, "train"), n).make(0, 64)
    made = [(batch.fields.astype(float), batch.rows["tensor"].astype(float)) for batch in batches]
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def distance(ours, theirs):
    """Return the largest ||b - a|| / ||a|| of rows."""
    return (np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)).max()


@pytest.mark.parametrize(
    ("system", "range_"), [("poisson", (1, 5)), ("advection_diffusion", (0.2, 1)), ("advection_diffusion", (1, 2))]
)
def test_what_a_sample_shares_with_the_same_one_on_another_grid(system, range_):
    """As docs/format.md says: the source but for a factor and a constant; v and K not, where psi fixes them."""
    fields, tensor = on_grid(system, range_, 64)
    for n, most in ((8, 0.33), (16, 0.26), (32, 0.003), (128, 1e-6)):
        other_fields, other_tensor = on_grid(system, range_, n)
        ours, theirs = fields[:, 0, :: max(1, 64 // n), :: max(1, 64 // n)], other_fields[:, 0]
        theirs = theirs[:, :: max(1, n // 64), :: max(1, n // 64)]
        for one, other in zip(ours, theirs, strict=True):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1] - 1) < 1e-12
        if system == "poisson":
            assert np.array_equal(tensor, other_tensor)
        else:
            for part in (slice(3), slice(3, 5)):
                assert most / 100 < distance(tensor[:, part], other_tensor[:, part]) < most
