"""``fmsci data import``: files of other programs, every sample solved again."""

import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmsci.errors import UserError
from fmsci.generate.adopt import import_files, split_of
from fmsci.pde import SYSTEMS, solve
from fmsci.shards import open_split, read_manifest
from fmsci.shards.check import check_folder
from tests.commands import run
from tests.shards.hostile import HOSTILE, K, write

N = 24
COEFFICIENTS = {
    "poisson": [[0.02, 0.03, 0.005], [0.01, 0.04, 0.0]],
    "advection_diffusion": [[0.02, 0.03, 0.005, 0.1, 0.3], [0.01, 0.02, 0.0, 0.2, -0.1]],
    "helmholtz": [[0.01, 3.0], [0.01, 7.0]],
}


def paper_file(path, system, count=10, dtype="f4", damage=None):
    """Write a file as the paper's code does: its layout, solved here without the generator."""
    rng = np.random.default_rng(count)
    tensor = np.resize(np.array(COEFFICIENTS[system]), (count, len(COEFFICIENTS[system][0]))).astype(np.float32)
    sources = rng.standard_normal((count, N, N))
    if not SYSTEMS[system].keep_mean:
        sources -= sources.mean(axis=(1, 2), keepdims=True)
    fields = np.stack([sources, solve(system, sources, tensor)], axis=1).astype(dtype)
    if damage is not None:
        damage(fields, tensor)
    with h5py.File(path, "w") as file:
        file.create_dataset("fields", data=fields, chunks=(1, 2, N, N), compression="gzip")
        file.create_dataset("tensor", data=tensor)
    return path, fields, tensor


def three_files(folder, system, dtype="f4"):
    """Return the files of three splits, named as the paper's code names them, and what is in the first."""
    train, fields, tensor = paper_file(folder / "_train_k1_5_32k.h5", system, 13, dtype)
    val, _, _ = paper_file(folder / "_val_k1_5_4k.h5", system, 3)
    test, _, _ = paper_file(folder / "_test_k1_5_4k.h5", system, 4)
    return [train, val, test], fields, tensor


@pytest.mark.parametrize(("system", "dtype"), [("poisson", "f8"), ("advection_diffusion", "f4"), ("helmholtz", "f4")])
def test_files_become_a_data_folder(tmp_path, system, dtype):
    files, fields, tensor = three_files(tmp_path, system, dtype)
    out = tmp_path / "data"
    manifest = import_files({split_of(path): [path] for path in files}, SYSTEMS[system], out, shard_samples=5)
    assert manifest == read_manifest(out)
    assert check_folder(out) == []
    reader = open_split(out, "train")
    got = reader.gather(np.arange(13))
    assert np.array_equal(got[0], fields.astype(np.float32))
    assert np.array_equal(got[1], tensor)
    assert reader.figure("pair_error").max() < 1e-6
    assert {split: record.count for split, record in manifest.splits.items()} == {"train": 13, "valid": 3, "test": 4}
    norms = np.linalg.norm(fields[:, 0].astype(np.float32).astype(float), axis=(1, 2)) / N
    assert manifest.scales.source == pytest.approx(np.median(norms), rel=1e-12)
    assert manifest.range[0] <= manifest.range[1]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("k1_5_test_eval.h5", "test"),
        ("test_interval.h5", "test"),
        ("constrained_test.h5", "test"),
        ("retrained-valid.h5", "valid"),
        ("VAL2.hdf5", "valid"),
        ("valid_val.h5", "valid"),
        ("poisson.training.h5", "train"),
        ("validation.h5", "valid"),
    ],
)
def test_a_split_is_a_whole_word_of_a_files_name(name, split):
    assert split_of(Path("retrain/latest") / name) == split


@pytest.mark.parametrize("name", ["constrained.h5", "latest.h5", "interval.h5"])
def test_a_split_in_the_middle_of_a_word_is_none(name):
    with pytest.raises(UserError, match="say which it is with --split"):
        split_of(Path(name))


def test_the_commands(tmp_path):
    files, _, _ = three_files(tmp_path, "helmholtz")
    out = tmp_path / "data"
    said = run(["data", "import", *files, "--system", "helmholtz", "--output", out, "--shard-samples", 5, "--json"])
    assert json.loads(said.splitlines()[-1])["seed"] is None
    assert "nothing wrong" in run(["data", "check", out, "--solve"])
    assert "imported" in run(["data", "info", out])


def test_data_of_a_system_that_is_not_known_here_cannot_be_solved_again(tmp_path):
    path, _, _ = paper_file(tmp_path / "train.h5", "poisson")
    import_files({"train": [path]}, replace(SYSTEMS["poisson"], name="screened"), tmp_path / "data")
    assert "nothing wrong" in run(["data", "check", tmp_path / "data"])
    said = run(["data", "check", tmp_path / "data", "--solve"], code=2)
    assert "there is no system 'screened'; choose poisson, " in said


def test_a_revision_of_the_generator_says_nothing_of_imported_data(tmp_path, monkeypatch):
    monkeypatch.setattr("fmsci.generate.summary.REVISION", 3)
    path, _, _ = paper_file(tmp_path / "train.h5", "poisson")
    import_files({"train": [path]}, SYSTEMS["poisson"], tmp_path / "data")
    assert "revision" not in json.loads((tmp_path / "data" / "manifest.json").read_text())


def test_the_range_is_what_the_coefficients_say(tmp_path):
    path, _, _ = paper_file(tmp_path / "train.h5", "helmholtz")
    assert import_files({"train": [path]}, SYSTEMS["helmholtz"], tmp_path / "data").range == (3.0, 7.0)
    assert import_files({"train": [path]}, SYSTEMS["helmholtz"], tmp_path / "other", (1.0, 10.0)).range == (1.0, 10.0)


def test_a_generated_folder_can_be_imported_split_by_split(tmp_path):
    run(
        [
            "generate",
            "system=poisson",
            "range=[1,5]",
            "grid=16",
            "train=12",
            "valid=2",
            "test=2",
            f"output={tmp_path / 'a'}",
        ]
    )
    files = [tmp_path / "a" / f"{split}.h5" for split in ("train", "valid", "test")]
    run(["data", "import", *files, "--system", "poisson", "--output", tmp_path / "b"])
    ours, theirs = (open_split(tmp_path / name, "train").gather(np.arange(12)) for name in ("a", "b"))
    assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))
    low, high = read_manifest(tmp_path / "b").range
    assert 1 <= low < high <= 5


def wrong_sample(fields, tensor):
    fields[7, 1] *= 1.0001


def not_a_number(fields, tensor):
    fields[7, 0, 3, 3] = np.nan


def not_elliptic(fields, tensor):
    tensor[7, 0] = -1.0


def source_with_a_mean(fields, tensor):
    fields[7, 0] += 3e-5  # solve() drops it: the pair still agrees


def out_of_range(fields, tensor):
    fields[7, 1] /= 2
    tensor[7] *= 2


@pytest.mark.parametrize("damage", [wrong_sample, not_a_number, not_elliptic])
def test_a_sample_that_does_not_solve_is_refused_with_its_number(tmp_path, damage):
    good, _, _ = paper_file(tmp_path / "train_a.h5", "poisson", 4)
    bad, _, _ = paper_file(tmp_path / "train_b.h5", "poisson", 10, damage=damage)
    words = ["data", "import", good, bad, "--system", "poisson", "--range", 1, 5, "--output", tmp_path / "data"]
    said = run([*words, "--shard-samples", 6], code=2)
    assert f"{bad}: sample 7 does not solve poisson" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (source_with_a_mean, "the source of sample 7 has a mean of 3.1e-05 of its root mean square, but poisson has"),
        (out_of_range, "sample 7 has 8 where the range is 1 to 5; give a --range that holds all samples, or none"),
    ],
)
def test_a_sample_that_solves_but_does_not_belong_is_refused_with_its_number(tmp_path, damage, says):
    bad, _, _ = paper_file(tmp_path / "train.h5", "poisson", 10, damage=damage)
    with pytest.raises(UserError, match=re.escape(f"{bad}: {says}")):
        import_files({"train": [bad]}, SYSTEMS["poisson"], tmp_path / "data", (1.0, 5.0), 6)
    assert not (tmp_path / "data").exists()


def test_a_mean_belongs_to_a_system_that_keeps_it(tmp_path):
    path, fields, _ = paper_file(tmp_path / "train.h5", "helmholtz")
    assert np.abs(fields[:, 0].mean(axis=(1, 2))).min() > 1e-4
    import_files({"train": [path]}, SYSTEMS["helmholtz"], tmp_path / "data")


@pytest.mark.parametrize("given", [(5.0, 1.0), (1.0, np.inf), (np.nan, 5.0)])
def test_a_range_that_is_none_is_refused(tmp_path, given):
    path, _, _ = paper_file(tmp_path / "train.h5", "poisson")
    with pytest.raises(UserError, match="should be two finite numbers, the smaller one first"):
        import_files({"train": [path]}, SYSTEMS["poisson"], tmp_path / "data", given)
    assert not (tmp_path / "data").exists()


def test_the_ends_of_a_range_belong_to_it(tmp_path):
    """The coefficients are float32: 3 and 7 are the least and the largest w."""
    path, _, _ = paper_file(tmp_path / "train.h5", "helmholtz")
    assert import_files({"train": [path]}, SYSTEMS["helmholtz"], tmp_path / "a", (3.0, 7.0)).range == (3.0, 7.0)
    with pytest.raises(UserError, match=r"sample 1 has 7 where the range is 3 to 6.9"):
        import_files({"train": [path]}, SYSTEMS["helmholtz"], tmp_path / "b", (3.0, 6.9))


@pytest.mark.parametrize(
    ("name", "system", "options", "says"),
    [
        ("train.h5", "helmholtz", [], "tensor has 3 columns but helmholtz has 2: k11, w"),
        ("train.h5", "poison", [], "did you mean 'poisson'"),
        ("data.h5", "poisson", [], "validation, test, testing in it; say which it is with --split"),
        ("train_or_test.h5", "poisson", [], "says train and test; say which it is with --split"),
        ("data.h5", "poisson", ["--split", "trian"], "did you mean 'train'"),
        ("missing_train.h5", "poisson", [], "there is no file"),
        ("text_train.h5", "poisson", [], "is not an HDF5 file"),
        ("empty_train.h5", "poisson", [], "has no dataset 'fields'"),
        ("shape_train.h5", "poisson", [], "should be (N, 2, n, n)"),
    ],
)
def test_what_cannot_be_imported_is_a_sentence(tmp_path, name, system, options, says):
    for good in ("train.h5", "data.h5"):
        paper_file(tmp_path / good, "poisson", 2)
    (tmp_path / "text_train.h5").write_text("not HDF5")
    h5py.File(tmp_path / "empty_train.h5", "w").close()
    with h5py.File(tmp_path / "shape_train.h5", "w") as file:
        file["fields"], file["tensor"] = np.zeros((2, 3, 8, 8)), np.zeros((2, 3))
    said = run(["data", "import", tmp_path / name, "--system", system, "--output", tmp_path / "out", *options], code=2)
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("make_file", "sentence"), [one[1:] for one in HOSTILE], ids=[one[0] for one in HOSTILE])
def test_a_strangers_file_is_refused_and_leaves_nothing(tmp_path, make_file, sentence):
    path = tmp_path / "train.h5"
    make_file(path)
    with pytest.raises(UserError) as caught:
        import_files({"train": [path]}, SYSTEMS["poisson"], tmp_path / "data")
    assert str(caught.value).replace(str(path), "IN").startswith(sentence)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_sources_that_give_no_scale_are_refused_and_leave_nothing(tmp_path):
    """Zero solves the equation; what is wrong is seen when all shards are written."""
    path = write(tmp_path / "train.h5", np.zeros((3, 2, 16, 16)), np.tile(K, (3, 1)))
    for place in (tmp_path / "new", tmp_path / "old"):
        (tmp_path / "old").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="half of the sources or more are zero everywhere"):
            import_files({"train": [path]}, SYSTEMS["poisson"], place)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "old").iterdir()) == []


def test_a_taken_folder_is_refused(tmp_path):
    path, _, _ = paper_file(tmp_path / "train.h5", "poisson")
    words = ["data", "import", path, "--system", "poisson", "--output", tmp_path / "data"]
    run(words)
    assert "already holds data" in run(words, code=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    said = run([*words[:-1], tmp_path / "other"], code=2)
    assert "other is no new folder: it holds notes.txt; give another output folder" in said
    made = ["system=poisson", "range=[1,5]", "grid=24", "train=1", "valid=1", "test=1", f"output={tmp_path / 'data'}"]
    assert "that fmsci generate did not make" in run(["generate", *made], code=2)
