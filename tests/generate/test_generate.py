"""The generator as a user starts it: real commands, real MPI ranks, real kills."""

import json
import os
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

from fmsci.pde import solve
from fmsci.shards import open_split, read_manifest
from tests.commands import clean_environment, command, run
from tests.generate.folders import SMALL, contents, rank_processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "alone"
    run(["generate", *SMALL, f"output={folder}"])
    return folder


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_bits_for_any_number_of_ranks(alone, tmp_path, ranks):
    run(["generate", *SMALL, f"output={tmp_path / 'data'}"], ranks=ranks)
    assert contents(tmp_path / "data") == contents(alone)


def test_the_same_samples_for_any_shard_size(alone, tmp_path):
    run(["generate", *SMALL, "shard_samples=5", f"output={tmp_path / 'data'}"])
    for split, count in (("train", 37), ("valid", 9), ("test", 8)):
        ours = open_split(alone, split).gather(np.arange(count))
        theirs = open_split(tmp_path / "data", split).gather(np.arange(count))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_larger_set_begins_with_the_smaller_one(alone, tmp_path):
    run(["generate", *SMALL, "train=50", f"output={tmp_path / 'data'}"])
    ours = open_split(alone, "train").gather(np.arange(37))
    theirs = open_split(tmp_path / "data", "train").gather(np.arange(37))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_every_stored_sample_solves_its_equation(alone):
    for split in ("train", "valid", "test"):
        reader = open_split(alone, split)
        fields, tensor, sample_id = reader.gather(np.arange(len(reader)))
        assert sample_id.tolist() == list(range(len(reader)))
        u = fields[:, 1].astype(np.float64)
        error = np.linalg.norm(u - solve("poisson", fields[:, 0], tensor), axis=(1, 2)) / np.linalg.norm(u, axis=(1, 2))
        assert error.max() < 2e-7
        judged = reader.figure("pair_error")  # an upper bound, for every sample, and not an idle one
        assert np.all(error <= 1.01 * judged)
        assert judged.max() < 1e-6
        assert 0 < reader.figure("residual").max() < 1e-12


def test_splits_and_seeds_share_no_sample(alone, tmp_path):
    run(["generate", *SMALL, "seed=1", f"output={tmp_path / 'data'}"])
    first = [
        open_split(folder, split).gather(np.arange(8))[0]
        for folder in (alone, tmp_path / "data")
        for split in ("train", "valid", "test")
    ]
    flat = np.concatenate(first)[:, 0].reshape(48, -1)
    assert len(np.unique(flat, axis=0)) == 48


def test_the_manifest_holds_the_scales_of_the_training_split(alone):
    manifest = read_manifest(alone)
    fields, tensor, _ = open_split(alone, "train").gather(np.arange(37))
    norms = np.linalg.norm(fields[:, 0].astype(np.float64), axis=(1, 2)) / 16
    assert manifest.scales.source == pytest.approx(np.median(norms), rel=1e-6)
    for column, name in enumerate(("k11", "k22", "k12")):
        assert manifest.scales.coefficients[name] == pytest.approx(np.median(np.abs(tensor[:, column])), rel=1e-6)
    assert manifest.columns == ("k11", "k22", "k12")
    assert manifest.splits["train"].count == 37
    assert manifest.statistics["train"]["residual"].max < 1e-12


def test_the_papers_own_layout(alone):
    with h5py.File(alone / "train/shard-00000.h5") as file:
        assert file["fields"].shape == (8, 2, 16, 16)
        assert file["fields"].dtype == np.float32
        assert file["tensor"].shape == (8, 3)
        assert file["fields"].chunks is None
        assert file.attrs["system"] == "poisson"
        assert file.attrs["columns"].tolist() == ["k11", "k22", "k12"]


def test_a_finished_folder_is_left_alone(alone):
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("[!.]*") if path.is_file()}
    assert len(before) == 13
    run(["generate", *SMALL, f"output={alone}"])
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("[!.]*") if path.is_file()} == before


def test_another_request_in_the_same_folder_is_a_sentence(alone):
    said = run(["generate", *SMALL, "grid=32", f"output={alone}"], code=2)
    assert "was begun with grid = 16, now it is 32" in said
    assert "Traceback" not in said


@pytest.mark.mpi
def test_one_ranks_mistake_ends_all_ranks_with_its_sentence(alone):
    said = run(["generate", *SMALL, "grid=32", f"output={alone}"], ranks=2, code=2)
    assert "was begun with grid = 16, now it is 32" in said
    assert "Traceback" not in said


def test_options_serve_instead_of_a_file(alone, tmp_path):
    options = [
        "--system",
        "poisson",
        "--range",
        "1",
        "5",
        "--grid",
        "16",
        "--train",
        "37",
        "--valid",
        "9",
        "--test",
        "8",
        "--json",
    ]
    said = run(["generate", *options, "shard_samples=8", "--output", tmp_path / "data"])
    assert json.loads(said.splitlines()[-1])["samples"] == {"train": 37, "valid": 9, "test": 8}
    assert contents(tmp_path / "data") == contents(alone)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
def test_killed_at_any_moment_and_started_again_ends_in_the_same_bits(tmp_path, ranks):
    request = ["system=poisson", "range=[1,5]", "grid=64", "train=3000", "valid=8", "test=8", "shard_samples=16"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(["generate", *request, f"output={whole}"])
    kept = 0
    for _ in range(2):
        process = subprocess.Popen(
            command(["generate", *request, f"output={killed}"], ranks),
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(list(killed.rglob("*.h5"))) <= kept + 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        for rank in rank_processes(killed):  # not their launcher: it may be dead before them
            os.kill(rank, signal.SIGKILL)
        process.wait(timeout=60)
        assert not rank_processes(killed)
        kept = len(list(killed.rglob("shard-*.h5")))
        assert not (killed / "manifest.json").exists()
    untouched = {path: path.stat().st_mtime_ns for path in killed.rglob("shard-*.h5")}
    run(["generate", *request, f"output={killed}"], ranks)
    assert contents(killed) == contents(whole)
    assert untouched.items() <= {path: path.stat().st_mtime_ns for path in killed.rglob("shard-*.h5")}.items()


def test_a_damaged_shard_is_made_anew(alone, tmp_path):
    folder = tmp_path / "data"
    run(["generate", *SMALL, f"output={folder}"])
    bits = bytearray((folder / "train/shard-00002.h5").read_bytes())
    bits[9000] ^= 4
    (folder / "train/shard-00002.h5").write_bytes(bits)
    (folder / "valid/shard-00000.h5").write_bytes((folder / "valid/shard-00000.h5").read_bytes()[:5000])
    (folder / "test/shard-00000.h5").unlink()
    run(["generate", *SMALL, f"output={folder}"])
    assert contents(folder) == contents(alone)
