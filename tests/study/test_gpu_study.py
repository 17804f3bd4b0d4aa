"""The script for a machine with a GPU, at a tiny size on a CPU: each step on a machine that knows only the output."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fmsci.study.plan import plan
from fmsci.study.several import load_studies
from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("pack_studies", ROOT / "tools/pack_studies.py")
pack_studies = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack_studies)
FILES = {
    "data.yaml": "{system: poisson, range: [1, 5], grid: 16, train: 8, valid: 4, test: 4, output: data}",
    "train.yaml": "{run: unset, data: {path: data}, model: {width: 4, modes: 4, layers: 2}, "
    "optim: {epochs: 2, batch_size: 4}, monitor: {pictures: false, every_steps: 1}}",
    "study.yaml": "{study: q1, run: out/study, data: {configs: [FOLDER/data.yaml]}, "
    "models: {m: {train: FOLDER/train.yaml}}, tasks: {t: data}, train: FOLDER/train.yaml, samples: [4], steps: 4}",
    "recipe.yaml": "{study: recipe, run: out/recipe, runs: out/study/runs, train: FOLDER/train.yaml, "
    "data: {configs: [FOLDER/data.yaml]}, "
    "models: {slow: {train: FOLDER/train.yaml}, fast: {train: FOLDER/train.yaml, overrides: [optim.lr=0.003]}}}",
}


@pytest.mark.slow
def test_steps_continue_from_what_the_last_one_left_and_end_with_the_report(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("FOLDER", str(tmp_path)))
    out = tmp_path / "results"
    made = []
    # Stands in for the service that lets processes share a GPU: started before the runs, ended after them.
    service = tmp_path / "bin/nvidia-cuda-mps-control"
    service.parent.mkdir()
    said = tmp_path / "said"
    start = f'echo "start $CUDA_MPS_PIPE_DIRECTORY" >> {said}'
    service.write_text(f"#!/bin/sh\nif [ $1 ]; then {start}; else cat >> {said}; fi\n")
    service.chmod(0o755)
    for number, seconds in enumerate((12, 300)):
        work = tmp_path / f"machine{number}"
        done = subprocess.run(
            ["bash", ROOT / "tools/gpu_study.sh", out, tmp_path / "study.yaml", tmp_path / "recipe.yaml"],
            env=clean_environment(
                STUDY_SECONDS=str(seconds),
                STUDY_WORK=str(work),
                PATH=f"{service.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            ),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode in ({0, 75} if number == 0 else {0}), done.stdout + done.stderr
        made.append({line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("finished ")})
        shutil.rmtree(work)
    places = [tmp_path / f"machine{number}/mps" for number in (0, 1)]
    assert said.read_text().splitlines() == [f"start {places[0]}", "quit", f"start {places[1]}", "quit"]
    assert made[0] & made[1] <= {"data"}  # which are not carried: nothing else is made twice
    assert len(made[0] | made[1]) == 7
    assert sorted(path.name for path in out.rglob("*")) == ["part-000", "state", "studies.tar.gz"]
    with tarfile.open(out / "studies.tar.gz") as archive:
        names = archive.getnames()
        for study in ("study", "recipe"):
            assert {f"out/{study}/{name}" for name in ("report.html", "report.md", "results.csv")} <= set(names)
            document = json.loads(archive.extractfile(f"out/{study}/table.json").read())
            assert document["missing"] == []
    assert [one["model"] for one in document["recipes"]] == ["slow", "fast"]
    with tarfile.open(out / "state/part-000") as archive:
        names = archive.getnames()
    models = [name for name in names if name.endswith("/model/model.safetensors")]
    assert [Path(name).parts[-3].partition("-m-")[0] for name in models] == ["pretrain"]  # what is fine-tuned
    assert not [name for name in names if "checkpoints" in name or "tensorboard" in name]


def test_pictures_that_a_report_shows_go_along_and_no_file_is_too_large(tmp_path, monkeypatch):
    """A report on the next machine has the fields of runs that were made on this one."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text.replace("FOLDER", "."))
    (one,) = load_studies([Path("study.yaml")], ["samples=[2, 4, 6]", "rates=[1e-3, 3e-3]"])
    whole = plan(one)
    for run in whole.sweep:
        for path in (*run.results, run.evaluation.with_suffix(".png")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    zero = whole.zero_shot[0].results[0].with_suffix(".png")
    zero.parent.mkdir(parents=True)
    zero.write_text("")
    packed = {path for unit in pack_studies.units([one]) for path in unit if path.suffix == ".png"}
    assert packed == {zero, *(run.evaluation.with_suffix(".png") for run in whole.sweep if run.samples == 4)}

    monkeypatch.setattr(pack_studies, "PART_BYTES", 10_000)
    report = Path("report.html")
    output = tmp_path / "packed"
    for size, files in ((25_000, ["part-000", "part-001", "part-002"]), (2_000, ["studies.tar.gz"])):
        report.write_bytes(os.urandom(size))
        pack_studies.write_reports([report], output)
        found = sorted(path for path in output.rglob("*") if path.is_file())
        assert [path.name for path in found] == files  # of what was there before nothing is left
        with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in found))) as archive:
            assert archive.extractfile("report.html").read() == report.read_bytes()


def test_what_does_not_fit_is_left_out_with_all_of_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_studies, "PART_BYTES", 10_000)
    monkeypatch.chdir(tmp_path)
    sizes = {"result.json": 5_000, "a/m.safetensors": 9_000, "b/m.safetensors": 12_000, "b/state.json": 100}
    for name, size in sizes.items():
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size) if path.suffix == ".safetensors" else b" " * size)
    alone, small, large = (
        [Path("result.json")],
        [Path("a/m.safetensors")],
        [Path("b/m.safetensors"), Path("b/state.json")],
    )
    assert pack_studies.write_state([large, alone, small], Path("three"), 3) == []
    assert sorted(path.name for path in Path("three").iterdir()) == ["part-000", "part-001", "part-002"]
    assert pack_studies.write_state([large, alone, small], Path("three"), 2) == [large]  # in place of what was there
    packed = b"".join(path.read_bytes() for path in sorted(Path("three").iterdir()))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["result.json", "a/m.safetensors"]
