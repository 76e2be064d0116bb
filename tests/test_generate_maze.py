"""Generated mazes: one shortest path or many, distinct, and a function of the seed."""
import random

import numpy as np
import pytest

from dataset import generate_maze
from dataset.generate_maze import carve, main
from dataset.symmetry import dihedral
from helpers import generated


def adjacency(free: np.ndarray) -> np.ndarray:
    """(C, C) integers: which of the C cells of a square maze are free and beside one another?"""
    side = len(free)
    row, column = np.indices(free.shape).reshape(2, -1)
    distance = abs(row[:, None] - row) + abs(column[:, None] - column)
    return ((distance == 1) & free.ravel() & free.ravel()[:, None]).astype(int).reshape(side ** 2, side ** 2)


@pytest.mark.parametrize("side, paths", [(5, 1), (8, 1), (7, 6)])
def test_mazes_keep_their_promises(tmp_path, side, paths):
    splits = generated(main, tmp_path / "csv", "--side", side, "--train", 40, "--test", 10, "--paths", paths)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "test": 10}
    seen = set()
    for question, answer, rating in splits["train"] + splits["test"]:
        grid = np.array(list(question)).reshape(side, side)
        start, goal = question.index("S"), question.index("G")
        beside = adjacency(grid != "#")
        walks = np.eye(side ** 2, dtype=int)[start]
        for _ in range(rating - 1):  # walks of k moves from S to each cell
            walks = walks @ beside
            assert walks[goal] == 0
        found = (walks @ beside)[goal]
        assert (found >= paths if paths > 1 else found == 1) and rating >= side
        assert answer.replace("o", " ") == question and answer.count("o") == rating - 1
        marked = adjacency(np.isin(np.array(list(answer)).reshape(side, side), ["S", "G", "o"]))
        assert np.linalg.matrix_power(marked, rating)[start, goal] == 1
        views = {"".join(dihedral(grid, transform).ravel()) for transform in range(8)}
        assert not views & seen
        seen |= views


def test_carving_reaches_most_of_the_grid():
    free = carve(12, random.Random(0), 6)
    assert 144 * 0.5 < len(free) < 144 * 0.8


def test_the_files_are_a_function_of_the_seed(tmp_path):
    options = ("--side", 6, "--train", 5, "--test", 5)
    first = generated(main, tmp_path / "a", *options)
    assert generated(main, tmp_path / "b", *options) == first != generated(main, tmp_path / "c", *options, "--seed", 1)


def test_what_cannot_be_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generate_maze, "STALE_DRAWS", 5)
    with pytest.raises(ValueError, match=r"only \d+ of 2001 distinct mazes of side 4 found"):
        generated(main, tmp_path / "a", "--side", 4, "--train", 2000, "--test", 1)
    monkeypatch.setattr(generate_maze, "CARVED", 50)
    with pytest.raises(ValueError, match="--paths 900: no maze of side 4 with so many shortest paths found"):
        generated(main, tmp_path / "a", "--side", 4, "--paths", 900)
    with pytest.raises(ValueError, match="--side: 3 is not a whole number of 4 or more"):
        generated(main, tmp_path / "a", "--side", 3)
    with pytest.raises(ValueError, match="--train: 0 is not a whole number of 1 or more"):
        generated(main, tmp_path / "a", "--train", 0)
    assert not (tmp_path / "a").exists()
    generated(main, tmp_path / "a", "--side", 5, "--train", 2, "--test", 1)
    assert "python -m dataset.build_maze_dataset --source-dir" in capsys.readouterr().out
