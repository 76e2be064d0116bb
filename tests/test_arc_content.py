"""Hashes of tasks against comparing every cell, and tasks that stand in two sets."""
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dataset.arc import COLOURS, augment
from dataset.arc_content import augmented_keys, canonical_key, colour_sums, find_leaks
from dataset.arc_tasks import Pair, Task, read_tasks
from helpers import random_arc_task


def task_of(pairs: list[Pair], name: str = "a", for_testing: bool = False) -> Task:
    return Task(name, "set", {}, {"train": pairs[:-1], "test": pairs[-1:]} if for_testing else {"train": pairs})


def random_pairs(rng: np.random.Generator, **options) -> list[Pair]:
    return [(np.array(pair["input"], np.uint8), np.array(pair["output"], np.uint8))
            for pair in random_arc_task(rng, **options)["train"]]


def augmented(pairs: list[Pair], transform: int, permutation: np.ndarray) -> list[Pair]:
    return [tuple(augment(grid, transform, permutation) for grid in pair) for pair in pairs]


def content(pairs: list[Pair]) -> frozenset:
    """Every cell of every pair, whatever their order."""
    return frozenset(Counter(str([grid.tolist() for grid in pair]) for pair in pairs).items())


@pytest.mark.parametrize("seed", range(12))
def test_augmentations_have_equal_keys_where_they_are_equal(seed):
    """Few cells and colours make many of them equal."""
    rng = np.random.default_rng(seed)
    pairs = random_pairs(rng, demonstrations=2, high=2 + seed % 2, colours=2 + seed % 3)
    if seed % 2:  # a transform that exchanges two pairs changes nothing
        pairs.append(augmented(pairs[:1], 4, np.arange(COLOURS))[0])
    transforms = rng.integers(8, size=300)
    permutations = rng.permuted(np.tile(np.arange(COLOURS), (12, 1)), axis=1)[rng.integers(12, size=300)]
    keys = augmented_keys(colour_sums(pairs), transforms, permutations)
    contents = [content(augmented(pairs, *drawn)) for drawn in zip(transforms, permutations)]
    first = dict(zip(keys.tolist(), contents))
    assert [first[key] for key in keys.tolist()] == contents  # equal keys, equal contents
    assert len(first) == len(set(contents)) < 300


def test_a_grid_is_told_from_one_of_another_shape_and_input_from_output():
    wide, high = np.ones((2, 3), np.uint8), np.ones((3, 2), np.uint8)
    keys = [augmented_keys(colour_sums(pairs), np.array([0]), np.arange(COLOURS)[None])[0]
            for pairs in ([(wide, high)], [(high, wide)], [(wide, wide)], [(high, high)], [(wide, high)] * 2)]
    assert len(set(keys)) == 5


@pytest.mark.parametrize("seed", range(10))
def test_the_canonical_key_outlives_symmetry_colours_and_order_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    pairs = random_pairs(rng, demonstrations=4, low=2)
    key = canonical_key(task_of(pairs))
    for transform in range(8):
        moved = augmented(pairs, transform, rng.permutation(COLOURS))
        assert canonical_key(task_of([moved[i] for i in rng.permutation(4)])) == key
    assert canonical_key(task_of(pairs[:3])) != key
    assert canonical_key(task_of([pairs[0][::-1], *pairs[1:]])) != key
    turned_apart = augmented(pairs[:1], 4, np.arange(COLOURS)) + pairs[1:]
    recoloured_apart = augmented(pairs[:1], 0, np.roll(np.arange(COLOURS), 1)) + pairs[1:]
    changed = [(pairs[0][0] ^ (np.arange(pairs[0][0].size).reshape(pairs[0][0].shape) == 0), pairs[0][1]), *pairs[1:]]
    for other in (turned_apart, recoloured_apart, changed):
        assert canonical_key(task_of(other)) != key


def test_leaks_are_found_by_id_and_by_content():
    rng = np.random.default_rng(1)
    tested, other, same_id = (random_pairs(rng, demonstrations=3, low=3) for _ in range(3))
    test = task_of(tested, "test", for_testing=True)
    moved = augmented(tested, 3, rng.permutation(COLOURS))[::-1]
    by_content, by_id = task_of(moved, "copy"), task_of(same_id, "test")
    assert find_leaks([by_content, test, task_of(other, "innocent"), by_id]) == [(by_content, test), (by_id, test)]
    assert find_leaks([test, replace(test, id="again"), task_of(other, "innocent")]) == []


@pytest.mark.parametrize("subsets, test, leaks", [
    ("training evaluation concept", "evaluation", 1),
    ("training2 evaluation2 concept", "evaluation2", 0),
    ("training2 evaluation", "evaluation", 376),
    ("evaluation evaluation2", "evaluation2", 6),
])
def test_the_leaks_of_the_real_sets(shared, subsets, test, leaks):
    tasks = [task for subset in subsets.split()
             for task in read_tasks(str(shared / "data" / "arc" / "arc-agi"), subset, subset == test)]
    found = find_leaks(tasks)
    assert len(found) == leaks
    if leaks == 1:  # two ids for one task
        assert [(task.id, twin.id) for task, twin in found] == [("40853293", "070dd51e")]
