"""The same training on any number of processes, against one plain loop written here."""

import json

import numpy as np
import pytest
import torch

from fmsci.dataset.loader import Batch, Piece
from fmsci.dataset.order import epoch_order
from fmsci.dataset.samples import Samples
from fmsci.engine.ddp import DDPEngine
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import Architecture
from fmsci.shards import open_split, read_manifest
from fmsci.world import World
from tests.commands import run
from tests.conftest import TRAINING


def curve(folder, name="train/loss"):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


@pytest.fixture(scope="module")
def plain(poisson_data):
    """The recipe once more, as plainly as can be: torch's own Adam and schedule, no engine, no loader, no ranks."""
    reader = open_split(poisson_data, "train")
    fields, tensor, _ = reader.gather(np.arange(13))
    f, u, k = torch.from_numpy(fields[:, 0]), torch.from_numpy(fields[:, 1]), torch.from_numpy(tensor)
    found = read_manifest(poisson_data).scales
    torch.manual_seed(0)
    operator = SolutionOperator(Architecture(4, 4, 4, 2), Scales(found.source, dict(found.coefficients)))
    optimizer = torch.optim.Adam(operator.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    losses, errors = [], []
    for epoch in range(4):
        order = epoch_order(0, epoch, 13)
        for start in (0, 5, 10):
            batch = order[start : start + 5]
            predicted = operator(f[batch], k[batch])
            loss = (predicted - u[batch]).square().sum(dim=(1, 2)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            difference = (predicted - u[batch]).detach().norm(dim=(1, 2)) / u[batch].norm(dim=(1, 2))
            errors.append(difference.mean().item())
    return losses, errors


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "accumulate"), [(None, 1), (None, 3), (1, 1), (2, 1), (2, 2), (3, 1), (4, 2)])
def test_the_loss_curve_is_that_of_the_plain_loop(plain, train_config, tmp_path, ranks, accumulate):
    folder = tmp_path / "run"
    run(["train", train_config, f"run={folder}", *TRAINING, f"engine.accumulate={accumulate}"], ranks=ranks)
    losses, errors = plain
    assert curve(folder) == pytest.approx(losses, rel=1e-5)
    assert curve(folder, "train/rel_l2") == pytest.approx(errors, rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.distributed
def test_validation_counts_every_sample_once_on_any_number_of_ranks(trained, train_config, tmp_path):
    expected = curve(trained, "valid/poisson/rel_l2")
    assert len(expected) == 5  # before the first step and after each epoch
    for ranks in (2, 3):
        folder = tmp_path / str(ranks)
        run(["train", train_config, f"run={folder}", *TRAINING], ranks=ranks)
        assert curve(folder, "valid/poisson/rel_l2") == pytest.approx(expected, rel=1e-5)


@pytest.mark.distributed
def test_torchrun_starts_the_same_training(trained, train_config, tmp_path):
    import subprocess
    import sys

    from tests.commands import clean_environment

    folder = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "fmsci", "train", str(train_config), f"run={folder}", *TRAINING]
    subprocess.run([*launcher, *arguments], env=clean_environment(), check=True, capture_output=True, timeout=60)
    assert curve(folder) == pytest.approx(curve(trained), rel=1e-5)
    assert json.loads((folder / "result.json").read_text())["world_size"] == 2


@pytest.mark.distributed
def test_training_never_imports_mpi4py(train_config, tmp_path):
    """Forking workers under MPI corrupts memory at scale: rank facts come from the environment alone."""
    script = (
        "import os, sys\n"
        "os._exit = sys.exit\n"  # it would leave without a look at the modules
        "from fmsci.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not [name for name in sys.modules if name.startswith('mpi4py')]\n"
    )
    import subprocess
    import sys

    from tests.commands import MPIEXEC, clean_environment

    arguments = ["train", str(train_config), f"run={tmp_path / 'run'}", *TRAINING]
    subprocess.run(
        [str(MPIEXEC), "-n", "2", sys.executable, "-c", script, *arguments],
        env=clean_environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_clipping_holds_the_gradient_to_its_norm(poisson_data):
    """With plain gradient descent of rate 1 the step is the gradient: its length shows the clipping."""
    numbers = np.arange(5)
    fields, tensor, _ = open_split(poisson_data, "train").gather(numbers)
    found = read_manifest(poisson_data).scales
    scales = Scales(found.source, dict(found.coefficients))
    lengths = []
    for clip in (None, 1e-3):
        torch.manual_seed(0)
        operator = SolutionOperator(Architecture(4, 4, 4, 2), scales)
        before = torch.cat([p.detach().flatten().clone() for p in operator.parameters()])
        engine = DDPEngine(operator, torch.optim.SGD(operator.parameters(), 1.0), World(), clip)
        samples = Samples(torch.from_numpy(fields), torch.from_numpy(tensor))
        engine.step(Batch((Piece(samples, 5),), 5), lr=1.0)
        after = torch.cat([p.detach().flatten() for p in operator.parameters()])
        lengths.append(float((after - before).norm()))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(1e-3, rel=1e-2)
