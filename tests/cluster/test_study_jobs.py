"""A whole study as jobs: which there are and what each waits for; on a real cluster, to the report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fmsci.cluster import arguments, study
from fmsci.cluster.pipeline_status import pipeline_status
from fmsci.cluster.queue import Queue, Queued
from fmsci.cluster.sharing import ARRAY_FILE, check_alone, read_record, remember, remember_array
from fmsci.cluster.study import study_links, submit_study
from fmsci.cluster.submit import Request, prepare
from fmsci.config import StudySettings, load_settings
from fmsci.errors import UserError
from fmsci.files import write_json
from fmsci.study.plan import plan
from tests.cluster.running import job_of
from tests.commands import clean_environment, run
from tests.test_world import BATCH

FILES = {
    "data.yaml": "{system: poisson, range: [1, 5], grid: 16, train: 8, valid: 4, test: 4, output: data}",
    "train.yaml": "{run: unset, data: {path: data}, model: {width: 4, modes: 4, layers: 2}, "
    "optim: {epochs: 1, batch_size: 4}, engine: {threads: 1}, monitor: {pictures: false}}",
    "study.yaml": "{study: q1, run: study, data: {configs: [data.yaml]}, models: {m: {train: train.yaml}}, "
    "tasks: {t: data}, train: train.yaml, samples: [4], steps: 2, rates: [1.0e+18, 1.0e-3], seeds: [0, 1]}",
    "site.yaml": "{gpu_nodes: {partition: main, cores: 2, tasks: 2}, time: '01:00:00', mpi: pmi2, "
    "environment: {OMP_NUM_THREADS: '1'}}",
}
NAMES = ["generate data", "pretrain", "zero-shot", "sweep", "repeats", "report"]


def test_every_stage_is_a_job_that_waits_for_those_before(files):
    request = Request("study", (), nodes="2", concurrent=3)
    placed = submit_study(Path("study.yaml"), ["workers=2"], request, dry_run=True)
    assert [one.name for one in placed] == NAMES
    assert {one.name: one.after for one in placed} == {
        "generate data": (),
        "pretrain": ("generate data",),
        "zero-shot": ("generate data", "pretrain"),
        "sweep": ("generate data", "pretrain"),
        "repeats": ("generate data", "pretrain", "sweep"),
        "report": ("zero-shot", "sweep", "repeats"),
    }
    assert not (files / "study").exists()


@pytest.mark.parametrize(("stage", "tasks"), [("pretrain", "0"), ("sweep", "0,1,2,3"), ("repeats", "0,1")])
def test_the_script_of_a_stage_is_an_array_of_its_jobs(files, stage, tasks):
    prepared = prepare(Request("study", ("study.yaml", f"--stage={stage}"), concurrent=3))
    assert f"#SBATCH --array={tasks}%3\n" in prepared.text
    assert f"set -- {prepared.settings[0]} --stage={stage}\n" in prepared.text
    assert prepared.script == Path("study") / ("study.sbatch" if stage == "sweep" else f"study-{stage}.sbatch")


def test_a_stage_of_more_jobs_than_an_array_counts_is_several_arrays(files, monkeypatch):
    """Slurm counts to 1,000 where the site has not set its MaxArraySize."""
    for module in (arguments, study):
        monkeypatch.setattr(module, "ARRAY_JOBS", 3)
    alone = prepare(Request("study", ("study.yaml", "--stage=sweep"), concurrent=3)).text
    assert "#SBATCH --array=0,1,2,3%3\n" in alone  # by itself, or in a pipeline, it is one: Slurm may take it
    links = study_links(Path("study.yaml"), ["samples=[2, 4]"], Request("study", (), concurrent=5))
    sweep, repeats = ("sweep", "sweep from 3", "sweep from 6"), ("repeats", "repeats from 3")
    assert [link.name for link in links] == [*NAMES[:3], *sweep, *repeats, "report"]
    assert {name for link in links[6:8] for name in link.after} == {"generate data", "pretrain", *sweep}
    assert links[-1].after == ("zero-shot", *sweep, *repeats)
    scripts = [prepare(link.request) for link in links[3:6]]
    arrays = [line for one in scripts for line in one.text.splitlines() if line.startswith("#SBATCH --array=")]
    assert arrays == ["#SBATCH --array=0,1,2%2", "#SBATCH --array=0,1,2%2", "#SBATCH --array=0,1%1"]
    assert [one.script.name for one in scripts] == ["study.sbatch", "study-3.sbatch", "study-6.sbatch"]
    assert f"set -- {scripts[1].settings[0]} --stage=sweep --first=3\n" in scripts[1].text
    whole = plan(load_settings(StudySettings, Path("study.yaml"), ["samples=[2, 4]"]))
    words = ["study", "study.yaml", "plan", "samples=[2, 4]", "--stage=sweep", "--first=3", "--arguments-of", 1]
    assert run(words).splitlines() == list(whole.sweep[4].words)
    whole.sweep[4].folder.mkdir(parents=True)
    (whole.sweep[4].folder / "outcome.json").write_text('{"status": "failed", "why": "training diverged"}')
    assert "--array=0,2%2\n" in prepare(links[4].request).text


def test_a_task_finds_its_job_in_the_settings_that_the_array_was_submitted_with(files):
    request = Request("study", ("study.yaml", "seeds=[0, 3]", "--stage=sweep"))
    path, text = prepare(request).settings
    before = load_settings(StudySettings, Path("study.yaml"), ["seeds=[0, 3]"])
    path.parent.mkdir()
    path.write_text(text)
    Path("study.yaml").write_text(FILES["study.yaml"].replace("rates: [1.0e+18, ", "rates: [2.0e-3, 1.0e+18, "))
    assert load_settings(StudySettings, path) == before
    words = run(["study", path, "plan", "--stage=sweep", "--arguments-of", 1]).splitlines()
    assert words == list(plan(before).sweep[1].words)
    assert "optim.lr=0.001" in words
    assert prepare(request).settings[0] != path


def asked(words, **environment):
    """Return what ``fmsci WORDS`` printed in the batch script of a job of two nodes with four tasks."""
    batch = BATCH | {"SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"} | environment
    command = [sys.executable, "-m", "fmsci", *map(str, words)]
    done = subprocess.run(
        command, env=clean_environment() | batch, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("words", ["study.yaml plan", "study.yaml plan --stage=pretrain --arguments-of 0"])
def test_the_script_of_a_job_of_many_tasks_asks_what_to_start(files, words):
    """Outside of its steps, where only one process runs."""
    assert asked(["study", *words.split()])
    (files / "scaling.yaml").write_text("{run: scaling, world_sizes: [1], weak: [1], models: [64K]}")
    assert "1 points are missing" in asked(["scaling", "scaling.yaml", "plan"])
    assert asked(["status", "--path", "train.yaml"]) == "unset\n"
    assert asked(["generate", "data.yaml", "--path"]) == "data\n"


def test_studies_that_share_their_runs_are_submitted_one_at_a_time(files, monkeypatch):
    shared, mine, other = Path("runs"), Path("study/pipeline.json"), Path("other/pipeline.json")
    for record in (mine, other):
        write_json(record, {"links": {"sweep": {"jobs": ["7"], "logs": []}}})
    known = {"7": Queued("PENDING", "Priority", "9:00")}
    check_alone(shared, mine, known)  # nobody knows of the other
    for record in (mine, other, other):
        remember(shared, record)
    sentence = r"jobs of .*/other are in the queue and make runs in runs, which study shares; .* scancel 7"
    with pytest.raises(UserError, match=sentence):
        check_alone(shared, mine, known)
    monkeypatch.setattr("fmsci.cluster.pipeline.queue", lambda: Queue(known))
    with pytest.raises(UserError, match=sentence):
        submit_study(Path("study.yaml"), ["runs=runs"], Request("study", ()), dry_run=True)
    check_alone(shared, mine, {"7": Queued("COMPLETED", "None", "0:00")})
    shutil.rmtree("other")
    check_alone(shared, mine, known)  # its own jobs are no others


def test_an_array_that_was_submitted_alone_counts_too(files):
    """Its record is another than that of the same study as a whole: both would make the same runs."""
    prepared = prepare(Request("study", ("study.yaml", "runs=runs")))
    assert prepared.shared == Path("runs")
    assert prepare(Request("study", ("study.yaml",))).shared == Path("study/runs")
    record, known = Path("study") / ARRAY_FILE, {"8": Queued("RUNNING", "None", "9:00")}
    remember_array(Path("runs"), record, ["7", "8"])
    assert read_record(record).links["study"].jobs == ("7", "8")
    check_alone(Path("runs"), record, known)
    for other in ("study", "other"):
        with pytest.raises(UserError, match=r"jobs of .*/study are in the queue and make runs in runs, .* scancel 8"):
            check_alone(Path("runs"), Path(other) / "pipeline.json", known)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"links": 3}', '{"links": {"sweep": {"jobs": 7}}}', '{"links": {"sweep": []}}', '{"links": {}}'],
)
def test_a_damaged_record_is_a_sentence(files, content):
    record = Path("study/pipeline.json")
    record.parent.mkdir()
    record.write_text(content)
    remember(Path("study/runs"), Path("other/pipeline.json"))
    words = ["study", "study.yaml", "submit", "--dry-run"]
    said = [run(words, code=0 if content == '{"links": {}}' else 2, cwd=files), run(["status", "study"], cwd=files)]
    assert "study/pipeline.json" in said[1]
    assert not any("Traceback" in one for one in said)
    record.rename("elsewhere.json")
    Path("study/runs/pipelines.json").write_text('["x", 3]')
    assert "study/runs/pipelines.json is no list of files; remove it" in run(words, code=2, cwd=files)


def test_the_report_is_that_of_the_settings_that_were_submitted(files):
    prepared = prepare(Request("report", ("study.yaml", "samples=[2]")))
    path, text = prepared.settings
    assert f"set -- {path}\n" in prepared.text
    path.parent.mkdir()
    path.write_text(text)
    assert load_settings(StudySettings, path) == load_settings(StudySettings, Path("study.yaml"), ["samples=[2]"])


def test_status_tells_of_the_stages(files):
    record = Path("study/pipeline.json")
    record.parent.mkdir()
    links = {name: {"jobs": [str(n)], "logs": [f"{n}.log"]} for n, name in enumerate(NAMES, 1)}
    record.write_text(json.dumps({"study": "study.yaml", "overrides": [], "links": links}))
    known = {"1": Queued("RUNNING", "None", "9:00"), "5": Queued("PENDING", "Dependency", "9:00")}
    told = {one.link: (one.state, one.why) for one in pipeline_status(record, known)}
    assert told["generate data"] == ("RUNNING", None)
    assert told["repeats"] == ("PENDING", "waits for generate data, pretrain, sweep")


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm-stopped")
def test_a_study_goes_from_data_to_its_report_by_itself(cluster, place):
    """One of the rates diverges: that is found out, not a failure; the repeats take the other. Two tasks a node."""
    submit = ["fmsci", "study", "study.yaml", "submit", "--site", "site.yaml"]
    said = dict(line.split(": ", 1) for line in cluster.login(*submit).splitlines())
    assert [said[name].partition(" as ")[0] for name in NAMES] == ["submitted"] * 6
    jobs = [job_of(said[name]) for name in NAMES]
    assert [cluster.ended(job, seconds=400) for job in jobs] == ["COMPLETED"] * 6
    document = json.loads((place / "study" / "table.json").read_text())
    assert document["missing"] == []
    assert len(document["diverged"]) == 2
    assert [row["ratio"] is None for row in document["rows"]] == [False]
    rows = (place / "study" / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 2 + 2  # pretraining, the rate that serves in both arms, a repeat of each
    again = cluster.login(*submit)
    assert again.count("finished") == 6


@pytest.mark.slurm
@pytest.mark.xdist_group("slurm-stopped")
def test_an_array_in_the_queue_keeps_the_whole_study_out(cluster, place):
    said = cluster.login("fmsci", "submit", "study", "study.yaml", "--site", "local", "--sbatch=--hold")
    job = said.partition("job ")[2].partition(":")[0]
    assert read_record(place / "study" / ARRAY_FILE).links["study"].jobs == (job,)
    whole = ["fmsci", "study", "study.yaml", "submit", "--site", "local", "--dry-run"]
    assert "are in the queue and make runs in study/runs, which study shares; submit this when" in cluster.login(
        *whole, code=2
    )
    cluster.login("scancel", job)
    cluster.wait_for("its end", lambda: cluster.states(job) <= {"CANCELLED"})
    assert "sweep: would be submitted" in cluster.login(*whole)
