"""Build an ARC data set in the published format from task files (see `arc_tasks.py` for their layouts).

    python -m dataset.build_arc_dataset --input-file-prefix kaggle/combined/arc-agi \\
        --output-dir data/arc1concept-aug-1000 --subsets training evaluation concept --test-set-name evaluation
    python -m dataset.build_arc_dataset --input-file-prefix kaggle/combined/arc-agi \\
        --output-dir data/arc2concept-aug-1000 --subsets training2 evaluation2 concept --test-set-name evaluation2
    python -m dataset.build_arc_dataset --input-file-prefix kaggle/combined/arc-agi \\
        --output-dir data/arc1-aug-8 --subsets training evaluation --test-set-name evaluation --num-aug 8  # CPU-sized
    python -m dataset.build_arc_dataset --input-file-prefix ARC-AGI/data \\
        --output-dir data/arc1-aug-1000 --subsets training evaluation --test-set-name evaluation  # a file a task

A group is a task. A puzzle is one augmentation of it, where the original comes first. An example is one pair of input
and output. All pairs of a task go to the train split, except the test pairs of tasks in the test set, which go to the
test split. The test set is a subset, or a fraction of all tasks (`--test-fraction 0.1`).

In the test split every grid is in the upper left corner of its square. In the train split, so is one example of each
puzzle, and the others are at random places. dataset/arc.py has the tokens and the names of puzzles.

--num-workers processes go through the tasks twice. The first pass draws augmentations, for which hashes of the grids
are enough, and so finds the sizes of the arrays. The second pass writes the puzzles. The random numbers of a task
depend only on --seed, its subset and its id. So the result depends neither on the number of workers nor on other tasks.
"""
import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: imports start at the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from dataset.arc import COLOURS, SIDE, VOCAB_SIZE, augmentation_names, encode_recoloured
from dataset.arc_content import augmented_keys, canonical_key, colour_sums, find_leaks
from dataset.arc_tasks import Task, read_tasks, source_files
from dataset.builder import Parser, add_test_fraction, at_least, building, run, workers
from dataset.common import BLANK_IDENTIFIER, field_path, open_field, write_json, write_split
from dataset.splitting import joined, rows_for_testing
from dataset.symmetry import dihedral

SEQ_LEN = SIDE * SIDE
TRIALS = 5  # most augmentations that are drawn for each one asked for, since some are equal
TOKEN_FIELDS = ("inputs", "labels")


@dataclass(frozen=True)
class Group:
    """A task and its P puzzles, the original first."""

    task: Task
    # (P,) dihedral transform of each puzzle
    transforms: np.ndarray
    # (P, 10) uint8, the new colour of each colour
    permutations: np.ndarray

    @property
    def puzzles(self) -> int:
        return len(self.transforms)

    def names(self) -> list[str]:
        return [self.task.id,
                *augmentation_names(self.task.id, self.transforms[1:], self.permutations[1:])]


def task_rng(task: Task, seed: int, stage: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{task.subset}/{task.id}".encode()).digest()
    return np.random.default_rng([seed, stage, int.from_bytes(digest[:8])])


def draw_group(task: Task, num_aug: int, seed: int) -> Group:
    """A task with `num_aug` random augmentations of different content, or fewer if TRIALS · num_aug draws give fewer.
    """
    rng = task_rng(task, seed, 0)
    sums = colour_sums(task.all_pairs())
    transforms, permutations = np.zeros(1, np.uint8), np.arange(COLOURS, dtype=np.uint8)[None]
    for _ in range(TRIALS):
        if len(transforms) > num_aug:
            break
        transforms = np.concatenate([transforms, rng.integers(8, size=num_aug, dtype=np.uint8)])
        permutations = np.concatenate([permutations, draw_permutations(num_aug, rng)])
        _, first = np.unique(augmented_keys(sums, transforms, permutations), return_index=True)
        kept = np.sort(first)[:1 + num_aug]
        transforms, permutations = transforms[kept], permutations[kept]
    return Group(task, transforms, permutations)


def draw_permutations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Permutations (count, 10) uint8 of the colours that keep black (0)."""
    permutations = np.tile(np.arange(COLOURS, dtype=np.uint8), (count, 1))
    rng.permuted(permutations[:, 1:], axis=1, out=permutations[:, 1:])
    return permutations


def draw_places(group: Group, split: str, seed: int) -> np.ndarray:
    """The place (P, E, 2) of each example: how far down and how far right, as a fraction in [0, 1) of the free room."""
    shape = group.puzzles, len(group.task.pairs[split])
    if split == "test":
        return np.zeros((*shape, 2))
    rng = task_rng(group.task, seed, 1)
    places = rng.random((*shape, 2))
    places[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = 0
    return places


def encode_group(group: Group, split: str, seed: int, outputs: list[np.ndarray]) -> None:
    """Write the tokens of a group's examples into `outputs`: inputs and labels, each (P, E, 30, 30)."""
    places = draw_places(group, split, seed)
    for transform in np.unique(group.transforms):
        puzzles = np.flatnonzero(group.transforms == transform)
        for example, pair in enumerate(group.task.pairs[split]):
            grids = [dihedral(grid, transform) for grid in pair]
            room = SIDE + 1 - np.max([grid.shape for grid in grids], axis=0)  # places of the larger grid, each way
            tops, lefts = (places[puzzles, example] * room).astype(np.intp).T
            for output, grid in zip(outputs, grids):
                output[puzzles, example] = encode_recoloured(grid, group.permutations[puzzles], tops, lefts)


def write_group(folder: Path, seed: int, job: tuple[Group, dict[str, int]]) -> None:
    """Write a group's rows of `inputs` and `labels`. `job` has the group and its first row in each split."""
    group, first_rows = job
    for split, first in first_rows.items():
        shape = group.puzzles, len(group.task.pairs[split]), SIDE, SIDE
        last = first + shape[0] * shape[1]
        # mapped again for each group, because the pages written through one map would stay in this process's memory
        outputs = [np.load(field_path(folder / split, "all", field), mmap_mode="r+")[first:last].reshape(shape)
                   for field in TOKEN_FIELDS]
        encode_group(group, split, seed, outputs)


def read_sources(args: argparse.Namespace) -> list[Task]:
    """The tasks of all subsets, in order. Raises ValueError where the arguments do not fit together."""
    test_sets = [name for name in (args.test_set_name, args.test_set_name2) if name is not None]
    for name in test_sets:
        if name not in args.subsets:
            raise ValueError(f"the test set {name} is not among --subsets "
                             f"{' '.join(args.subsets)}; add or correct it")
    by_fraction = args.test_fraction is not None
    if by_fraction and test_sets:
        raise ValueError("--test-fraction draws the test set, and "
                         "--test-set-name2 names one; use either")
    tasks = [task for subset in dict.fromkeys(args.subsets)
             for task in read_tasks(args.input_file_prefix, subset,
                                    by_fraction or subset in test_sets)]
    if args.tasks:
        tasks = chosen(tasks, args.tasks)
    if by_fraction:
        tasks = divided(tasks, args.test_fraction, args.seed)
    tested: dict[str, Task] = {}
    for task in (task for task in tasks if task.for_testing):
        twin = tested.setdefault(task.id, task)
        if twin is not task and _as_sorted(twin) != _as_sorted(task):
            raise ValueError(f"task {task.id} is in {twin.subset} and, with other pairs, "
                             f"in {task.subset}; answers to them could not be told apart, "
                             "so build two data sets")
    return tasks


def divided(tasks: list[Task], fraction: float, seed: int) -> list[Task]:
    """The tasks, with this fraction of them marked for testing.

    Tasks with the same id, or with the same content up to symmetry and colours, are either all for testing or none.
    """
    keys = [task.id for task in tasks], np.array([canonical_key(task) for task in tasks], np.uint64)
    test = rows_for_testing(joined(*keys), fraction, seed)
    return [task if tested else task.as_training() for task, tested in zip(tasks, test)]


def _as_sorted(task: Task) -> dict[str, list]:
    """The content of a task, in which the order of its pairs does not matter."""
    return {split: sorted((question.tolist(), answer.tolist()) for question, answer in pairs)
            for split, pairs in task.pairs.items()}


def chosen(tasks: list[Task], ids: list[str]) -> list[Task]:
    """The tasks with these ids. Raises ValueError for an unknown id, and if no task is for testing."""
    unknown = sorted(set(ids) - {task.id for task in tasks})
    if unknown:
        raise ValueError(f"--tasks: {', '.join(unknown)} is in none of the "
                         "--subsets; correct or remove it")
    tasks = [task for task in tasks if task.id in ids]
    if not any(task.for_testing for task in tasks):
        raise ValueError("--tasks names no task of the test set; add one, or give "
                         "--test-set-name their subset")
    return tasks


def without_leaks(tasks: list[Task], on_leak: str) -> list[Task]:
    """The tasks, without training tasks that are also in the test set (leaks) if `on_leak` is "drop".

    Otherwise a leak is a warning ("warn") or a ValueError ("error").
    """
    leaks = find_leaks(tasks)
    if not leaks:
        return tasks
    named = ", ".join(task.id if task.id == twin.id else f"{task.id} (in the test set: {twin.id})"
                      for task, twin in leaks)
    training = sum(not task.for_testing for task in tasks)
    message = (f"{len(leaks)} of {training} training tasks stand in the test set as well, by id or "
               f"by content up to symmetry and colours: {named}")
    if on_leak == "error":
        raise ValueError(f"{message}; pass --on-leak drop to leave them out of training")
    advice = "left out of training" if on_leak == "drop" else "scores will partly measure memory; --on-leak drop helps"
    print(f"warning: {message}; {advice}", file=sys.stderr)
    leaked = {id(task) for task, _ in leaks} if on_leak == "drop" else set()
    return [task for task in tasks if id(task) not in leaked]


def lay_out(groups: list[Group]) -> tuple[list[dict[str, int]], dict[str, int]]:
    """The first row of each group in its splits, and the number of rows of each split."""
    rows = {"train": 0, "test": 0}
    first_rows = []
    for group in groups:
        first_rows.append({split: rows[split] for split in group.task.pairs})
        for split, pairs in group.task.pairs.items():
            rows[split] += group.puzzles * len(pairs)
    return first_rows, rows


def number_puzzles(groups: list[Group], first: int) -> tuple[list[str], list[np.ndarray]]:
    """Number the names of puzzles from `first` on. Returns the names and the identifiers (P,) int32 of each group.

    If a task is in two subsets, equal names have the same number.
    """
    numbers: dict[str, int] = {}
    identifiers = [np.array([numbers.setdefault(name, first + len(numbers)) for name in group.names()], np.int32)
                   for group in groups]
    return list(numbers), identifiers


def split_indices(groups: list[Group], identifiers: list[np.ndarray],
                  split: str) -> dict[str, np.ndarray]:
    """The arrays of a split except inputs and labels: `puzzle_identifiers` and the two arrays of indices."""
    mine = [i for i, group in enumerate(groups) if split in group.task.pairs]
    puzzles = [groups[i].puzzles for i in mine]
    sizes = np.repeat([len(groups[i].task.pairs[split]) for i in mine], puzzles)
    return {"puzzle_identifiers": np.concatenate([identifiers[i] for i in mine]),
            "puzzle_indices": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            "group_indices": np.concatenate([[0], np.cumsum(puzzles)]).astype(np.int32)}


def write_dataset(folder: Path, groups: list[Group], args: argparse.Namespace, map_tasks: Callable
                  ) -> dict[str, dict[str, int]]:
    """Write all files but source.json. Returns the counts of groups, puzzles and examples of each split."""
    first_rows, rows = lay_out(groups)
    fields = {split: {field: open_field(folder / split, field, (count, SEQ_LEN))
                      for field in TOKEN_FIELDS}
              for split, count in rows.items()}
    written = map_tasks(partial(write_group, folder, args.seed), zip(groups, first_rows))
    for _ in tqdm(written, "writing", total=len(groups), unit="task", disable=None):
        pass
    names, identifiers = number_puzzles(groups, args.puzzle_identifiers_start)
    names = [BLANK_IDENTIFIER] * args.puzzle_identifiers_start + names
    counts = {}
    for split, arrays in fields.items():
        arrays |= split_indices(groups, identifiers, split)
        metadata = write_split(folder / split, arrays, VOCAB_SIZE, len(names), kind="arc")
        counts[split] = {"groups": metadata.total_groups, "puzzles": metadata.total_puzzles,
                         "examples": rows[split]}
    write_json(folder / "identifiers.json", names, indent=None)
    write_json(folder / "test_puzzles.json",
               {group.task.id: group.task.puzzle for group in groups if group.task.for_testing}, indent=None)
    return counts


def write_tasks(folder: Path, tasks: list[Task], num_aug: int, seed: int) -> None:
    """Write a data set of a few tasks in this process, each with at most `num_aug` augmentations."""
    folder.mkdir()
    write_dataset(folder, [draw_group(task, num_aug, seed) for task in tasks],
                  argparse.Namespace(seed=seed, puzzle_identifiers_start=1), map)


def build(args: argparse.Namespace) -> None:
    tasks = without_leaks(read_sources(args), args.on_leak)
    files = [file for subset in args.subsets
             for file in source_files(args.input_file_prefix, subset)]
    examples = sum(len(task.all_pairs()) for task in tasks)
    needed = (1 + args.num_aug) * (2 * SEQ_LEN * examples + 50 * len(tasks))  # 50: identifier, indices and name
    with building("build_arc_dataset", args, files, needed) as (folder, counts), workers(args.num_workers) as map_tasks:
        draw = partial(draw_group, num_aug=args.num_aug, seed=args.seed)
        groups = list(tqdm(map_tasks(draw, tasks), "drawing", total=len(tasks), unit="task",
                           disable=None))
        report_short(groups, args.num_aug)
        counts.update(write_dataset(folder, groups, args, map_tasks))


def report_short(groups: list[Group], num_aug: int) -> None:
    short = [group for group in groups if group.puzzles < 1 + num_aug]
    if short:
        fewest = min(short, key=lambda group: group.puzzles)
        print(f"{len(short)} tasks have fewer than {num_aug} augmentations that differ, of "
              f"{TRIALS * num_aug} drawn; {fewest.task.id} has {fewest.puzzles - 1}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--input-file-prefix", required=True, help="files are "
                        "<prefix>_<subset>_challenges.json and <prefix>_<subset>_solutions.json, "
                        "or one a task, <prefix>/<subset>/<task>.json")
    parser.add_argument("--output-dir", required=True, help="folder to make")
    parser.add_argument("--subsets", nargs="+", required=True, help="names of the subsets to use")
    tested = parser.add_mutually_exclusive_group(required=True)
    tested.add_argument("--test-set-name", help="the subset whose tests go to the test split")
    add_test_fraction(tested, "the subsets", "--test-set-name")
    parser.add_argument("--test-set-name2", help="another such subset")
    parser.add_argument("--tasks", nargs="+", help="ids of the tasks to use, of these "
                                                   "subsets (default: all)")
    parser.add_argument("--num-aug", type=at_least(0), default=1000,
                        help="augmentations of a task (default: 1000)")
    parser.add_argument("--puzzle-identifiers-start", type=at_least(1), default=1,
                        help="identifier of the first puzzle; the ones below "
                             "are blank (default: 1)")
    parser.add_argument("--num-workers", type=at_least(1), default=os.cpu_count(),
                        help="processes; the result does not depend on it "
                             "(default: one a processor)")
    parser.add_argument("--on-leak", choices=("warn", "drop", "error"), default="warn", help="what "
                        "to do where a training task stands in the test set as well: warn "
                        "(default), drop it from training, or stop")
    build(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run(main))
