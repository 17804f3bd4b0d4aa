"""Jobs on a real cluster: two nodes train as one, and generate as one; mistakes are a sentence."""

import re

import numpy as np
import pytest

from fmsci.shards import open_split
from tests.cluster.run_folders import losses, result
from tests.conftest import TRAINING

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

ENGINES = [[], ["engine.kind=zero", "engine.zero_stage=2"]]
"""Settings of each engine that trains over nodes."""


@pytest.mark.parametrize(
    ("launcher", "engine"),
    [("srun", ENGINES[0]), ("torchrun", ENGINES[0]), ("mpiexec", ENGINES[0]), ("srun", ENGINES[1])],
    ids=["srun-ddp", "torchrun-ddp", "mpiexec-ddp", "srun-zero2"],
)
def test_two_nodes_train_as_one_process_does(cluster, run, trained, train_config, launcher, engine):
    words = [train_config, f"run={run}", *TRAINING, *engine]
    doctor = "yes" if launcher == "torchrun" else "no"
    job = cluster.sbatch("slurm/pretrain.sbatch", *words, FMSCI_LAUNCH=launcher, FMSCI_DOCTOR=doctor)
    assert cluster.ended(job) == "COMPLETED", cluster.log(job)
    assert cluster.log(job).count(f"ok   ranks: 2 on 2 hosts: node1 (1), node2 (1), launcher: {launcher}\n") == (
        doctor == "yes"
    )
    assert result(run)["world_size"] == 2
    assert losses(run) == pytest.approx(losses(trained), rel=1e-5)
    assert cluster.log(job).count("12 of 12 steps") == 1  # rank 0 alone tells
    assert (run / "slurm_job").read_text() == f"{job} 0\n"


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_data_made_on_two_nodes_are_those_of_one_process(cluster, poisson_data, launcher):
    folder = cluster.folder / f"data-{launcher}"
    sizes = ["--grid", "16", "--train", "13", "--valid", "7", "--test", "5"]
    words = ["--system", "poisson", "--range", "1", "5", *sizes, "shard_samples=4", "--output", folder]
    job = cluster.sbatch(
        "--ntasks-per-node=2", "slurm/generate.sbatch", *words, FMSCI_LAUNCH=launcher, FMSCI_DOCTOR="yes"
    )
    assert cluster.ended(job) == "COMPLETED", cluster.log(job)
    assert f"ok   ranks: 4 on 2 hosts: node1 (2), node2 (2), launcher: {launcher}\n" in cluster.log(job)
    for split, count in (("train", 13), ("valid", 7), ("test", 5)):
        made, expected = (open_split(place, split).gather(np.arange(count)) for place in (folder, poisson_data))
        assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))


def test_a_job_with_gpus_has_a_task_for_each(cluster, train_config, run):
    """The devices are pretended, so the ranks compute on the CPU."""
    words = [train_config, f"run={run}", *TRAINING]
    options = ["--parsable", "--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=2", "--output=%j.log"]
    job = cluster.login("sbatch", *options, "slurm/pretrain.sbatch", *words, OMP_NUM_THREADS=1).strip()
    assert cluster.ended(job) == "COMPLETED", cluster.log(job)
    assert result(run)["world_size"] == 4
    assert "2 tasks a node, 2 cores a task" in cluster.log(job)


def test_what_fails_on_another_rank_is_told_with_rank_and_host(cluster, run, train_config, poisson_data):
    """The data lie where only node1 has them."""
    cluster.login("srun", "--nodelist=node1", "cp", "-r", poisson_data, "/tmp/only-here")
    words = [train_config, f"run={run}", *TRAINING, "data.path=/tmp/only-here"]
    job = cluster.sbatch("slurm/pretrain.sbatch", *words)
    assert cluster.ended(job) == "FAILED"
    assert re.search("^fmsci: rank 1 on node2: /tmp/only-here is no data folder", cluster.log(job), re.MULTILINE)


def test_a_failed_job_is_not_requeued_and_stops_what_waits_for_it(cluster, run, train_config):
    words = [train_config, f"run={run}", "data.path=nowhere"]
    job = cluster.sbatch("--hold", "slurm/pretrain.sbatch", *words, nodes=1)
    after = cluster.sbatch(f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--wrap", "hostname", nodes=1)
    cluster.login("scontrol", "release", job)
    assert (cluster.ended(job), cluster.ended(after)) == ("FAILED", "CANCELLED")
    log = cluster.log(job)
    assert "fmsci: nowhere is no data folder" in log
    assert "failed with exit code 2: not requeued" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("CONFIG --sbatch=--partition=nope", "Slurm refused the job: invalid partition specified: nope"),
        (
            "CONFIG --nodes 3",
            "Slurm refused the job: allocation failure: Requested node configuration is not available",
        ),
        ("none.yaml", "there is no settings file none.yaml; give the path of a YAML file, such as those in configs/"),
        ("CONFIG --site lokal", "there is no site 'lokal' (did you mean 'local'?); known: "),
        ("CONFIG model.sise=1M", "unknown setting 'model.sise' (did you mean 'size'?)"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_waits(cluster, train_config, arguments, sentence):
    words = arguments.replace("CONFIG", f"{train_config} run=mistake").split()
    said = cluster.login("fmsci", "submit", "pretrain", *words, code=2)
    (line,) = said.splitlines()
    assert sentence in line
    assert not (cluster.folder / "mistake").exists()
