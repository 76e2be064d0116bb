"""What a run says at its start: what it computes on, how much it will do, and when it will end."""
from collections.abc import Sequence

import torch

from utils.distributed import World
from utils.precision import told_dtype
from utils.preemption import Limit
from utils.threads import told_threads


def outlook(world: World, dtype: torch.dtype, data, test_data, epochs: int,
            evaluated: Sequence[int], limit: Limit,
            warmup_steps: int) -> list[str]:
    """Lines to say. `data`, `test_data`: as in dataset/puzzle_dataset.py. `evaluated`: the steps after which the run is
    evaluated; the last one is the end of the run, and step 0 means the weights that it starts from."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
    shared = f", {world.size} processes of {data.local_batch_size:,} examples a step each" if world.size > 1 else ""
    first, *others = [step for step in evaluated if step]
    when = f"after step {first:,}, every {others[0] - first:,} steps from there, and " if others else ""
    when = "of the loaded weights, " * (evaluated[0] == 0) + when
    lines = [f"computing on {device} in {told_dtype(world.device, dtype)}, {told_threads()}{shared}",
             f"{data.stream.examples_per_epoch:,g} examples an epoch, {epochs:,} epochs, "
             f"{data.local_batch_size * world.size:,} examples a step: {evaluated[-1]:,} steps",
             f"evaluations on {test_data.num_examples:,} examples {when}at the "
             f"end: {len(evaluated):,}"]
    if warmup_steps > evaluated[-1]:
        lines.append(f"notice: lr_warmup_steps={warmup_steps} is longer than the run, so the "
                     f"learning rate ends at {evaluated[-1] / warmup_steps:.2g} of lr; a "
                     "tenth of the steps is usual")
    return lines + [f"{setting} ends the run before that, saved, to go on later"
                    for setting in limit.settings()]
