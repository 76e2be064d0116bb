"""Regression data sets: sequences of floats in, sequences of floats out, some of the targets observed.

    <set>__inputs.npy       (N, L, input_dim), or (N, input_dim) for sequences of length 1
    <set>__targets.npy      (N, L, target_dim), or (N, target_dim)
    <set>__target_mask.npy  the shape of the targets, bool or 0/1: which are observed; without the file, all are

and the arrays that number puzzles and groups, as in puzzle data (dataset/common.py). In place of an `.npy` there may be
an `.npz`. Unobserved targets may be NaN. `write_regression_dataset` makes a split of arrays.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.common import (
    MOST_IDENTIFIER,
    RegressionMetadata,
    check_puzzles,
    field_path,
    filled_up,
    lengths_of_rows,
    new_dataset_directory,
    said_range,
    write_json,
)
from dataset.example_set import (
    ExampleSet,
    cast_notice,
    evenly_over,
    field_file,
    first_not_finite,
    load_field,
    refuse_field,
)

STATISTICS_ROWS = 100_000  # training examples, evenly spaced, of which means and deviations are taken
CHUNK = 1024


@dataclass
class RegressionSet(ExampleSet):
    """The arrays of one set, memory-mapped."""

    metadata: RegressionMetadata
    inputs: np.ndarray  # (N, [L,] input_dim)
    targets: np.ndarray  # (N, [L,] target_dim)
    target_mask: np.ndarray | None  # the same; None: all are observed

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Floats as float32, `target_mask` as bool; targets that are not observed are the pad value."""
        inputs, targets = (getattr(self, field)[rows].astype(np.float32)
                           for field in ("inputs", "targets"))
        mask = np.ones(targets.shape, bool) if self.target_mask is None else self._checked_mask(self.target_mask, rows)
        targets[~mask] = self.metadata.target_pad_value
        for field, values in (("inputs", inputs), ("targets", targets)):
            place = first_not_finite(values)
            if place is not None:
                self._refuse_row(field, rows[place[0]], "holds NaN or infinity"
                                 + (" where target_mask is true" if field == "targets" else ""))
        return {"inputs": inputs, "targets": targets, "target_mask": mask}

    def _checked_mask(self, target_mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
        stored = target_mask[rows]
        mask = stored.astype(bool)
        if not np.array_equal(mask, stored):
            self._refuse_row("target_mask", rows[np.argwhere(mask != stored)[0][0]],
                             "holds other values than 0 and 1")
        return mask

    def _refuse_row(self, field: str, row: int, problem: str):
        raise ValueError(f"{field_file(self.split_dir, self.name, field)}: row {row} "
                         f"{problem}; mend the array")

    def padding(self) -> dict[str, float]:
        return {"inputs": self.metadata.input_pad_value, "targets": self.metadata.target_pad_value,
                "target_mask": False, "puzzle_identifiers": 0}

    def known_inputs(self, fields: dict[str, np.ndarray]) -> np.ndarray:
        """Which positions of the inputs count in their statistics: booleans of the inputs' shape without the last axis.

        Positions that only fill a sequence up, all padding and nothing observed, do not count.
        """
        return (fields["inputs"] != self.metadata.input_pad_value).any(-1) | fields["target_mask"].any(-1)


def load_regression_set(path: str, split: str, name: str, metadata: RegressionMetadata,
                        say_casts: bool
                        ) -> RegressionSet:
    """Open one set's arrays and check that they fit together; the metadata are completed by them."""
    split_dir = Path(path) / split
    inputs, targets = (load_field(split_dir, name, field, mapped=True)
                       for field in ("inputs", "targets"))
    has_mask = field_file(split_dir, name, "target_mask").is_file()
    mask = load_field(split_dir, name, "target_mask", mapped=True) if has_mask else None
    _check_arrays(inputs, targets, mask, split_dir, name, metadata)
    numbering = {field: load_field(split_dir, name, field)
                 for field in ("puzzle_identifiers", "puzzle_indices", "group_indices")}
    check_puzzles(numbering, len(inputs), metadata.num_puzzle_identifiers,
                  partial(refuse_field, split_dir, name))
    if say_casts:
        cast_notice(path, {"inputs": inputs.dtype, "targets": targets.dtype})
    return RegressionSet(path, split_dir, name, metadata, **numbering, inputs=inputs,
                         targets=targets, target_mask=mask)


def _check_arrays(inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray | None,
                  split_dir: Path, name: str,
                  metadata: RegressionMetadata) -> None:
    """Raises ValueError for shapes and dtypes that cannot be; takes the length from the arrays if it is not known."""
    for field, array in (("inputs", inputs), ("targets", targets), ("target_mask", mask)):
        if array is not None and array.dtype.kind not in "fiub":
            refuse_field(split_dir, name, field, f"holds {array.dtype}, not numbers")
    if inputs.ndim not in (2, 3):
        refuse_field(split_dir, name, "inputs", f"expected (N, {metadata.input_dim}) or (N, L, "
                                                f"{metadata.input_dim}), found {inputs.shape}")
    if metadata.flat not in (None, inputs.ndim == 2):
        refuse_field(split_dir, name, "inputs", f"has shape {inputs.shape}, and "
                                                f"{metadata.sets[0]}__inputs beside it "
                                                f"{metadata.inputs_shape}; all sets must "
                                                "have the same dimensions")
    metadata.flat = inputs.ndim == 2
    metadata.seq_len = metadata.seq_len or (1 if metadata.flat else inputs.shape[1])
    for field, found, width in (("inputs", inputs, metadata.input_dim),
                                ("targets", targets, metadata.target_dim)):
        shape = (len(inputs), *metadata.row_shape(width))
        if found.shape != shape:
            dim = "input_dim" if field == "inputs" else "target_dim"
            refuse_field(split_dir, name, field, f"expected shape {shape} by inputs, seq_len and "
                                                 f"{dim} of dataset.json, found {found.shape}")
    if mask is not None and mask.shape != targets.shape:
        refuse_field(split_dir, name, "target_mask", f"has shape {mask.shape}, and the "
                                                     f"targets {targets.shape}")


def feature_statistics(sets: Sequence[Any]) -> dict[str, np.ndarray]:
    """Mean and deviation (features,) of inputs and of observed targets, by `input_mean`, `input_std`, `target_mean`,
    `target_std`; the deviation of a feature that never changes is 1. `sets`: of regression data or of episodes."""
    sums: dict[str, list] = {"input": [], "target": []}
    for example_set, sample in evenly_over(sets, STATISTICS_ROWS):
        for rows in np.array_split(sample, -(-len(sample) // CHUNK)):
            fields = example_set.fields(rows)
            known = np.broadcast_to(example_set.known_inputs(fields)[..., None],
                                    fields["inputs"].shape)
            sums["input"].append(_moments(fields["inputs"], known))
            sums["target"].append(_moments(fields["targets"], fields["target_mask"]))
    statistics: dict[str, np.ndarray] = {}
    for kind, parts in sums.items():
        counts, means, squares = (np.stack(column) for column in zip(*parts))
        count = np.maximum(counts.sum(0), 1)
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean) ** 2).sum(0) / count
        std = np.sqrt(variance)
        statistics |= {f"{kind}_mean": mean,
                       f"{kind}_std": np.where(std > 1e-6 * np.abs(mean), std, 1.0)}
    return statistics


def _moments(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and sum of squares about the mean (features,) of the known values, in float64."""
    features = values.shape[-1]
    values, known = values.reshape(-1, features).astype(np.float64), known.reshape(-1, features)
    count = known.sum(0)
    mean = (values * known).sum(0) / np.maximum(count, 1)
    return count, mean, (((values - mean) * known) ** 2).sum(0)


def write_regression_dataset(path: str | Path, split: str, inputs: Any, targets: Any,
                             mask: Any = None,
                             groups: np.ndarray | None = None,
                             identifiers: np.ndarray | None = None, set_name: str = "all",
                             input_pad_value: float = 0.0, target_pad_value: float = 0.0,
                             overwrite: bool = False) -> RegressionMetadata:
    """Write `<path>/<split>` from arrays: inputs (N, [L,] input_dim), targets (N, [L,] target_dim), mask of the
    targets' shape (true: observed; without it, all are), or without its last dimension for all features alike.

    Sequences of different length are lists of N arrays (L, dim), a mask too: they are filled up to the longest with the
    pad values, what is filled up is neither trained on nor scored, and a notice says so.

    `groups` (N,): examples of one group are variants of one another, of which an epoch takes one. `identifiers` (N,):
    examples of one identifier are one puzzle, which learns an embedding of its own; 0: none. Without them each example
    is a puzzle and a group of its own. Raises ValueError for arrays that do not fit, and where the split exists.
    """
    if max(len(lengths_of_rows(rows)) for rows in (inputs, targets)) > 1:
        inputs, targets, mask = _of_one_length(f"{Path(path) / split}", inputs, targets, mask, input_pad_value,
                                               target_pad_value)
    inputs, targets = (_floats(name, array)
                       for name, array in (("inputs", inputs), ("targets", targets)))
    if targets.ndim != inputs.ndim or targets.shape[:-1] != inputs.shape[:-1]:
        raise ValueError(f"inputs of shape {inputs.shape} and targets of shape "
                         f"{targets.shape} must agree in all but the last dimension; repeat "
                         "or mask targets to make them so")
    mask = np.ones(targets.shape, bool) if mask is None else np.asarray(mask)
    if mask.shape == targets.shape[:-1]:
        mask = np.broadcast_to(mask[..., None], targets.shape)
    for name, array, shape in (("mask", mask, targets.shape), ("groups", groups, (len(inputs),)),
                               ("identifiers", identifiers, (len(inputs),))):
        if array is not None and np.shape(array) != shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, and should have {shape}")
    mask = _whole_numbers("mask", mask, 1).astype(bool)
    if identifiers is not None:
        identifiers = _whole_numbers("identifiers", np.asarray(identifiers), MOST_IDENTIFIER)
    field_path(Path(path) / split, set_name, "inputs")  # a name of files?
    for name, array in (("inputs", inputs), ("targets", np.where(mask, targets, 0))):
        place = first_not_finite(array)
        if place is not None:
            raise ValueError(f"{name}: row {place[0]} holds NaN or infinity")
    order, numbering = _numbered(len(inputs), groups, identifiers)
    metadata = RegressionMetadata(
        task_type="regression", input_dim=inputs.shape[-1], target_dim=targets.shape[-1],
        input_pad_value=input_pad_value, target_pad_value=target_pad_value,
        seq_len=1 if inputs.ndim == 2 else inputs.shape[1],
        num_puzzle_identifiers=int(numbering["puzzle_identifiers"].max()) + 1,
        total_groups=len(numbering["group_indices"]) - 1, total_puzzles=len(numbering["puzzle_identifiers"]),
        mean_puzzle_examples=len(inputs) / len(numbering["puzzle_identifiers"]), sets=[set_name])
    arrays = {"inputs": inputs[order], "targets": targets[order],
              "target_mask": mask[order], **numbering}
    with new_dataset_directory(Path(path) / split, sum(a.nbytes for a in arrays.values()), overwrite) as folder:
        write_json(folder / "dataset.json", metadata.model_dump())
        for field, array in arrays.items():
            np.save(field_path(folder, set_name, field), array)
    return metadata


def _of_one_length(where: str, inputs: Sequence, targets: Sequence, mask: Sequence | None,
                   input_pad: float,
                   target_pad: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences of different length filled up to the longest, and a mask (N, L, …) that leaves out what was added."""
    mask = [np.ones(len(row), bool) for row in targets] if mask is None else mask
    lengths = [len(row) for row in inputs]
    for name, rows in (("targets", targets), ("mask", mask)):
        for example, (length, other) in enumerate(zip(lengths, map(len, rows))):
            if length != other:
                raise ValueError(f"example {example} has {length} positions of inputs and {other} "
                                 f"of {name}; repeat or mask targets to make them equal")
    filled = tuple(filled_up(rows, max(lengths), fill)
                   for rows, fill in ((inputs, input_pad), (targets, target_pad),
                                                                         (mask, False)))
    print(f"notice: {where}: sequences of {said_range(lengths)} positions are filled up to "
          f"{max(lengths)}; what is filled up is neither trained on nor scored")
    return filled


def _floats(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"{name} should hold numbers in 2 or 3 dimensions (N, [L,] dim), and is "
                         f"{array.dtype} of shape {array.shape}")
    return array.astype(np.float32)


def _whole_numbers(name: str, array: np.ndarray, most: int) -> np.ndarray:
    """int64 of an array of bools, integers or whole floats from 0 to `most`."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} should hold whole numbers from 0 to {most}, and is {array.dtype}")
    wrong = ~((array >= 0) & (array <= most) & (array == np.floor(array)))  # so is NaN
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise ValueError(f"{name} should hold whole numbers from 0 to {most}, and row "
                         f"{place[0]} holds {array[place]}")
    return array.astype(np.int64)


def _numbered(examples: int, groups: np.ndarray | None, identifiers: np.ndarray | None):
    """An order of examples that keeps each group, and in it each puzzle, together; and the arrays that number them."""
    identifiers = np.zeros(examples, np.int64) if identifiers is None else identifiers
    alone = identifiers.max() + 1 + np.arange(examples)
    puzzles = np.where(identifiers == 0, alone, identifiers)
    groups = puzzles if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.lexsort((puzzles, groups))
    puzzle_starts = np.flatnonzero(np.diff(puzzles[order], prepend=-1) | np.diff(groups[order], prepend=-1))
    group_of_puzzle = groups[order][puzzle_starts]
    group_starts = np.flatnonzero(np.diff(group_of_puzzle, prepend=-1))
    return order, {"puzzle_identifiers": identifiers[order][puzzle_starts].astype(np.int32),
                   "puzzle_indices": np.append(puzzle_starts, examples).astype(np.int32),
                   "group_indices": np.append(group_starts, len(puzzle_starts)).astype(np.int32)}
