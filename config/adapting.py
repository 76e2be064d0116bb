"""ARC tasks that a model was not trained on: it is first trained on their demonstrations, then asked for their tests.

A task's demonstrations and tests become a data set of their own, in a temporary folder, with augmentations as in any
other (dataset/build_arc_dataset.py). The puzzle embeddings of these are trained by the training step of every run; with
`adapt=embeddings` all other weights stay as they are. Then all augmentations of each test are predicted, and vote. The
checkpoint itself is not changed.
"""
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import OmegaConf
from pydantic import ValidationError
from torch import Tensor

from config.restored import Restored
from config.schema import EvaluateConfig
from dataset.arc_tasks import Task
from dataset.build_arc_dataset import write_tasks
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from losses.head import LossHead
from models.train_state import TrainConfig, build_state, to_device, train_step
from utils.command_line import CONFIG_DIR, describe_validation
from utils.distributed import World, decided_by_main

STEPS, AUGMENTATIONS = 200, 32  # of adaptation, where the settings leave them open
MOST_BATCH = 32  # examples in a batch, where the settings leave it open and the run had more
FOLDER = "tasks"  # of the data set, in the temporary folder


@contextmanager
def tasks_as_dataset(tasks: list[Task], augmentations: int | None, seed: int) -> Iterator[str]:
    """A context that gives the folder of a data set of these tasks, which all processes of one machine can read. Every
    rank must enter it."""
    temporary: list[TemporaryDirectory] = []  # of rank 0

    def written() -> str:
        temporary.append(TemporaryDirectory(prefix="arc-"))
        folder = Path(temporary[0].name, FOLDER)
        write_tasks(folder, tasks, AUGMENTATIONS if augmentations is None else augmentations, seed)
        return str(folder)

    try:
        yield decided_by_main(written)
    finally:
        for folder in temporary:
            folder.cleanup()


def batch_size(restored: Restored, config: EvaluateConfig) -> int:
    return config.global_batch_size or min(restored.settings["global_batch_size"], MOST_BATCH)


def adapted(restored: Restored, folder: str, config: EvaluateConfig, world: World) -> LossHead:
    """The loss head with a row of the puzzle table for each augmentation of the tasks in `folder`, trained on their
    demonstrations. Rows start from the mean of those in the checkpoint, or from the task's own where it is there.

    Prints how the loss fell. Raises ValueError where there are no embeddings to train, or the loss is not finite.
    """
    steps, seed = STEPS if config.adapt_steps is None else config.adapt_steps, config.seed
    data = PuzzleDataset(PuzzleDatasetConfig(
        seed=seed, dataset_paths=[folder], global_batch_size=batch_size(restored, config), test_set_mode=False,
        rank=world.rank, num_replicas=world.size), "train")
    torch.manual_seed(seed)
    arch = restored.arch_for(world)
    head = arch.build_head(data.metadata, data.local_batch_size, world)
    restored.start(head, arch, data, world, config.use_ema)
    if not steps:
        return head.eval()
    if head.puzzle_embedding is None and config.adapt == "embeddings":
        raise ValueError(f"{restored.file} has no puzzle embeddings, which adapt=embeddings trains; use adapt=all, or "
                         "adapt_steps=0")
    training = train_settings(restored, config, data.config.global_batch_size)
    state, losses, began = build_state(training, head, data, world), [], time.monotonic()
    for _ in range(steps):
        metrics = train_step(state, to_device(data.next_batch(), world.device), training, steps)
        if metrics is None:
            break
        losses.append(metrics["loss"] / metrics["rows"])
    if len(losses) < steps or not state.settle():  # whether a step was finite is known after it
        raise ValueError(f"the loss is not finite at step {len(losses)} of adaptation; use a lower rate than "
                         f"adapt_lr={training.puzzle_emb_lr:g}")
    if world.is_main:
        print(f"adapted {config.adapt} in {steps} steps of {data.config.global_batch_size}, "
              f"{time.monotonic() - began:.0f} s: loss of the demonstrations {_told(losses)}")
    head.requires_grad_(False)
    return head.eval()


def _told(losses: Sequence[Tensor]) -> str:
    """Means over the first and the last tenth."""
    tenth = max(1, len(losses) // 10)
    first, last = (torch.stack(list(part)).mean().item() for part in (losses[:tenth], losses[-tenth:]))
    return f"{first:.3f} at first, {last:.3f} at the end"


def train_settings(restored: Restored, config: EvaluateConfig, global_batch_size: int) -> TrainConfig:
    """The settings of training: those of the run, without warm-up, stages and averages; where its config lacks one, the
    default of pretrain.py. Raises ValueError for impossible ones."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "cfg_pretrain.yaml"))
    assert isinstance(defaults, dict)
    values: dict[str, Any] = {name: restored.settings.get(name, defaults[name]) for name in TrainConfig.model_fields}
    values |= {name: defaults[name] for name in TrainConfig.model_fields if name.endswith("_curriculum")}
    values |= {"global_batch_size": global_batch_size, "micro_batch_size": None, "seed": config.seed,
               "lr_warmup_steps": 0, "ema": False,
               "freeze_weights": config.adapt == "embeddings", "compile": config.compile}
    values |= {"puzzle_emb_lr": config.adapt_lr} if config.adapt_lr is not None else {}
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise ValueError(f"{restored.file}: {describe_validation(error, list(values))}") from error
