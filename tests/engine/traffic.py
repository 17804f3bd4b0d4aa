"""Count what the ranks really exchange in one optimizer step: a hook on every collective, DDP's own included.

``mpiexec -n N python -m tests.engine.traffic OUTPUT JSON NUMBER`` where JSON is a list of engine settings; in the last
NUMBER of them a block of the model is frozen.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch.distributed as dist

from fmsci.config.sections import EngineSettings, OptimSettings
from fmsci.dataset.loader import Loader
from fmsci.engine.build import build_engine
from fmsci.engine.group import process_group
from fmsci.train.optim import build_optimizer
from fmsci.world import detect_world
from tests.engine.curves import BATCH, CPU, LR, Remembered, build_operator

COUNTED = Counter()
FROZEN = "layers.1"
COLLECTIVES = {
    "all_reduce": ("all_reduce", 0, "tensor"),
    "all_gather_into_tensor": ("all_gather", 0, "output_tensor"),
    "reduce_scatter_tensor": ("reduce_scatter", 1, "input"),
}
"""Function -> what it is counted as, and which of its arguments is the whole of what it works on."""


def count_python_collectives():
    for name in COLLECTIVES:
        setattr(dist, name, counting(name, getattr(dist, name)))


def counting(name, real):
    kind, place, keyword = COLLECTIVES[name]

    def counted(*arguments, **named):
        whole = named[keyword] if keyword in named else arguments[place]
        COUNTED[kind] += whole.numel() * whole.element_size()
        return real(*arguments, **named)

    return counted


def main(output, settings, num_frozen):
    world = detect_world()
    found = []
    with process_group(world, CPU, timeout_s=60.0, always=True):
        count_python_collectives()
        documents = json.loads(settings)
        for number, document in enumerate(documents):
            chosen = EngineSettings(**document)
            operator = build_operator()
            freeze = (FROZEN,) if number >= len(documents) - int(num_frozen) else ()
            optimizer = build_optimizer(operator, OptimSettings(epochs=1, freeze=freeze))
            engine = build_engine(chosen, operator, optimizer, world, None)
            loader = Loader(Remembered(), BATCH, 0, world.rank, world.size, chosen.accumulate, CPU, prefetch=0)
            for index, batch in enumerate(loader.epoch(0)):
                if index == 2:  # the first steps are not like the others
                    COUNTED.clear()
                engine.step(batch, LR)
            found.append(dict(COUNTED))
    if world.is_main:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
