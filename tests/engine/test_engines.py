"""Every engine on any number of processes trains as one plain loop does, and goes on where another stopped."""

import json
import math
import subprocess
from pathlib import Path

import pytest
import torch

from fmsci.dataset.order import epoch_order
from fmsci.tensors import each_tensor
from tests.commands import MPIEXEC, clean_environment
from tests.engine.curves import BATCH, LR, NUM_SAMPLES, Remembered, build_operator
from tests.warm import warm

ROOT = Path(__file__).parents[2]
CLIP = 2.0
COMPRESSED = ("ddp", "replayed", "zero2")
pytestmark = pytest.mark.xdist_group("engines")  # they share what the first of them trained


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """DeepSpeed keeps small weights whole on every rank, and this model has no others: ask it to cut all."""
    path = tmp_path_factory.mktemp("deepspeed") / "cut.json"
    path.write_text('{"zero_optimization": {"stage3_param_persistence_threshold": 0}}')
    return path


def engines(sharded):
    zero = {f"zero{stage}": {"kind": "zero", "zero_stage": stage} for stage in (0, 1, 2, 3)}
    zero["zero3"]["deepspeed_config"] = str(sharded)
    return {"ddp": {"kind": "ddp"}, "replayed": {"replayed": True}, **zero}


def train(ranks, cases, folder):
    """Run the cases in one group of so many processes."""
    output = folder / f"curves-{ranks}.json"
    words = ["-m", "tests.engine.curves", output, json.dumps(cases)]
    done = subprocess.run(
        [str(MPIEXEC), "-n", str(ranks), *warm(words, deepspeed=True)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


def plain(clip=None, steps=50, skipped=(), blocks=None, decay=None, relative=False):
    """The recipe as plainly as can be: one process, whole batches, torch's own Adam and clipping.

    ``blocks``: name of a parameter -> factor of its learning rate; 0 where it is frozen. ``decay``: of AdamW.
    """
    operator, samples = build_operator(), Remembered()
    factor = blocks or (lambda name: 1.0)
    described = [
        {"params": [one], "lr": LR * factor(name)} for name, one in operator.named_parameters() if factor(name)
    ]
    optimizer = torch.optim.Adam(described) if decay is None else torch.optim.AdamW(described, weight_decay=decay)
    curve = []
    for step in range(steps):
        order = epoch_order(0, step // 3, NUM_SAMPLES)
        part = samples.gather(order[step % 3 * BATCH :][:BATCH])
        predicted = operator(part.source, part.coefficients)
        losses = (predicted - part.solution).square().sum(dim=(1, 2))
        loss = (losses / part.solution.square().sum(dim=(1, 2)) if relative else losses).mean()
        if step in skipped:
            continue
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(operator.parameters(), clip)
        optimizer.step()
        error = (predicted - part.solution).detach().norm(dim=(1, 2)) / part.solution.norm(dim=(1, 2))
        curve.append([loss.item(), error.mean().item()])
    return curve


def factor_of(name):
    """Say what BLOCKS means, once more."""
    inside = name.removeprefix("fno.")
    return 0.0 if inside.startswith("lift") else 0.5 if inside.startswith("layers.1.") else 1.0


BLOCKS = {"freeze": ["lift"], "lr_factors": {"layers.1": 0.5}}
LONG, SHORT, MIDDLE = 50, 15, 25
"""Steps of a whole training, of a shorter one, and of the checkpoint that others continue from."""


EARLY = 7
"""Step of the checkpoint in the middle of a shorter training."""


def special(sharded, folder):
    """Return trainings with what only some have: blocks, offload, weights let go of, fields computed again."""
    cases = {
        f"{name} blocks": {"engine": engine, "optim": BLOCKS, "steps": SHORT}
        for name, engine in engines(sharded).items()
        if name != "zero0"
    }
    for name in ("zero2", "zero3"):
        cases[f"{name} offload"] = {"engine": {**engines(sharded)[name], "offload": True}, "steps": SHORT}
    nothing_stays = folder / "released.json"
    switches = ["param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size"]
    nothing_stays.write_text(json.dumps({"zero_optimization": {f"stage3_{name}": 0 for name in switches}}))
    released = {**engines(sharded)["zero3"], "deepspeed_config": str(nothing_stays)}
    cases["zero3 released"] = {"engine": released, "steps": SHORT}
    for name, engine in {"ddp": engines(sharded)["ddp"], "zero2": engines(sharded)["zero2"], "zero3": released}.items():
        cases[f"{name} recompute"] = {"engine": {**engine, "recompute": 2}, "steps": SHORT}
    return cases


DECAYED = {"optimizer": "adamw", "weight_decay": 0.3}


def further(sharded, folder):
    """Return short trainings: weights that decay, another loss, clipping of what was accumulated, small buckets."""
    known = engines(sharded)
    cases = {f"{name} decayed": {"engine": engine, "optim": DECAYED} for name, engine in known.items()}
    for name in ("ddp", "zero3"):
        cases[f"{name} relative"] = {"engine": {**known[name], "accumulate": 2}, "loss": "relative"}
    for name in ("ddp", "zero2"):
        cases[f"{name} clipped-sum"] = {"engine": {**known[name], "accumulate": 2}, "clip": CLIP}
    for stage in (1, 2, 3):
        small = {"reduce_bucket_size": 100, "allgather_bucket_size": 100}
        small |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 100} if stage == 3 else {}
        path = folder / f"small-{stage}.json"
        path.write_text(json.dumps({"zero_optimization": small}))
        cases[f"zero{stage} small-buckets"] = {"engine": {**known[f"zero{stage}"], "deepspeed_config": str(path)}}
    return cases


@pytest.fixture(scope="module")
def two(sharded, tmp_path_factory):
    """What two processes give, and the checkpoints that they leave: ``FOLDER/ENGINE``."""
    folder = tmp_path_factory.mktemp("two")
    cases = []
    for name, engine in engines(sharded).items():
        whole = {"name": name, "engine": engine, "steps": LONG}
        cases += [
            {**whole, "save": {str(MIDDLE): str(folder / name)}},
            {**whole, "name": f"{name} resumed", "start": MIDDLE, "load": str(folder / name)},
            {"name": f"{name} accumulated", "engine": {**engine, "accumulate": 2}, "steps": LONG},
            {"name": f"{name} clipped", "engine": engine, "clip": CLIP, "steps": SHORT},
        ]
    for name, engine in engines(sharded).items():
        for how in ({"compress": True}, {"precision": "bf16"}):
            if "precision" in how or name in COMPRESSED:
                cases.append({"name": f"{name} {next(iter(how))}", "engine": {**engine, **how}, "steps": LONG})
    cases += [{"name": name, "steps": SHORT, **case} for name, case in further(sharded, folder).items()]
    for name, case in special(sharded, folder).items():
        left = folder / name.replace(" ", "-")
        cases.append({"name": name, **case, "save": {str(EARLY): str(left)}})
        cases.append({"name": f"{name} resumed", **case, "start": EARLY, "load": str(left)})
    return folder, train(2, cases, folder)


@pytest.fixture(scope="module", params=(1, 3, 4), ids=lambda ranks: f"{ranks} processes")
def others(request, sharded, two, tmp_path_factory):
    """What other numbers of processes give, from the start and from the checkpoints of two."""
    ranks, cases = request.param, []
    names = list(engines(sharded))
    for number, (name, engine) in enumerate(engines(sharded).items()):
        came_from = names[(number + ranks) % len(names)] if ranks != 3 else name  # another engine's, or its own
        cases += [
            {"name": name, "engine": engine, "steps": LONG},
            {"name": f"{name} accumulated", "engine": {**engine, "accumulate": 2}, "steps": LONG},
            {
                "name": f"{name} resumed",
                "engine": engine,
                "start": MIDDLE,
                "steps": MIDDLE + SHORT,
                "load": str(two[0] / came_from),
            },
        ]
    return train(ranks, cases, tmp_path_factory.mktemp("others"))


def assert_same_curve(found, expected, name):
    assert torch.tensor(found["curve"]).numpy() == pytest.approx(torch.tensor(expected).numpy(), rel=1e-5), name


@pytest.mark.distributed
def test_two_processes_follow_the_plain_loop(two, sharded):
    expected = plain()
    assert expected[-1][0] < 0.9 * expected[0][0]
    for name in engines(sharded):
        assert_same_curve(two[1][name], expected, name)
        assert_same_curve(two[1][f"{name} accumulated"], expected, name)


@pytest.mark.distributed
def test_any_number_of_processes_follows_the_plain_loop(others, sharded):
    expected = plain()
    for name in engines(sharded):
        assert_same_curve(others[name], expected, name)
        assert_same_curve(others[f"{name} accumulated"], expected, name)


@pytest.mark.distributed
def test_every_engine_clips_as_torch_does(two, sharded):
    expected = plain(clip=CLIP, steps=SHORT)
    free = plain(steps=SHORT)
    assert max(abs(a[0] / b[0] - 1) for a, b in zip(expected, free, strict=True)) > 1e-3  # the clipping does something
    for name in engines(sharded):
        assert_same_curve(two[1][f"{name} clipped"], expected, name)


@pytest.mark.distributed
def test_decay_loss_clipping_of_what_was_accumulated_and_small_buckets_follow_the_plain_loop(two, sharded):
    expected = {"decayed": plain(steps=SHORT, decay=0.3), "clipped-sum": plain(clip=CLIP, steps=SHORT)}
    expected["relative"] = plain(steps=SHORT, relative=True)
    expected["small-buckets"] = free = plain(steps=SHORT)
    assert abs(expected["decayed"][-1][0] / free[-1][0] - 1) > 1e-3
    assert max(parameter.numel() for parameter in build_operator().parameters()) > 100
    for name in further(sharded, two[0]):
        assert_same_curve(two[1][name], expected[name.split()[1]], name)


@pytest.mark.distributed
def test_blocks_offload_released_weights_and_recomputing_change_nothing_else(two, sharded):
    expected = {"blocks": plain(steps=SHORT, blocks=factor_of), "offload": plain(steps=SHORT)}
    expected["released"] = expected["recompute"] = expected["offload"]
    assert max(abs(a[0] / b[0] - 1) for a, b in zip(*list(expected.values())[:2], strict=True)) > 1e-3
    for name in special(sharded, two[0]):
        whole, resumed = two[1][name], two[1][f"{name} resumed"]
        assert_same_curve(whole, expected[name.split()[1]], name)
        assert resumed["curve"] == whole["curve"][EARLY:], name
        assert resumed["weights"] == whole["weights"], name
    num_parameters = len(list(build_operator().parameters()))
    assert two[1]["zero3"]["absent"] < two[1]["zero3 released"]["absent"] < num_parameters


@pytest.mark.distributed
@pytest.mark.parametrize(("how", "off_by"), [("compress", 3e-3), ("precision", 3e-2)])
def test_bfloat16_follows_the_plain_loop_less_closely(two, sharded, how, off_by):
    expected = plain()
    for name in engines(sharded) if how == "precision" else COMPRESSED:
        ratios = [
            found[0] / loss[0] - 1 for found, loss in zip(two[1][f"{name} {how}"]["curve"], expected, strict=True)
        ]
        largest = max(map(abs, ratios))
        print(f"{name} {how}: losses differ by up to {largest:.1e}")
        assert 1e-5 < largest < off_by, name


@pytest.mark.distributed
def test_resumed_on_as_many_processes_it_ends_in_the_same_bits(two, sharded):
    for name in engines(sharded):
        whole, resumed = two[1][name], two[1][f"{name} resumed"]
        assert resumed["curve"] == whole["curve"][MIDDLE:], name
        assert resumed["weights"] == whole["weights"], name
        assert resumed["predicted"] == whole["predicted"], name


@pytest.mark.distributed
def test_any_engine_on_any_number_of_processes_goes_on_from_any_checkpoint(others, sharded):
    expected = plain()[MIDDLE : MIDDLE + SHORT]
    for name in engines(sharded):
        assert_same_curve(others[f"{name} resumed"], expected, name)


@pytest.mark.distributed
def test_checkpoints_of_all_engines_hold_the_same(two, sharded):
    tensors = {
        name: [dict(each_tensor(two[0] / name / f"{kind}.safetensors")) for kind in ("model", "optimizer")]
        for name in engines(sharded)
    }
    for name, files in tensors.items():
        for mine, other in zip(files, tensors["ddp"], strict=True):
            assert mine.keys() == other.keys()
            for key in mine:
                assert torch.allclose(mine[key], other[key], rtol=1e-3, atol=1e-6), (name, key)
    assert tensors["ddp"][1]["step.fno.lift.weight"] == MIDDLE


@pytest.mark.distributed
def test_a_gradient_that_is_not_finite_is_told_and_makes_no_update_where_that_is_wanted(sharded, tmp_path):
    """A batch that is spoilt, and one whose loss is finite; with ``on_nonfinite=stop`` the right one is blamed too."""
    cases = [
        {"name": f"{name} {what} {skip}", "engine": engine, "steps": 4, what: [1], "skip": skip}
        for name, engine in engines(sharded).items()
        for what, skip in (("spoil", True), ("overflow", True), ("overflow", False))
    ]
    without, whole = plain(steps=4, skipped=[1]), plain(steps=4)
    for name, found in train(2, cases, tmp_path).items():
        loss, error = found["curve"].pop(1)
        assert math.isnan(loss), name
        assert math.isnan(error) if "spoil" in name else error == pytest.approx(whole[1][1], rel=1e-5), name
        if name.endswith("True") or name.startswith(("zero1", "zero2", "zero3")):
            assert_same_curve(found, without, name)
        else:  # the weights are spoilt then, and the run ends before anything of them is kept
            assert found["curve"][0] == pytest.approx(whole[0], rel=1e-5), name
            assert all(math.isnan(one) for one, _ in found["curve"][1:]), name


def plain_norms(steps):
    """The norm of the gradient in each step of the plain recipe."""
    operator, samples, norms = build_operator(), Remembered(), []
    optimizer = torch.optim.Adam(operator.parameters(), lr=LR)
    for step in range(steps):
        order = epoch_order(0, step // 3, NUM_SAMPLES)
        part = samples.gather(order[step % 3 * BATCH :][:BATCH])
        loss = (operator(part.source, part.coefficients) - part.solution).square().sum(dim=(1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(sum(one.grad.square().sum() for one in operator.parameters()) ** 0.5))
        optimizer.step()
    return norms


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["ddp", "replayed", "zero0", "zero1", "zero2", "zero3"])
def test_the_norm_of_the_gradient_is_that_of_the_whole_batch_before_clipping(two, others, name):
    expected = plain_norms(SHORT)
    assert min(expected) > CLIP  # so that clipping would show
    for found in (two[1][name], others[name]):
        assert found["norms"][:SHORT] == pytest.approx(expected, rel=1e-5)
    assert two[1][f"{name} clipped"]["norms"][0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["ddp", "replayed", "zero0", "zero1", "zero2", "zero3"])
def test_waiting_for_other_ranks_is_told(two, name):
    assert min(two[1][name]["waits"]) > 0
