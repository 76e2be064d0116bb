"""What an evaluator is, so that users' own plug in: `evaluators="[{name: module@Class, option: value}]"`.

An evaluator sees every test example with the model's outputs after the last supervision step, and returns metrics.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dataset.common import PuzzleDatasetMetadata
from utils.distributed import all_reduce_sum_
from utils.resolve import load_class


class Evaluator(Protocol):
    """`Class(data_path, eval_metadata, **config)`, one for each test data set."""

    # outputs of the loss head that `update_batch` needs, such as "preds" (B, L)
    required_outputs: set[str]

    def begin_eval(self) -> None:
        """Forget what earlier evaluations saw."""

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Take real examples (no padding): the batch as loaded, identifiers of the evaluator's own data set."""

    def result(self, save_path: Path | None, rank: int, world_size: int, group) -> dict[str, float] | None:
        """Metrics on rank 0, by a name without the prefix `eval/<name>/`. Called on every rank."""


class RuleCheck:
    """Base of evaluators that check rules row by row: subclasses map (inputs, preds) to named booleans (B,)."""

    required_outputs = {"preds"}

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        self.side = round(eval_metadata.seq_len**0.5)
        if self.side**2 != eval_metadata.seq_len:
            raise ValueError(f"{type(self).__name__} needs square grids; {data_path} has {eval_metadata.seq_len} "
                             "cells; use evaluators=[]")
        self.begin_eval()

    def begin_eval(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples = 0

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        inputs, preds = batch["inputs"].cpu().numpy(), outputs["preds"].cpu().numpy()
        for name, passed in self.check(inputs, preds).items():
            self.counts[name] = self.counts.get(name, 0) + int(passed.sum())
        self.examples += len(inputs)

    def check(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def names(self) -> Sequence[str]:
        raise NotImplementedError

    def result(self, save_path: Path | None, rank: int, world_size: int, group) -> dict[str, float] | None:
        sums = torch.tensor([self.examples] + [self.counts.get(name, 0) for name in self.names()], dtype=torch.float32)
        all_reduce_sum_([sums])
        examples, *counts = sums.tolist()
        return {name: count / max(examples, 1) for name, count in zip(self.names(), counts)} if rank == 0 else None


def build_evaluators(configs: Sequence[dict], dataset) -> dict[str, tuple[str, Evaluator]]:
    """For each config and each test data set, its metrics' prefix and (data path, evaluator).

    The prefix is `eval/<module>`, with the folder's name behind it where there are several data sets.
    """
    metadata = {puzzle_set.path: puzzle_set.metadata for puzzle_set in dataset.sets.values()}
    built = {}
    for config in configs:
        options = dict(config)
        name = options.pop("name")
        evaluator_class = load_class(name, "evaluators")
        for path, path_metadata in metadata.items():
            prefix = f"eval/{name.partition('@')[0]}" + (f"/{Path(path).name}" if len(metadata) > 1 else "")
            built[prefix] = path, evaluator_class(data_path=path, eval_metadata=path_metadata, **options)
    return built
