"""Train on ranks of which one is slow: ``mpiexec -n N python -m tests.train.straggler CONFIG RUN RANK SECONDS``."""

import sys
import time
from pathlib import Path

import torch

from fmsci.config import TrainSettings, load_settings
from fmsci.engine.group import process_group
from fmsci.train import build, run
from fmsci.world import detect_world
from tests.conftest import TRAINING


def main(config, folder, rank, seconds, *more):
    world, cpu = detect_world(), torch.device("cpu")
    settings = load_settings(TrainSettings, Path(config), [*TRAINING, f"run={folder}", *more])

    def build_slow(*arguments):
        job = build.build_job(*arguments)
        if world.rank == int(rank):
            job.engine.operator.register_forward_hook(lambda *_: time.sleep(float(seconds)))
        return job

    run.build_job = build_slow
    with process_group(world, cpu, timeout_s=60.0, always=True):
        run.run_training(settings, world, cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
