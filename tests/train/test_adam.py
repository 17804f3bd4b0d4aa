"""Our Adam is torch's, without the compiler that torch imports for its own."""

import subprocess
import sys

import pytest
import torch

from fmsci.train.adam import Adam
from tests.commands import clean_environment
from tests.conftest import TRAINING

TRAIN = """
import sys
from fmsci.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
print("imported:", *(name for name in ("torch", "torch._dynamo", "sympy") if name in sys.modules))
"""


def weights_after_steps(make, halfway=lambda optimizer: optimizer):
    """Return what 6 steps make of some numbers; ``halfway`` may put another optimizer in the place of the first."""
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(5, 3, generator=generator, requires_grad=True) for _ in range(2)]
    optimizer = make([{"params": weights[:1], "lr_factor": 1.0}, {"params": weights[1:], "lr": 0.02}])
    for step in range(6):
        if step == 3:
            optimizer = halfway(optimizer)
        optimizer.zero_grad()
        sum((one**2 - one).sum() for one in weights).backward()
        optimizer.step()
    return torch.cat([one.detach() for one in weights])


@pytest.mark.parametrize("decoupled", [False, True])
def test_its_steps_have_the_bits_of_torchs(decoupled):
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = weights_after_steps(lambda groups: kind(groups, lr=0.1, weight_decay=0.3, fused=True))

    def ours(groups):
        return Adam(groups, lr=0.1, weight_decay=0.3, decoupled_weight_decay=decoupled, fused=True)

    def put_back(optimizer):
        again = ours([{"params": group["params"]} for group in optimizer.param_groups])
        again.load_state_dict(optimizer.state_dict())
        return again

    assert torch.equal(weights_after_steps(ours), theirs)
    assert torch.equal(weights_after_steps(ours, put_back), theirs)


def test_a_closure_is_called_with_gradients():
    weight = torch.ones(2, requires_grad=True)
    optimizer = Adam([weight], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert weight.tolist() == pytest.approx([0.5, 0.5])


def test_one_process_trains_without_the_compiler(tmp_path, train_config):
    words = ["train", train_config, f"run={tmp_path / 'run'}", *TRAINING, "monitor.pictures=true"]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: torch"
