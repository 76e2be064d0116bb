"""One source divided into train and test: whole tasks, by the seed, whatever joins their rows."""
import numpy as np
import pytest

from dataset.splitting import joined, row_keys, rows_for_testing, variant_keys
from dataset.symmetry import dihedral_indices


@pytest.mark.parametrize("fraction, expected", [(0.3, 6), (0.01, 1), (0.99, 19), (0.25, 5)])
def test_a_fraction_of_the_tasks_is_drawn_with_all_their_rows(fraction, expected):
    tasks = np.array([f"task{i}" for i in np.random.default_rng(0).integers(20, size=200)])
    test = rows_for_testing(tasks, fraction, seed=0)
    assert len(set(tasks[test])) == expected and not set(tasks[test]) & set(tasks[~test])
    assert np.array_equal(test, rows_for_testing(tasks, fraction, seed=0))
    assert any(not np.array_equal(test, rows_for_testing(tasks, fraction, seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize("tasks, fraction, message", [
    ([7, 7, 7], 0.5, "all 3 rows are variants of one task"), ([1, 2], 0, "a test fraction of 0 is not between 0 and 1"),
    ([1, 2], 1.0, "a test fraction of 1.0 is not between"), ([1, 2], float("nan"), "a test fraction of nan")])
def test_what_cannot_be_divided_is_refused(tasks, fraction, message):
    with pytest.raises(ValueError, match=message):
        rows_for_testing(tasks, fraction, seed=0)


def test_rows_are_joined_by_any_key_and_over_others():
    """0-1-2 by turns through both keys, 3 and 5 by the second, 4 alone."""
    tasks = joined(np.array([1, 1, 2, 3, 4, 5]), np.array(["a", "b", "b", "d", "e", "d"]))
    assert [np.flatnonzero(tasks == task).tolist() for task in np.unique(tasks)] == [[0, 1, 2], [3, 5], [4]]


def test_keys_of_many_rows_are_equal_where_the_rows_or_their_variants_are():
    random = np.random.default_rng(0)
    rows = random.integers(1, 6, (5000, 9), dtype=np.uint8)
    distinct = len(np.unique(rows, axis=0))
    assert len(np.unique(row_keys(rows))) == distinct == len(np.unique(row_keys(rows[:, ::-1])))
    assert np.array_equal(row_keys(rows), row_keys(rows.astype(np.int64)))
    views = dihedral_indices(3)
    keys = variant_keys(rows, views)
    for view in views:
        assert np.array_equal(variant_keys(rows[:, view], views), keys)
    assert len(np.unique(keys)) == len({min(map(bytes, row[views])) for row in rows})
