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
        self.passed, self.judged = np.zeros((2, len(self.names())), int)

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        verdicts = self.verdicts({name: value.cpu().numpy() for name, value in batch.items()},
                                 outputs["preds"].cpu().numpy())
        self.passed += [int(verdicts[name].sum()) for name in self.names()]
        self.judged += [len(verdicts[name]) for name in self.names()]

    def verdicts(self, batch: dict[str, np.ndarray], preds: np.ndarray) -> dict[str, np.ndarray]:
        """By name of the metric, booleans of the answers (B, L) that it judges, which may be fewer than B."""
        return self.kind.rules(batch["inputs"], preds)

    def names(self) -> Sequence[str]:
        return self.kind.rule_names

    def result(self, save_path: Path | None, rank: int, world_size: int,
               group) -> dict[str, float] | None:
        """The means. A metric that judged no answer is left out."""
        sums = torch.tensor(np.stack((self.passed, self.judged)), dtype=torch.float32)
        all_reduce_sum_([sums])
        return {name: passed / judged for name, passed, judged in zip(self.names(), *sums.tolist())
                if judged} if rank == 0 else None
