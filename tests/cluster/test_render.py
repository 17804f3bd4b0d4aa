"""The job script of every site, held to the recorded text; what a user's options change in it."""

import subprocess
from pathlib import Path

import pytest

from fmsci.cluster.render import TEMPLATES, seconds_of
from fmsci.cluster.submit import Request, load_site, prepare
from fmsci.config import StudySettings, load_settings
from fmsci.errors import UserError
from fmsci.study.plan import plan

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "rendered"
SITES = sorted(path.stem for path in (ROOT / "configs/site").glob("*.yaml"))
JOBS = {
    "pretrain": ("configs/pretrain/quickstart.yaml", "model.size=16M", "run=runs/a b"),
    "generate": ("configs/data/quickstart_pretrain.yaml",),
    "finetune": ("configs/finetune/quickstart.yaml", "data.train_samples=128", "run=runs/finetune-128"),
    "evaluate": ("runs/quickstart/pretrain/model", "--data", "data/quickstart-downstream"),
    "study": ("configs/study/quickstart.yaml", "run=runs/recorded"),
    "report": ("configs/study/quickstart.yaml", "run=runs/recorded"),
    "scaling": ("configs/scaling/h100.yaml", "run=runs/recorded", "--ranks=16"),
}
RECORDS = [(site, template) for site in SITES for template in ("pretrain", "generate")]
"""Each site's two kinds of nodes; and the other jobs, which differ in their own part, at one site each."""
RECORDS += [("perlmutter", "finetune"), ("juwels_booster", "evaluate"), ("frontier", "study"), ("local", "report")]
RECORDS += [("perlmutter", "scaling")]


@pytest.fixture(autouse=True)
def _checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def directives(text):
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_every_job_is_recorded():
    assert {template for _, template in RECORDS} == set(JOBS) == set(TEMPLATES)
    recorded = {path.stem for path in RECORDED.iterdir()}
    assert recorded == {f"{site}-{template}" for site, template in RECORDS}


@pytest.mark.parametrize(("site", "template"), RECORDS)
def test_the_script_is_the_recorded_one(site, template):
    """To record anew after a change: remove the file, run the test twice, and read the difference."""
    text = prepare(Request(template, JOBS[template], site, nodes="4", account="m1")).text
    path = RECORDED / f"{site}-{template}.sbatch"
    if not path.exists():
        path.write_text(text)
        pytest.fail(f"{path} was missing and is written now")
    assert text == path.read_text()
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


@pytest.mark.parametrize("site", SITES)
def test_tasks_and_cores_fit_on_a_node(site):
    for template, nodes in (("pretrain", load_site(site).gpu_nodes), ("generate", load_site(site).cpu_nodes)):
        given = directives(prepare(Request(template, JOBS[template], site, account="m1")).text)
        if nodes is not None and nodes.cores is not None:
            assert int(given["ntasks-per-node"]) * int(given["cpus-per-task"]) <= nodes.cores
        assert len(given) == len(set(given))


def test_what_the_user_asks_for_wins():
    options = ("--qos=debug", "--exclusive", "--requeue")
    request = Request("pretrain", JOBS["pretrain"], "perlmutter", "2-4", "m1", "00:30:00", options=options)
    given = directives(prepare(request).text)
    assert (given["nodes"], given["time"], given["account"], given["qos"]) == ("2-4", "00:30:00", "m1", "debug")
    assert "ntasks-per-node" not in given  # with it Slurm would give two nodes, for the fewest tasks
    assert given["cpus-per-task"] == "128"
    assert "export FMSCI_TASKS=4\n" in prepare(request).text
    assert given["exclusive"] == ""
    assert given["output"] == "'runs/a b/slurm-%j.log'"


def test_no_script_asks_for_more_time_than_the_site_gives():
    """Frontier gives a small job two hours; the script of pretraining asks for twelve, that of generation for two."""
    for template in JOBS:
        given = directives(prepare(Request(template, JOBS[template], "frontier", account="m1")).text)
        assert seconds_of(given["time"]) <= seconds_of("02:00:00")
    assert given["time"] == "00:15:00"  # less stays less
    request = Request("pretrain", JOBS["pretrain"], "frontier", "200", "m1", "12:00:00")
    assert directives(prepare(request).text)["time"] == "12:00:00"  # asked for


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-0:30", 88200), ("2-00:00:01", 172801)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, seconds):
    assert seconds_of(limit) == seconds
    with pytest.raises(UserError, match="is no time limit; write it as 12:00:00"):
        seconds_of(limit + ":x")


def test_options_of_srun_are_those_of_the_nodes_that_a_job_gets():
    gpu, cpu = (prepare(Request(name, JOBS[name], "frontier", account="m1")).text for name in ("pretrain", "generate"))
    assert "FMSCI_SRUN_ARGS=--gpu-bind=closest" in gpu
    assert "FMSCI_SRUN_ARGS" not in cpu


def test_a_site_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("account: me\naccount_needed: true\nrequeue: false\nsetup: ['source env.sh']\n")
    text = prepare(Request("finetune", ("configs/finetune/quickstart.yaml",), str(path))).text
    assert "#SBATCH --account=me" in text
    assert "#SBATCH --no-requeue" in text
    assert "#SBATCH --requeue" not in text
    assert "export FMSCI_REQUEUE=no\nsource env.sh\nset -- configs/finetune/quickstart.yaml" in text


def test_a_folder_slurm_of_ones_own_is_not_that_of_the_scripts(tmp_path, monkeypatch):
    config = ROOT / "configs/finetune/quickstart.yaml"
    monkeypatch.chdir(tmp_path)
    Path("slurm").mkdir()
    text = prepare(Request("finetune", (str(config), "run=r", "init=null"))).text
    assert f"export FMSCI_SLURM={ROOT / 'slurm'}\nset -- " in text


@pytest.mark.parametrize("words", [("--output", "mine/error.json"), ("--output=mine/error.json", "--split=test")])
def test_the_script_and_log_of_an_evaluation_lie_beside_its_result(words):
    """The model may be another's, in a folder that only they write to."""
    prepared = prepare(Request("evaluate", (*JOBS["evaluate"], *words)))
    assert prepared.script == Path("mine/evaluate.sbatch")
    assert directives(prepared.text)["output"] == "mine/slurm-%j.log"
    assert prepare(Request("evaluate", JOBS["evaluate"])).folder == Path("runs/quickstart/pretrain")


def test_a_study_is_an_array_of_what_is_missing(tmp_path):
    run = tmp_path / "study"
    arguments = ("configs/study/quickstart.yaml", f"run={run}")
    given = directives(prepare(Request("study", arguments, concurrent=3)).text)
    assert given["array"] == "0,1,2,3,4,5%3"
    runs = plan(load_settings(StudySettings, Path(arguments[0]), arguments[1:])).sweep
    assert [(one.arm, one.samples) for one in (runs[1], runs[2])] == [("scratch", 16), ("finetune", 64)]
    for one in (runs[1], runs[2]):
        one.evaluation.parent.mkdir(parents=True)
        for path in one.results:
            path.write_text("{}")
    assert directives(prepare(Request("study", arguments)).text)["array"] == "0,3,4,5%4"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request("pretrain", JOBS["pretrain"], "perlmutter"), "perlmutter takes no job without an account: add "),
        (Request("pretrian", JOBS["pretrain"]), "there is no job 'pretrian' (did you mean 'pretrain'?); choose "),
        (Request("pretrain", ()), "what is to be submitted? write fmsci submit pretrain CONFIG"),
        (Request("pretrain", JOBS["pretrain"], options=("exclusive",)), "'exclusive' is no option for sbatch; write "),
        (Request("generate", ("configs/data/quickstart_pretrain.yaml", "gird=3")), "unknown setting 'gird' (did you"),
    ],
)
def test_a_mistake_is_a_sentence(request_, sentence):
    with pytest.raises(UserError) as caught:
        prepare(request_)
    assert sentence in str(caught.value)
