"""``fmsci data check``: what is damaged is found, named, and repaired by the command it prints."""

import json
import shlex
import shutil

import h5py
import numpy as np
import pytest

from fmsci.generate.agree import check_manifest
from fmsci.pde import SYSTEMS
from fmsci.shards import read_manifest
from fmsci.shards.check import check_folder
from fmsci.shards.layout import FIGURES, MEANINGS
from tests.commands import run
from tests.generate.folders import contents
from tests.shards.conftest import REQUEST


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def found(folder):
    return [(finding.file, finding.problem) for finding in check_folder(folder)]


def test_nothing_is_wrong_with_what_was_made(folder):
    assert found(folder) == []
    assert "28 samples" in run(["data", "check", folder])


def test_any_flipped_bit_is_found(folder):
    """Anywhere in the file: checksum line, HDF5 records, fields, small datasets."""
    path = folder / "train/shard-00001.h5"
    size = path.stat().st_size
    places = [0, 40, 70, 4000, 4096, 4300, *np.random.default_rng(0).integers(0, size, 30).tolist(), size - 1]
    for at in places:
        flip(path, at, 1 << (at % 8))
        (problem,) = found(folder)
        assert problem[0] == "train/shard-00001.h5"
        flip(path, at, 1 << (at % 8))
    assert found(folder) == []


def test_any_flipped_bit_of_a_split_file_is_found_before_hdf5_reads_it(folder):
    path = folder / "train.h5"
    size = path.stat().st_size
    for at in (0, 30, 4095, 4096, 4104, *np.random.default_rng(1).integers(4096, size, 40).tolist(), size - 1):
        flip(path, at)
        assert [finding.file for finding in check_folder(folder)] == ["train.h5"], at
        flip(path, at)
    assert check_folder(folder) == []


def test_each_kind_of_damage_is_named(folder):
    (folder / "train/shard-00000.h5").write_bytes((folder / "train/shard-00000.h5").read_bytes()[:-100])
    (folder / "train/shard-00003.h5").unlink()
    shutil.copy(folder / "train/shard-00001.h5", folder / "train/shard-00002.h5")
    (folder / "valid/notes.txt").write_text("hello")
    (folder / "test/.aside-shard-00007.h5-somewhere-1").write_text("half")
    (folder / "test.h5").unlink()
    problems = dict(found(folder))
    assert "bytes instead of" in problems.pop("train/shard-00000.h5")
    assert problems.pop("train/shard-00003.h5") == "it is missing"
    assert problems.pop("train/shard-00002.h5") == "the attribute first is 5 instead of 10"
    assert problems.pop("valid/notes.txt") == "it does not belong here"
    assert problems.pop("test/.aside-shard-00007.h5-somewhere-1") == "unfinished work"
    assert problems.pop("test.h5") == "it does not show the shards of its split"
    assert problems == {}


def test_a_shard_of_another_data_set_is_found(folder, tmp_path):
    """Whole and of the right size, but with other samples: only the manifest knows."""
    run(["generate", *REQUEST[:1], "range=[1,4]", *REQUEST[2:], f"output={tmp_path / 'other'}"])
    shutil.copy(tmp_path / "other/train/shard-00001.h5", folder / "train/shard-00001.h5")
    ((file, problem),) = found(folder)
    assert file == "train/shard-00001.h5"
    assert problem == "the attribute range is [1.0, 4.0] instead of [1.0, 3.0]"


def test_wrong_counts_are_found(folder):
    edit_manifest(folder, lambda m: m["splits"]["train"].update(count=23))
    assert ("manifest.json", "train: it says 23 samples but the shards hold 22") in found(folder)


def test_a_gap_between_shards_is_found(folder):
    edit_manifest(folder, lambda m: m["splits"]["train"]["shards"].pop(1))
    problems = dict(found(folder))
    assert problems["manifest.json"] == "train: train/shard-00002.h5 begins at sample 10 instead of 5"
    assert problems["train/shard-00001.h5"] == "it does not belong here"


def disagreements(folder):
    return [(finding.file, finding.problem) for finding in check_manifest(folder, read_manifest(folder))]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["scales"].update(source=m["scales"]["source"] * 1.001), "scales.source is"),
        (lambda m: m["scales"]["coefficients"].update(w=9.0), "scales.coefficients.w is 9.0 but the shards say 3.0"),
        (
            lambda m: m["statistics"]["valid"]["w"].update(std=0.0),
            "statistics.valid.w.std is 0.0 but the shards say 0.",
        ),
        (lambda m: m["statistics"]["test"].pop("residual"), "statistics.test.residual is None but the shards say {"),
        (lambda m: m["acceptance"]["1"].update(drawn=1), "acceptance.1.drawn is 1 but the shards say"),
    ],
)
def test_a_manifest_that_says_other_than_the_shards_is_found_and_repaired(folder, pristine, change, says):
    edit_manifest(folder, change)
    assert found(folder) == []
    ((file, problem),) = disagreements(folder)
    assert file == "manifest.json"
    assert problem.startswith(says)
    if "drawn" in problem:  # once for all
        said = run(["data", "check", folder], code=1)
        assert f"{folder}/manifest.json: {problem}" in said
        run(shlex.split(said.partition("to repair: fmsci ")[2].partition(" (it makes")[0]))
        assert contents(folder) == contents(pristine)


def test_another_processors_last_digit_is_no_finding(folder):
    edit_manifest(folder, lambda m: m["scales"].update(source=m["scales"]["source"] * (1 + 1e-12)))
    edit_manifest(folder, lambda m: m["statistics"]["train"]["k11"].update(std=1e-17))
    assert disagreements(folder) == []


def test_shards_of_another_size_than_the_manifest_says_are_found(folder):
    edit_manifest(folder, lambda m: m.update(shard_samples=6))
    assert ("manifest.json", "shard_samples is 6 but the shards of train hold others") in disagreements(folder)


def test_a_plan_of_other_data_is_found(folder):
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"seed": 7, "counts": plan["counts"] | {"train": 23}}))
    assert disagreements(folder) == [
        ("plan.json", "seed is 7 but manifest.json says 0"),
        ("plan.json", "counts.train is 23 but manifest.json says 22"),
    ]
    said = run(["data", "check", folder], code=1)
    assert "to repair: if plan.json says what the data should be: fmsci generate system=helmholtz" in said
    (folder / "plan.json").write_text("{")
    ((file, problem),) = disagreements(folder)
    assert file == "plan.json"
    assert "cannot be read as JSON" in problem
    assert "plan.json does not say how" in run(["data", "check", folder], code=1)


def test_a_lost_plan_is_found_and_written_again(folder, pristine):
    """The manifest says all of it; a damaged shard beside it is no reason to say nothing, or to import anything."""
    (folder / "plan.json").unlink()
    assert disagreements(folder) == [("plan.json", "it is missing")]
    flip(folder / "train/shard-00001.h5", 9000)
    said = run(["data", "check", folder], code=1)
    assert f"{folder}/plan.json: it is missing" in said
    run(shlex.split(said.partition("to repair: fmsci ")[2].partition(" (it makes")[0]))
    assert (folder / "plan.json").read_bytes() == (pristine / "plan.json").read_bytes()
    assert contents(folder) == contents(pristine)
    assert "nothing wrong" in run(["data", "check", folder])


def test_without_a_plan_the_manifest_says_what_a_folder_was_begun_with(folder):
    (folder / "plan.json").unlink()
    said = run(["generate", *REQUEST, "seed=7", f"output={folder}"], code=2)
    assert f"{folder} was begun with seed = 0, now it is 7; give the same settings" in said
    assert not (folder / "plan.json").exists()
    edit_manifest(folder, lambda m: m["splits"]["train"].update(count=23))
    said = run(["data", "check", folder], code=1)
    assert "to repair: if manifest.json says what the data should be: fmsci generate system=helmholtz" in said
    (folder / "manifest.json").write_text("{")
    said = run(["generate", *REQUEST, f"output={folder}"], code=2)
    assert "plan.json is missing too, so nothing says what" in said


def test_a_pair_that_does_not_solve_its_equation_is_found_on_request(folder):
    """A change with a matching checksum, as a faulty program would make it, is seen only by solving again."""
    path = folder / "valid/shard-00000.h5"
    import zlib

    from fmsci.shards.checksum import header

    with h5py.File(path, "r+") as file:
        file["fields"][1, 1] *= 1.001
    content = path.read_bytes()
    checksum = f"crc32:{zlib.crc32(content[4096:]):08x}"
    path.write_bytes(header(checksum) + content[4096:])
    edit_manifest(folder, lambda m: m["splits"]["valid"]["shards"][0].update(checksum=checksum))
    run(["data", "check", folder])
    said = run(["data", "check", folder, "--solve"], code=1)
    assert "valid/shard-00000.h5: sample 1: ||u - solve(f)|| / ||u|| is 0.001" in said


def test_the_printed_command_repairs(folder, pristine):
    flip(folder / "train/shard-00001.h5", 9000)
    (folder / "train/shard-00003.h5").unlink()
    (folder / "valid.h5").unlink()
    untouched = (folder / "train/shard-00000.h5").stat().st_mtime_ns
    said = run(["data", "check", folder, "--json"], code=1)
    assert json.loads(said.splitlines()[-1])["ok"] is False
    (line,) = [line for line in said.splitlines() if line.startswith("to repair")]
    assert "does not belong" not in line  # nothing here does
    words = shlex.split(line.partition("to repair: ")[2].partition(" (it makes")[0])
    assert words[:2] == ["fmsci", "generate"]
    run(words[1:])
    assert found(folder) == []
    assert (folder / "train/shard-00000.h5").stat().st_mtime_ns == untouched
    for name in ("train/shard-00001.h5", "train/shard-00003.h5", "valid.h5"):
        assert (folder / name).read_bytes() == (pristine / name).read_bytes()


def test_what_is_foreign_is_to_be_moved_away(folder):
    (folder / "notes.txt").touch()
    assert "to repair: move away what does not belong here\n" in run(["data", "check", folder], code=1)
    flip(folder / "train/shard-00001.h5", 9000)
    said = run(["data", "check", folder], code=1)
    assert "to repair: move away what does not belong here, then: fmsci generate " in said


def test_a_damaged_manifest_is_a_sentence_and_is_made_anew(folder):
    (folder / "manifest.json").write_text("{")
    assert "cannot be read as JSON" in run(["data", "check", folder], code=2)
    run(["generate", *REQUEST, f"output={folder}"])
    assert found(folder) == []


def test_info_prints_every_split_and_draws(folder, tmp_path):
    said = run(["data", "info", folder, "--sheet", tmp_path / "sheet.png", "--json"])
    for word in ("train", "valid", "test", "residual", "source_norm", "solution_norm", "k11", "w", "accepted"):
        assert word in said
    names = {line.split(":")[0].strip() for line in said.splitlines() if line.startswith("  ")}
    assert names == {"residual", "pair_error", "source_norm", "solution_norm", "solution_max"}  # each is explained
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(said.splitlines()[-1])["system"] == "helmholtz"
    shutil.copy(tmp_path / "sheet.png", folder / "contact_sheet.png")
    assert found(folder) == []  # its own picture belongs there


def test_every_figure_that_is_stored_is_explained():
    assert list(MEANINGS) == list(FIGURES)
    assert all(meaning for system in SYSTEMS.values() for meaning in system.figures.values())
    assert SYSTEMS["advection_diffusion"].figures.keys() == {"psi"}


def test_a_whole_split_is_one_file_for_h5py(folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "moved")
    with h5py.File(moved / "train.h5") as file:
        assert file["fields"].shape == (22, 2, 16, 16)
        assert file["sample_id"][:].tolist() == list(range(22))
        assert file["tensor"].shape == (22, 2)
        assert file.attrs["system"] == "helmholtz"
        with h5py.File(moved / "train/shard-00002.h5") as shard:
            assert np.array_equal(file["fields"][10:15], shard["fields"][:])
