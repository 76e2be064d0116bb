"""Answers checked by the rules of their kind of puzzle, without labels: `evaluators="[{name: rules@Rules}]"`.

Sudokus and mazes have the names `sudoku@Sudoku` and `maze@Maze` for it. The rules stand in dataset/kinds/.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.common import PuzzleDatasetMetadata
from dataset.kinds.kind import find_kind
from utils.distributed import all_reduce_sum_


class Rules:
    """For each rule of the kind the fraction of the answers that obey it, `solved` first.

    `kind`: its name; None: the one that dataset.json names. `trust_code`: it may stand outside this project
    (`find_kind`). Raises ValueError where there is no such kind, it has no rules, or its puzzles have another size.
    """

    required_outputs = {"preds"}

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata,
                 kind: str | None = None,
                 trust_code: bool = False):
        name = kind or eval_metadata.kind
        try:
            if name is None:
                raise ValueError("dataset.json names no kind; give one, such as {name: "
                                 "rules@Rules, kind: sudoku}")
            self.kind = find_kind(name, trust_code)(eval_metadata.seq_len, eval_metadata.vocab_size)
            if not self.kind.rule_names:
                raise ValueError(f"{self.kind} has no rules")
            self.notices = [f"{data_path} holds puzzles of the kind {eval_metadata.kind}, and its answers are checked "
                            f"by the rules of {name}"] if eval_metadata.kind not in (None, name) else []
        except ValueError as error:
            raise ValueError(f"{type(self).__name__} cannot check {data_path}: {error}; "
                             "or use evaluators=[]") from error
        self.begin_eval()

    def begin_eval(self) -> None:
        self.counts = np.zeros(len(self.names()), int)
        self.examples = 0

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        passed = self.kind.rules(batch["inputs"].cpu().numpy(), outputs["preds"].cpu().numpy())
        self.counts += [int(passed[name].sum()) for name in self.names()]
        self.examples += len(batch["inputs"])

    def names(self) -> Sequence[str]:
        return self.kind.rule_names

    def result(self, save_path: Path | None, rank: int, world_size: int,
               group) -> dict[str, float] | None:
        sums = torch.tensor([self.examples, *self.counts.tolist()], dtype=torch.float32)
        all_reduce_sum_([sums])
        examples, *counts = sums.tolist()
        return {name: count / max(examples, 1) for name, count in zip(self.names(), counts)} if rank == 0 else None
