"""The maze builder on generated mazes, on bad rows, and on the real ones."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset import generate_maze, source_csv
from dataset.build_maze_dataset import main
from dataset.common import FIELDS, PuzzleDatasetMetadata, dataset_fingerprint
from dataset.kinds.maze import Maze, are_paths
from dataset.source_csv import write_csv
from dataset.symmetry import dihedral, inverse_dihedral

ROOT = Path(__file__).resolve().parents[1]
SIDE, TRAIN, TEST = 6, 10, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mazes") / "csv"
    generate_maze.main(["--side", str(SIDE), "--train", str(TRAIN), "--test", str(TEST), "--output-dir", str(folder)])
    return folder


def build(source: Path, output: Path, *options) -> dict[str, dict[str, np.ndarray]]:
    main(["--source-dir", str(source), "--output-dir", str(output), *map(str, options)])
    return {split: {field: np.load(output / split / f"all__{field}.npy") for field in FIELDS}
            for split in ("train", "test")}


def tokens(path: Path, column: int) -> np.ndarray:
    return np.array([["# SGo".index(character) + 1 for character in line.split(",")[column]]
                     for line in path.read_text().splitlines()[1:]])


@pytest.mark.parametrize("option, copies", [("--aug", 8), ("--no-aug", 1)])
def test_format_and_views(source, tmp_path, option, copies):
    arrays = build(source, tmp_path / "built", option)
    for split, count, views in (("train", TRAIN, copies), ("test", TEST, 1)):
        fields = arrays[split]
        for field, column in (("inputs", 1), ("labels", 2)):
            assert fields[field].shape == (count * views, SIDE ** 2) and fields[field].dtype == np.uint8
            originals = tokens(source / f"{split}.csv", column)
            for view in range(views):
                grids = fields[field][view::views].reshape(-1, SIDE, SIDE)
                np.testing.assert_array_equal(inverse_dihedral(grids, view).reshape(count, -1), originals)
        assert fields["puzzle_identifiers"].tolist() == [0] * (count * views)
        assert fields["puzzle_indices"].tolist() == list(range(count * views + 1))
        assert fields["group_indices"].tolist() == list(range(0, count * views + 1, views))
        assert {str(fields[field].dtype) for field in FIELDS[2:]} == {"int32"}
        metadata = PuzzleDatasetMetadata.model_validate_json((tmp_path / "built" / split / "dataset.json").read_text())
        assert (metadata.vocab_size, metadata.seq_len, metadata.total_groups) == (6, SIDE ** 2, count)
    assert json.loads((tmp_path / "built" / "identifiers.json").read_text()) == ["<blank>"]
    assert json.loads((tmp_path / "built" / "source.json").read_text())["rows"]["train"]["groups"] == TRAIN


def test_a_fraction_of_one_source_is_the_test_set_and_no_view_stands_on_both_sides(source, tmp_path, capsys):
    rows = [line.split(",") for line in (source / "train.csv").read_text().splitlines()[1:]]
    views = [(*("".join(dihedral(np.array(list(text)).reshape(SIDE, SIDE), view).ravel()) for text in row[1:3]), 0)
             for view in (0, 3, 6) for row in rows]
    (tmp_path / "csv").mkdir()
    write_csv(tmp_path / "csv" / "train.csv", "s", views)
    arrays = build(tmp_path / "csv", tmp_path / "built", "--test-fraction", "0.3")
    test = {inputs.tobytes() for inputs in arrays["test"]["inputs"]}
    tested = [maze for maze, (question, *_) in enumerate(views)
              if np.array(["# SGo".index(c) + 1 for c in question], np.uint8).tobytes() in test]
    assert len(tested) == 9 and len({maze % TRAIN for maze in tested}) == 3
    assert len(arrays["train"]["inputs"]) == 8 * 21
    assert not test & {inputs.tobytes() for inputs in arrays["train"]["inputs"]}
    assert "also occur in train" not in capsys.readouterr().err


def test_augmentation_is_the_default_and_the_subsample_follows_the_seed(source, tmp_path):
    arrays = {seed: build(source, tmp_path / f"{seed}", "--subsample-size", 5, "--seed", seed) for seed in (0, 1)}
    for built in arrays.values():
        assert (len(built["train"]["inputs"]), len(built["test"]["inputs"])) == (40, TEST)
    assert not np.array_equal(arrays[0]["train"]["inputs"], arrays[1]["train"]["inputs"])
    build(source, tmp_path / "again", "--subsample-size", 5)
    assert dataset_fingerprint(tmp_path / "again") == dataset_fingerprint(tmp_path / "0")


@pytest.mark.parametrize("answer, is_path", [
    ("SooG", True),
    ("SG  ", True),
    ("So G", False),  # a gap
    ("S  G", False),
    ("oSoG", False),  # a mark behind the start
    ("SGoo", False),  # marks behind the goal
    ("So /#o /#oG", True),
    ("S  / o /  G", False),  # only by diagonals
    ("Soo/#oo/ oG", False),  # a block beside the way
    ("So /oo / oG", False),  # a dead end
    ("SG  /    /oo  /oo  ", False),  # a ring of its own
    ("o  S/o  o/ooGo", False),  # a dead end behind the goal
])
def test_paths(answer, is_path):
    grid = np.array([list(row.encode()) for row in answer.split("/")])
    assert are_paths(Maze(4, 6).tokens_of(grid)[None]).tolist() == [is_path]


def test_paths_of_many_mazes_at_once():
    answers = np.frombuffer(b"SooG" b"So G" b"GS  ", np.uint8).reshape(3, 1, 4)
    assert are_paths(Maze(4, 6).tokens_of(answers)).tolist() == [True, False, True]


@pytest.mark.parametrize("question, answer, problem", [
    ("S #x #  G", "So# o# oG", "the question may hold only '#', ' ', 'S', 'G'"),
    ("So# o# oG", "So# o# oG", "the question may hold only '#', ' ', 'S', 'G'"),
    ("S #  #  G", "So# o# xG", "the answer may hold only '#', ' ', 'S', 'G', 'o'"),
    ("  #  #  G", "oo# o# oG", "the question must hold exactly one S"),
    ("S #  #  S", "So# o# oS", "the question must hold exactly one S"),
    ("S #  #G G", "So# o#GoG", "the question must hold exactly one G"),
    ("S ## #  G", "Soo o# oG", "the answer may differ from the question only by an 'o' on a blank cell"),
    ("S #  #  G", "So# o#G o", "the answer may differ"),
    ("S #  #  G", "So#  # oG", "the cells marked 'o' are not one path from S to G"),
])
def test_a_bad_row_is_named(tmp_path, question, answer, problem):
    good = ("S #  #  G", "So# o# oG", 4)
    write_csv(tmp_path / "train.csv", "s", [good, (question, answer, 4)])
    write_csv(tmp_path / "test.csv", "s", [good])
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'train.csv'}, line 3: {problem}")):
        build(tmp_path, tmp_path / "built")
    assert not (tmp_path / "built").exists()


def test_mazes_that_are_not_square_or_of_two_sizes_are_refused(source, tmp_path):
    write_csv(tmp_path / "train.csv", "s", [("S G", "SoG", 2)])
    (tmp_path / "test.csv").write_bytes((source / "test.csv").read_bytes())
    with pytest.raises(ValueError, match=r"train\.csv, line 2: the maze has 3 characters, not a square number"):
        build(tmp_path, tmp_path / "built")
    write_csv(tmp_path / "train.csv", "s", [("SG  ", "SG  ", 1)])
    with pytest.raises(ValueError, match="have 4 characters, those of .* 36; both splits must hold one size"):
        build(tmp_path, tmp_path / "built")


def test_a_rotated_test_maze_among_the_training_views_is_counted(tmp_path, capsys):
    write_csv(tmp_path / "train.csv", "s", [("SG #", "SG #", 1)])
    write_csv(tmp_path / "test.csv", "s", [("S G#", "S G#", 1)])
    build(tmp_path, tmp_path / "views")
    assert "warning: 1 of 1 distinct test mazes also occur in train" in capsys.readouterr().err
    build(tmp_path, tmp_path / "plain", "--no-aug")
    assert "warning" not in capsys.readouterr().err


def test_a_failing_write_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")
    monkeypatch.setattr(source_csv, "write_json", fail)
    with pytest.raises(OSError):
        build(source, tmp_path / "out" / "built")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("start", [["-m", "dataset.build_maze_dataset"], ["dataset/build_maze_dataset.py"]])
def test_runs_as_module_and_as_script(source, tmp_path, start):
    command = [sys.executable, *start, "--source-dir", str(source), "--output-dir", str(tmp_path / "built")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and not result.stderr
    assert "train: 10 groups, 80 puzzles, 80 examples" in result.stdout


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "csv"
    generate_maze.main(["--side", "5", "--train", "8", "--test", "4", "--paths", "3", "--output-dir", str(folder)])
    return folder


def others_of(path: Path, split: str) -> np.ndarray:
    return np.load(path / split / "all__other_labels.npy")


def test_other_paths_are_shortest_and_stand_beside_the_usual_files(several, tmp_path):
    kind = Maze(25, 6)
    plain, built = build(several, tmp_path / "plain"), build(several, tmp_path / "built", "--paths", 4)
    for split, copies in (("train", 8), ("test", 1)):
        assert all(np.array_equal(plain[split][field], built[split][field]) for field in FIELDS)
        inputs, labels, others = *(built[split][field] for field in ("inputs", "labels")), others_of(tmp_path / "built",
                                                                                                     split)
        assert others.shape == (len(inputs), 3, 25) and others.dtype == np.uint8
        assert kind.rules(inputs.repeat(3, 0), others.reshape(-1, 25))["solved"].all()
        originals = others[::copies]
        for view in range(copies):  # each view of a maze has the same paths in the same order
            grids = others[view::copies].reshape(-1, 3, 5, 5)
            np.testing.assert_array_equal(inverse_dihedral(grids, view).reshape(originals.shape), originals)
        for label, found in zip(labels, others):  # all distinct, or the label again at the end
            rows = [row.tobytes() for row in found]
            first = rows.index(label.tobytes()) if label.tobytes() in rows else 3
            assert first >= 2 and len({*rows[:first]}) == first and {*rows[first:]} <= {label.tobytes()}
        metadata = json.loads((tmp_path / "built" / split / "dataset.json").read_text())
        assert metadata["other_labels"] == 3
        assert "other_labels" not in json.loads((tmp_path / "plain" / split / "dataset.json").read_text())
        assert not (tmp_path / "plain" / split / "all__other_labels.npy").exists()


def test_a_test_set_is_built_alone_with_its_other_paths(several, tmp_path):
    whole = build(several, tmp_path / "whole", "--paths", 4)
    main(["--source-dir", str(several), "--output-dir", str(tmp_path / "alone"), "--paths", "4", "--test-only"])
    assert not (tmp_path / "alone" / "train").exists()
    np.testing.assert_array_equal(others_of(tmp_path / "alone", "test"), others_of(tmp_path / "whole", "test"))
    np.testing.assert_array_equal(np.load(tmp_path / "alone" / "test" / "all__inputs.npy"), whole["test"]["inputs"])


def test_other_paths_follow_the_seed(several, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(several, tmp_path / name, "--paths", 3, "--seed", seed)
    assert dataset_fingerprint(tmp_path / "a") == dataset_fingerprint(tmp_path / "b")
    assert not np.array_equal(others_of(tmp_path / "a", "train"), others_of(tmp_path / "c", "train"))


def test_an_answer_that_is_no_shortest_path_has_no_others(tmp_path):
    detour = "S G      ", "S Go oooo", 6
    write_csv(tmp_path / "train.csv", "s", [detour])
    write_csv(tmp_path / "test.csv", "s", [detour])
    build(tmp_path, tmp_path / "plain")
    with pytest.raises(ValueError, match="line 2: --paths draws from the shortest paths, and the answer is longer"):
        build(tmp_path, tmp_path / "built", "--paths", 2)


def test_real_mazes_pass_every_check(shared, tmp_path, capsys):
    arrays = build(shared / "data" / "maze", tmp_path / "built")
    assert arrays["train"]["inputs"].shape == (8000, 900) and arrays["test"]["inputs"].shape == (1000, 900)
    assert capsys.readouterr().err == ""
