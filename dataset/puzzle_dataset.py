"""Turns data sets into batches: an endless, seeded training stream, or padded test batches. Each rank gets its part.

Training: the stream of dataset/train_stream.py, cut into global batches. A batch may reach into the next epoch.

Testing: every example once, in order, set by set. The last batch of each set is padded.

    for set_name, batch, examples_in_global_batch in PuzzleDataset(config, split="test"): ...
"""
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dataset.augmentation import FreshSymmetries
from dataset.common import EpisodeMetadata, SplitMetadata, load_metadata
from dataset.example_set import ExampleSet, count, say_once
from dataset.held_out import held_out_sets
from dataset.latent_episodes import holds_episodes, open_episodes
from dataset.puzzle_rows import PuzzleRows
from dataset.puzzle_set import load_puzzle_set
from dataset.regression_dataset import load_regression_set
from dataset.train_stream import TrainStream, WindowStream
from utils.curriculum import RatingStage

Batch = dict[str, Tensor]


class PuzzleDatasetConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # decides the order of the training stream
    seed: int
    # data set folders; each holds the split asked for
    dataset_paths: list[str]
    # examples in a batch over all ranks
    global_batch_size: int = Field(gt=0)
    # every example once, padded (true), or the training stream (false)
    test_set_mode: bool
    # groups of a training set that the stream leaves out, and `held_out` gives
    val_puzzles: int = Field(default=0, ge=0)
    # training only: stages that leave easy puzzles out, by fractions of `epochs`
    rating_curriculum: list[RatingStage] = []
    # epochs of the whole training
    epochs: int = Field(default=1, gt=0)
    # epochs that one iteration over a training set covers
    epochs_per_iter: int = Field(default=1, gt=0)
    # data sets that the model was trained on, which baselines are fitted on; empty: dataset_paths
    trained_on: list[str] = []
    # training only: None: examples as stored; fresh: each as a symmetric puzzle of its kind, drawn anew each time
    augment: Literal["fresh"] | None = None
    # a data set may name a kind of puzzle outside this project
    trust_code: bool = False
    rank: int = 0
    num_replicas: int = 1
    # latent episodes only: number of transitions in an example
    episode_window: int = Field(default=1, gt=0)
    # latent episodes only: transitions from the start of one example to the start of the next; None: episode_window
    episode_stride: int | None = Field(default=None, gt=0)

    @property
    def folders(self) -> str:
        """`dataset_paths` as messages show them."""
        return ", ".join(self.dataset_paths)

    def local_batch_size(self) -> int:
        if self.global_batch_size % self.num_replicas:
            multiple = -(-self.global_batch_size // self.num_replicas) * self.num_replicas
            raise ValueError(f"global_batch_size={self.global_batch_size} is not divisible by "
                             f"{self.num_replicas} processes; use a multiple, such as {multiple}")
        return self.global_batch_size // self.num_replicas


def open_split(config: PuzzleDatasetConfig, path: str,
               split: str) -> tuple[SplitMetadata, list[ExampleSet]]:
    """The metadata and the sets of one split of a data set of any kind."""
    is_main = config.rank == 0
    if holds_episodes(path, split):
        return open_episodes(path, split, config.episode_window, config.episode_stride, is_main)
    metadata = load_metadata(path, split)
    if metadata.task_type == "regression":
        sets = [load_regression_set(path, split, name, metadata, is_main) for name in metadata.sets]
        count(metadata, sets)
        return metadata, sets
    sets = [load_puzzle_set(path, split, name, metadata) for name in metadata.sets]
    for puzzle_set in sets:
        if is_main and split == "test" and not puzzle_set.answered():
            say_once(f"notice: {path} has no solutions: its test set {puzzle_set.name} has no "
                     "labels, so val/… is not reported, and cannot choose best.ckpt")
    return metadata, sets


def merged_metadata(metadata: dict[str, SplitMetadata]) -> SplitMetadata:
    """The metadata of several data sets together, from the metadata of each by path.

    Raises ValueError where their kinds or sizes differ.
    """
    (first_path, first), *others = metadata.items()
    for path, other in others:
        if type(first) is not type(other):
            raise ValueError(f"data sets cannot be mixed: {first_path} holds {first.KIND}, and "
                             f"{path} {other.KIND}; train on them separately")
        for key in first.AGREE:
            if getattr(first, key) != getattr(other, key):
                raise ValueError(f"data sets cannot be mixed: {key} is {getattr(first, key)} "
                                 f"in {first_path} and {getattr(other, key)} in {path}; "
                                 "train on them separately")
    every = list(metadata.values())
    puzzles = sum(m.total_puzzles for m in every)
    return first.model_copy(update={
        "total_groups": sum(m.total_groups for m in every), "total_puzzles": puzzles,
        "mean_puzzle_examples": sum(m.mean_puzzle_examples * m.total_puzzles for m in every) / max(puzzles, 1)})


class PuzzleDataset(torch.utils.data.IterableDataset):
    """One split of one or more data sets. Yields (set name, this rank's batch, examples in the global batch).

    A batch of puzzles holds `inputs` and `labels`, int32 (B, L), where an ignored label is -100. A batch of regression
    data holds `inputs` and `targets`, float32 (B, [L,] dim), and `target_mask`, bool. Both hold `puzzle_identifiers`,
    int32 (B,), which are rows of the puzzle table.

    Iterating a training split gives the batches of `epochs_per_iter` epochs. The next iteration continues from there.
    `rows`: the rows of the puzzle table, if other data sets share it.
    """

    def __init__(self, config: PuzzleDatasetConfig, split: str = "train",
                 rows: PuzzleRows | None = None):
        super().__init__()
        if not config.dataset_paths:
            raise ValueError("no data set given: data_paths is empty")
        self.config, self.split = config, split
        self.local_batch_size = config.local_batch_size()
        self.rows = rows or PuzzleRows(config.dataset_paths)
        self.sets: dict[str, ExampleSet] = {}
        by_path = {}
        for i, path in enumerate(self._distinct_paths()):
            by_path[path], sets = open_split(config, path, split)
            for example_set in sets:
                example_set.numbering = self.rows.numberings[path]
                name = f"{example_set.name}{i}" if example_set.name in self.sets else example_set.name
                if name in self.sets:
                    raise ValueError(f"two sets of {config.folders} would be "
                                     f"called {name}; rename one")
                self.sets[name] = example_set
        if config.episode_window != 1 and not all(isinstance(m, EpisodeMetadata)
                                                  for m in by_path.values()):
            raise ValueError(f"episode_window={config.episode_window} has no "
                             f"effect on {config.folders}, which hold no latent "
                             "episodes; use episode_window=1")
        self._hold(merged_metadata(by_path), self.rows.total)
        self.stream = None if config.test_set_mode else self._stream()
        self.fresh = self._fresh_symmetries() if config.augment and self.stream else None
        self._epochs_iterated = self._batches_taken = 0

    @classmethod
    def in_memory(cls, example_set: ExampleSet, global_batch_size: int, rank: int = 0,
                  num_replicas: int = 1) -> "PuzzleDataset":
        """A set of examples that stands in no folder, to go once through. Its identifiers are rows of the puzzle table.
        """
        data = cls.__new__(cls)
        torch.utils.data.IterableDataset.__init__(data)
        data.config = PuzzleDatasetConfig(seed=0, dataset_paths=[example_set.path], test_set_mode=True, rank=rank,
                                          global_batch_size=global_batch_size, num_replicas=num_replicas)
        data.split, data.local_batch_size = "test", data.config.local_batch_size()
        data.sets = {example_set.name: example_set}
        data._hold(example_set.metadata, example_set.metadata.num_puzzle_identifiers)
        return data

    def _hold(self, metadata: SplitMetadata, identifiers: int) -> None:
        """Count what is in `sets`, once all are there. `identifiers`: rows of the puzzle table."""
        self.metadata = metadata.model_copy(update={"num_puzzle_identifiers": identifiers, "sets": list(self.sets)})
        self._set_ends = np.cumsum([len(s) for s in self.sets.values()])

    def _distinct_paths(self) -> list[str]:
        """One path for each data set, even if it is listed twice or under several paths."""
        found: dict[str, str] = {}
        for path in dict.fromkeys(self.config.dataset_paths):
            first = found.setdefault(self.rows.folders[path].path, path)
            if first != path and self.config.rank == 0:
                say_once(f"notice: {path} is the same data set as {first}, and is read once")
        return list(found.values())

    def own_rows(self) -> np.ndarray:
        """The rows of the puzzle table that belong to puzzles of this split, without the blank row."""
        rows = np.unique(np.concatenate([example_set.shared_identifiers() for example_set in self.sets.values()]))
        return rows[rows != self.metadata.blank_identifier_id]

    def _stream(self) -> TrainStream:
        sets = list(self.sets.values())
        stream = TrainStream if sets[0].ONE_PUZZLE_A_GROUP else WindowStream
        return stream(sets, self.config.seed, self.config.val_puzzles, self.config.rating_curriculum,
                      self.config.epochs)

    def _fresh_symmetries(self) -> FreshSymmetries:
        if self.metadata.num_puzzle_identifiers > 1 and self.config.rank == 0:
            say_once("notice: augment=fresh changes each example by itself, so that the examples of one puzzle no "
                     "longer agree; it is meant for data whose puzzles have no embedding of their own")
        return FreshSymmetries(list(self.sets.values()), self.config.seed, self.config.trust_code)

    def __iter__(self) -> Iterator[tuple[str, Batch, int]]:
        if self.config.test_set_mode:
            yield from self._test_batches()
            return
        self._epochs_iterated += self.config.epochs_per_iter
        while self._batches_taken < self.steps_in(self._epochs_iterated):
            self._batches_taken += 1
            yield "all", self.next_batch(), self.config.global_batch_size

    def steps_in(self, epochs: int) -> int:
        """The number of whole global batches in this number of epochs of the training stream."""
        return int(epochs * self.stream.examples_per_epoch / self.config.global_batch_size + 1e-9)

    @property
    def num_examples(self) -> int:
        """The number of examples in the split, over all sets."""
        return int(self._set_ends[-1])

    @property
    def num_puzzles(self) -> int:
        """The number of puzzles in the split, over all sets."""
        return sum(len(one.puzzle_indices) - 1 for one in self.sets.values())

    def next_batch(self) -> Batch:
        """This rank's part of the next global batch of the training stream."""
        stream = self.stream
        assert stream is not None, "a test split has no training stream"
        place = stream.epoch, stream.offset
        numbers = stream.take(self.config.global_batch_size)
        first = self.config.rank * self.local_batch_size
        rows = slice(first, first + self.local_batch_size)
        fields = self._fetch(numbers[rows])
        return self._tensors(self.fresh.change(fields, place, len(numbers), rows) if self.fresh else fields)

    def examples(self, numbers: Sequence[int]) -> Batch:
        """The examples with these numbers, counted over all sets. The training stream does not move.

        Raises ValueError for a number that no example has.
        """
        wrong = [n for n in numbers if not 0 <= n < self.num_examples]
        if wrong:
            raise ValueError(f"there is no example {wrong[0]}: the {self.split} split of "
                             f"{self.config.folders} has {self.num_examples}, numbered from 0")
        return self._tensors(self._fetch(np.asarray(numbers)))

    def set_of(self, number: int) -> ExampleSet:
        """The set of the example with this number, counted over all sets."""
        return list(self.sets.values())[int(np.searchsorted(self._set_ends, number, side="right"))]

    def first_batch(self) -> Batch:
        """A batch of the first examples as stored, padded to the size of this rank's batch. The stream does not move.
        """
        rows = np.arange(min(self.local_batch_size, self.num_examples))
        return self._tensors(self._padded(self._fetch(rows)))

    def part(self, path: str) -> "PuzzleDataset":
        """A data set with only the sets of one path, whose examples are numbered from 0. No data are copied."""
        return self._with_sets({name: example_set for name, example_set in self.sets.items()
                                if example_set.path == path}, dataset_paths=[path])

    def held_out(self) -> "PuzzleDataset":
        """The puzzles that the training stream leaves out, to be tested on (dataset/held_out.py)."""
        return self._with_sets(held_out_sets(self.sets, self.config.val_puzzles), test_set_mode=True)

    def some_puzzles(self, most: int) -> "PuzzleDataset":
        """At most so many puzzles of a test split, always the same ones. Raises ValueError where a group has several.
        """
        groups = sum(len(one.group_indices) - 1 for one in self.sets.values())
        if groups < self.num_puzzles:
            raise ValueError(f"test_puzzles={most}: the {groups:,} test groups of {self.config.folders} hold "
                             f"{self.num_puzzles:,} puzzles, over which an evaluator may vote; leave test_puzzles out")
        return self if most >= groups else self._with_sets(held_out_sets(self.sets, most))

    def _with_sets(self, sets: dict[str, ExampleSet], **settings) -> "PuzzleDataset":
        other = copy(self)
        other.config = self.config.model_copy(update=settings)
        other.sets = sets
        other._set_ends = np.cumsum([len(example_set) for example_set in sets.values()])
        return other

    def own_examples(self, example_set: ExampleSet) -> np.ndarray:
        """The numbers of the examples of a set that this rank tests, in the order of the batches."""
        numbers = np.arange(len(example_set))
        return numbers[numbers % self.config.global_batch_size // self.local_batch_size == self.config.rank]

    def padding_batch(self) -> Batch:
        """A batch of this rank's size that holds only padding."""
        nothing = next(iter(self.sets.values())).fetch(np.arange(0))
        return self._tensors(self._padded(nothing))

    def _fetch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of the examples with these numbers, counted over all sets, in the given order."""
        owner = np.searchsorted(self._set_ends, rows, side="right")
        parts, order = [], []
        for i, puzzle_set in enumerate(self.sets.values()):
            mine = np.flatnonzero(owner == i)
            if len(mine):
                parts.append(puzzle_set.fetch(rows[mine] - (self._set_ends[i] - len(puzzle_set))))
                order.append(mine)
        if len(parts) == 1:
            return parts[0]
        back = np.argsort(np.concatenate(order))
        return {field: np.concatenate([part[field] for part in parts])[back] for field in parts[0]}

    def _test_batches(self) -> Iterator[tuple[str, Batch, int]]:
        size = self.config.global_batch_size
        for name, puzzle_set in self.sets.items():
            examples = len(puzzle_set)
            for start in range(0, examples, size):
                end = min(start + size, examples)
                first = start + self.config.rank * self.local_batch_size
                rows = np.arange(first, min(first + self.local_batch_size, end))
                yield name, self._tensors(self._padded(puzzle_set.fetch(rows))), end - start

    def _padded(self, fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        missing = self.local_batch_size - len(fields["inputs"])
        fill = next(iter(self.sets.values())).padding()
        return {name: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1),
                             constant_values=fill[name])
                for name, array in fields.items()}

    def _tensors(self, fields: dict[str, np.ndarray]) -> Batch:
        return {name: torch.from_numpy(array) for name, array in fields.items()}
