"""The portions in closed form are those that DDP really reduces."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fmsci.config.sections import EngineSettings
from fmsci.engine.buckets import portions
from fmsci.engine.group import process_group
from fmsci.model.operator import SolutionOperator
from fmsci.model.scales import Scales
from fmsci.model.sizes import architecture
from fmsci.world import World


@pytest.mark.parametrize("size", ["64K", "1M", "16M"])
def test_portions_are_the_buckets_of_ddp(size):
    shape = architecture(4, size)
    operator = SolutionOperator(shape, Scales(1.0, {"a": 1.0, "b": 1.0, "c": 1.0}))
    seen = []
    with process_group(World(), torch.device("cpu"), 60.0, always=True):
        parallel = DistributedDataParallel(operator, gradient_as_bucket_view=True)

        def look(state, bucket):
            seen.append(bucket.buffer().numel() * 4)
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        look.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}
        parallel.register_comm_hook(None, look)
        for _ in range(2):  # after the first step the buckets are made anew, in the order of the gradients
            seen.clear()
            parallel(torch.randn(1, 64, 64), torch.ones(1, 3)).sum().backward()
        del parallel
    assert seen == pytest.approx([size for size, _ in portions(EngineSettings(), shape)], rel=1e-3)


def test_portions_hold_every_gradient_once():
    for size in ("64K", "1M", "16M", "256M"):
        shape = architecture(4, size)
        for settings in (EngineSettings(), EngineSettings(kind="zero"), EngineSettings(compress=True)):
            found = portions(settings, shape)
            width = 2 if settings.compress else 4
            assert sum(count for count, _ in found) == width * shape.num_parameters
            assert [ready for _, ready in found] == sorted(ready for _, ready in found)
            assert found[-1][1] == 1.0


def test_deepspeed_reduces_fifty_million_numbers_at_a_time():
    """A layer of 256M has 67 million, so it is sent when it is there; 16M has fewer in all."""
    zero = EngineSettings(kind="zero")
    assert [ready for _, ready in portions(zero, architecture(4, "256M"))] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert len(portions(zero, architecture(4, "16M"))) == 1
