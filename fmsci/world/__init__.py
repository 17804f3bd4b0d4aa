"""This process among those of its job, and on its machine. The only room that reads or sets environment variables."""

from fmsci.world.process import (
    child_environment,
    collect_garbage,
    cores_per_process,
    end_with_parent,
    free_port,
    gpus_of_job,
    hdf5_locks,
    job_end_time,
    job_hosts,
    keep_freed_memory,
    num_cores,
    one_numpy_thread,
    postpone_garbage,
    prepare_deepspeed,
    prepare_wandb,
    stale_lock_s,
    thread_limit,
    threads_per_process,
)
from fmsci.world.ranks import World, detect_world
from fmsci.world.signals import StopSignals, ignore_signals

__all__ = [
    "StopSignals",
    "World",
    "child_environment",
    "collect_garbage",
    "cores_per_process",
    "detect_world",
    "end_with_parent",
    "free_port",
    "gpus_of_job",
    "hdf5_locks",
    "ignore_signals",
    "job_end_time",
    "job_hosts",
    "keep_freed_memory",
    "num_cores",
    "one_numpy_thread",
    "postpone_garbage",
    "prepare_deepspeed",
    "prepare_wandb",
    "stale_lock_s",
    "thread_limit",
    "threads_per_process",
]
