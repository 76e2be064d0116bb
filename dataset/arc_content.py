"""What an ARC task shows, as a number: to find equal augmentations, and tasks that stand in two sets.

The hash of a grid is linear: each cell has a random 64-bit weight by its place, each colour a random factor, and the
grid hashes to the sum of weight times factor. So the sums of weights by colour, kept for the 8 transforms, give the
hash under any permutation of the colours without touching a cell. Everything is modulo 2^64; two different things among
10,000 hash alike once in 10^11 times. Check: `pytest tests/test_arc_content.py`.
"""
from functools import cache

import numpy as np

from dataset.arc import COLOURS, SIDE
from dataset.arc_tasks import NO_ANSWER, Pair, Task
from dataset.symmetry import dihedral, inverse_dihedral, mix_bits

_rng = np.random.default_rng(2019)
WEIGHTS = _rng.integers(2 ** 64, size=(SIDE, SIDE), dtype=np.uint64)
FACTORS = _rng.integers(2 ** 64, size=COLOURS, dtype=np.uint64) | np.uint64(1)
ODD = np.uint64(0x9E3779B97F4A7C15)  # tells input from output


def colour_sums(pairs: list[Pair]) -> np.ndarray:
    """(E, 2, 8, 10) uint64: by pair, input or output, transform and colour, the weights of the colour's places."""
    return np.array([[_grid_sums(grid) for grid in pair] for pair in pairs])


def _grid_sums(grid: np.ndarray) -> np.ndarray:
    places = (grid.ravel()[:, None] == np.arange(COLOURS)).astype(np.uint64)
    return _transformed_weights(*grid.shape) @ places


@cache
def _transformed_weights(height: int, width: int) -> np.ndarray:
    """(8, height * width): what each cell of a grid weighs where the transform puts it."""
    shapes = [dihedral(np.empty((height, width)), transform).shape for transform in range(8)]
    return np.stack([inverse_dihedral(WEIGHTS[:rows, :columns], transform).ravel()
                     for transform, (rows, columns) in enumerate(shapes)])


def content_keys(sums: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(...) keys of tasks with colour sums (E, 2, ..., 10) and a factor a colour, (..., 10); the order of the pairs is
    of no consequence."""
    return _join((sums * factors).sum(axis=-1))


def _join(grids: np.ndarray) -> np.ndarray:
    """(...) keys of whole tasks from (E, 2, ...) hashes of their grids."""
    return mix_bits(mix_bits(grids[:, 0]) * ODD + mix_bits(grids[:, 1])).sum(axis=0)


def augmented_keys(sums: np.ndarray, transforms: np.ndarray,
                   permutations: np.ndarray) -> np.ndarray:
    """(N,) keys of the augmentations, by transforms (N,) and permutations (N, 10), of a task with these colour sums.

    Keys are equal where the augmented pairs are.
    """
    return content_keys(sums[:, :, transforms], FACTORS[permutations])


def canonical_key(task: Task, inputs_only: bool = False) -> int:
    """Equal for tasks that become each other by a symmetry of the square and any permutation of the ten colours.

    A colour is known by the places it takes in all pairs; with factors made from these, a task's keys under the 8
    transforms do not depend on the names of its colours, nor the smallest of them on how it lies.
    """
    sums = colour_sums([(question, NO_ANSWER if inputs_only else answer)
                        for question, answer in task.all_pairs()])
    return int(content_keys(sums, mix_bits(_join(sums))).min())


def find_leaks(tasks: list[Task]) -> list[tuple[Task, Task]]:
    """Leaks: each training task that has the id or the content of a test task, together with that test task.

    Where answers of the test task are not known, equal inputs count as equal content.
    """
    by_id = {task.id: task for task in tasks if task.for_testing}
    by_content = {canonical_key(task): task for task in by_id.values()}
    by_inputs = {canonical_key(task, inputs_only=True): task
                 for task in by_id.values() if task.unanswered}
    found = ((task, by_id.get(task.id) or by_content.get(canonical_key(task))
              or (by_inputs and by_inputs.get(canonical_key(task, inputs_only=True))))
             for task in tasks if not task.for_testing)
    return [(task, twin) for task, twin in found if twin]
