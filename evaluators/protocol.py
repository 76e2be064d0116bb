"""What an evaluator is, so that users' own plug in: `evaluators="[{name: module@Class, option: value}]"`.

An evaluator sees every test example with the model's outputs after the last supervision step, and returns metrics.
"""
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dataset.common import PuzzleDatasetMetadata
from dataset.example_set import ExampleSet, say_once
from utils.distributed import all_reduce_sum_
from utils.resolve import load_class


EVALUATOR_PARTS = ("begin_eval",)  # by which a class is known as one


class Evaluator(Protocol):
    """`Class(data_path, eval_metadata, **config)`, one for each test data set."""

    # outputs of the loss head that `update_batch` needs, such as "preds" (B, L)
    required_outputs: set[str]
    # what there is to say of its data at the start; an evaluator need not have it
    notices: list[str]

    def begin_eval(self) -> None:
        """Forget what earlier evaluations saw."""

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Take real examples (no padding): the batch as loaded, identifiers of the evaluator's own data set."""

    def result(self, save_path: Path | None, rank: int, world_size: int, group) -> dict[str, float] | None:
        """Metrics on rank 0, by a name without the prefix `eval/<name>/`. Called on every rank. `save_path` is a folder
        for its files, which is there and its own.

        An evaluator may have `names()`, all that can come from here: so a `checkpoint.monitor` is checked at the start.
        """


# The evaluators of puzzles that are told by their data: each has `suits(test_set)`.
BY_KIND = ("arc@ARC", "sudoku@Sudoku", "maze@Maze")
LOOKED_AT = 16  # examples that tell whether data obey rules


class RuleCheck:
    """Base of evaluators that check rules row by row: subclasses map (inputs, preds) to named booleans (B,)."""

    required_outputs = {"preds"}

    def __init__(self, data_path: str, eval_metadata: PuzzleDatasetMetadata):
        self.side = round(eval_metadata.seq_len**0.5)
        if self.side**2 != eval_metadata.seq_len:
            raise ValueError(f"{type(self).__name__} needs square grids; {data_path} has {eval_metadata.seq_len} "
                             "cells; use evaluators=[]")
        self.begin_eval()

    @classmethod
    def suits(cls, test_set: ExampleSet) -> bool:
        """Are these such puzzles: do the labels of the first ones obey the rules?"""
        try:
            rules = cls(test_set.path, test_set.metadata)
        except ValueError:  # grids of another size
            return False
        first = test_set.fetch(np.arange(min(len(test_set), LOOKED_AT)))
        inputs, labels = first["inputs"], first["labels"]
        return bool((labels >= 0).all()) and all(passed.all() for passed in rules.check(inputs, labels).values())

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


def build_evaluators(configs: Sequence[dict] | None, dataset) -> dict[str, tuple[str, Evaluator]]:
    """For each config and each test data set, its metrics' prefix and (data path, evaluator). None: the evaluators of
    the kind of puzzle that each data set holds, where there is one.

    The prefix is `eval/<module>`, with the folder's name behind it where there are several data sets. What would come
    again has a number: `eval/arc` and `eval/arc2`. That is said, and what evaluators have to say of their data.
    """
    sets = {test_set.path: test_set for test_set in dataset.sets.values()}
    by_kind = configs is None
    configs = [{"name": name} for name in BY_KIND] if by_kind else configs
    modules, folders = [config["name"].partition("@")[0] for config in configs], [Path(path).name for path in sets]
    built, notices = {}, []
    for config, module, numbered in zip(configs, modules, distinct(modules)):
        options = {key: value for key, value in config.items() if key != "name"}
        evaluator_class = load_class(config["name"], "evaluators", EVALUATOR_PARTS, anywhere=True)  # a typed config's
        try:
            inspect.signature(evaluator_class).bind(data_path="", eval_metadata=None, **options)
        except TypeError as error:
            raise ValueError(f"evaluators: {config['name']} does not take these options: {error}") from error
        for (path, test_set), folder, own_folder in zip(sets.items(), folders, distinct(folders)):
            if by_kind and not (test_set.metadata.task_type == "classification" and evaluator_class.suits(test_set)):
                continue
            prefix = f"eval/{numbered}" + (f"/{own_folder}" if len(sets) > 1 else "")
            if (module, folder) != (numbered, own_folder):
                notices.append(f"{prefix} is {config} on {path}")
            evaluator = evaluator_class(data_path=path, eval_metadata=test_set.metadata, **options)
            built[prefix] = path, evaluator
            notices += getattr(evaluator, "notices", [])
    if dataset.config.rank == 0:
        for notice in notices:
            say_once(f"notice: {notice}")
    return built


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that has come before."""
    taken: list[str] = []
    for name in names:
        numbers = itertools.count(2)
        candidate = name
        while candidate in taken:
            candidate = f"{name}{next(numbers)}"
        taken.append(candidate)
    return taken
