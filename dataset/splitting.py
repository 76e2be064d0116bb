"""One source of tasks as train and test: by task, so that no variant of what is tested is trained on.

    test = rows_for_testing(tasks, 0.1, seed=0)           # (N,) booleans for tasks (N,), whatever names or numbers them
    write_regression_dataset("data/mine", "test", inputs[test], targets[test])

The builders' `--test-fraction` is the same. Check: `pytest tests/test_splitting.py`.
"""
from collections.abc import Callable

import numpy as np

from dataset.symmetry import mix_bits

CHUNK = 4096  # rows hashed at a time


def rows_for_testing(tasks: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(N,) booleans: the rows of a random `fraction` of the tasks, of at least one task and never of all.

    `tasks` (N,) says which task each row is of. ValueError: there is a single task, or the fraction is not in (0, 1).
    """
    distinct, task = np.unique(np.asarray(tasks), return_inverse=True)
    if not 0 < fraction < 1:
        raise ValueError(f"a test fraction of {fraction} is not between 0 and "
                         "1; use 0.1 for a tenth")
    if len(distinct) < 2:
        raise ValueError(f"all {len(task)} rows are variants of one task, which cannot be trained "
                         "and tested on; bring a test set")
    count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    chosen = np.random.default_rng([seed, 2]).choice(len(distinct), count, replace=False)
    return np.isin(task, chosen)


def joined(*keys: np.ndarray) -> np.ndarray:
    """(N,) numbers of tasks. `keys`: arrays (N,).

    Two rows that have the same value in any of the keys are of one task; if a and b are, and b and c, so are a and c.
    """
    groups = [np.unique(np.asarray(key), return_inverse=True)[1] for key in keys]
    tasks, before = np.arange(len(groups[0])), np.empty(0, int)
    while not np.array_equal(tasks, before):
        before = tasks
        for group in groups:
            lowest = np.full(len(group), len(group))
            np.minimum.at(lowest, group, tasks)
            tasks = lowest[group]
    return tasks


def row_keys(rows: np.ndarray) -> np.ndarray:
    """(N,) uint64, equal where rows (N, L) of small integers are; different ones agree once in 2^64 times."""
    return in_chunks(_hashed, rows)


def variant_keys(rows: np.ndarray, views: np.ndarray) -> np.ndarray:
    """(N,) uint64, equal where one row (N, L) becomes the other by one of the views (V, L), permutations of a group."""
    return in_chunks(lambda part: _hashed(part[:, views]).min(axis=1), rows)


def in_chunks(keys: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """`keys` of rows (N, L), a few at a time."""
    return np.concatenate([keys(rows[start:start + CHUNK]) for start in range(0, len(rows), CHUNK)])


def _hashed(rows: np.ndarray) -> np.ndarray:
    """(...) uint64 of (..., L): what each cell's place and content mix to, summed."""
    places = np.arange(rows.shape[-1], dtype=np.uint64) << np.uint64(32)
    return mix_bits(mix_bits(places + rows.astype(np.uint64) + np.uint64(1)).sum(axis=-1))
