"""The Sudoku builder on generated puzzles, on bad rows, interrupted, and against a published data set."""
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dataset import build_sudoku_dataset, generate_sudoku, source_csv
from dataset.build_sudoku_dataset import main, tasks_of
from dataset.common import FIELDS, PuzzleDatasetMetadata, dataset_fingerprint, file_sha256
from dataset.kinds.sudoku import digits_of, text_of, valid_grids
from dataset.source_csv import write_csv
from dataset.sudoku_search import random_grid
from dataset.symmetry import BOXES, random_sudoku_symmetries
from helpers import heed_ctrl_c

ROOT = Path(__file__).resolve().parents[1]
SIZES = (4, 6, 9, 16)  # 25×25 ones have a test of their own
TRAIN, TEST, COPIES = 12, 5, 6  # puzzles of the generated source, and symmetric copies of each


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[int, Path]:
    """A folder with train.csv and test.csv for each size."""
    folder = tmp_path_factory.mktemp("sources")
    for size in SIZES:
        generate_sudoku.main(["--size", str(size), "--train", str(TRAIN), "--test", str(TEST), "--output-dir",
                              str(folder / str(size)), *["--clues", "200"] * (size == 16)])
    return {size: folder / str(size) for size in SIZES}


def build(source: Path, output: Path, *options) -> dict[str, dict[str, np.ndarray]]:
    main(["--source-dir", str(source), "--output-dir", str(output), *map(str, options)])
    return load(output)


def load(output: Path) -> dict[str, dict[str, np.ndarray]]:
    return {split: {field: np.load(output / split / f"all__{field}.npy") for field in FIELDS}
            for split in ("train", "test")}


def csv_rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def tokens(text: str) -> list[int]:
    return [digit + 1 for digit in digits_of(text)]


def invariant(inputs: np.ndarray, labels: np.ndarray) -> tuple:
    """Equal for symmetric puzzles: blanks in rows and columns, and how often each digit is given."""
    size = int(len(inputs) ** 0.5)
    blank = (inputs == 1).reshape(size, size)
    lines = sorted([sorted(blank.sum(axis=0).tolist()), sorted(blank.sum(axis=1).tolist())])
    return lines, sorted(np.bincount(labels[inputs > 1], minlength=size + 2).tolist())


@pytest.mark.parametrize("size, copies", [(4, 0), (6, COPIES), (9, COPIES), (16, COPIES)])
def test_format_originals_and_copies(sources, tmp_path, size, copies):
    arrays = build(sources[size], tmp_path / "built", "--num-aug", copies)
    for split, count, puzzles in (("train", TRAIN, 1 + copies), ("test", TEST, 1)):
        fields, rows = arrays[split], csv_rows(sources[size] / f"{split}.csv")
        assert fields["inputs"].shape == fields["labels"].shape == (count * puzzles, size * size)
        assert {str(fields[field].dtype) for field in ("inputs", "labels")} == {"uint8"}
        assert {str(fields[field].dtype) for field in FIELDS[2:]} == {"int32"}
        assert fields["puzzle_identifiers"].tolist() == [0] * (count * puzzles)
        assert fields["puzzle_indices"].tolist() == list(range(count * puzzles + 1))
        assert fields["group_indices"].tolist() == list(range(0, count * puzzles + 1, puzzles))
        assert fields["inputs"][::puzzles].tolist() == [tokens(question) for _, question, _, _ in rows]
        assert fields["labels"][::puzzles].tolist() == [tokens(answer) for _, _, answer, _ in rows]
        given = fields["inputs"] > 1
        assert (fields["inputs"][given] == fields["labels"][given]).all()
        assert valid_grids(fields["labels"] - 1, BOXES[size]).all()
        metadata = PuzzleDatasetMetadata.model_validate_json((tmp_path / "built" / split / "dataset.json").read_text())
        assert (metadata.vocab_size, metadata.ignore_label_id, metadata.seq_len) == (size + 2, 0, size * size)
        assert (metadata.total_groups, metadata.total_puzzles) == (count, count * puzzles)
    assert json.loads((tmp_path / "built" / "identifiers.json").read_text()) == ["<blank>"]


@pytest.mark.parametrize("size", [6, 9, 16])
def test_copies_belong_to_the_orbit_of_their_group_and_differ(sources, tmp_path, size):
    train = build(sources[size], tmp_path / "built", "--num-aug", COPIES)["train"]
    keys = [generate_sudoku.orbit_key(tuple(labels.tolist())) for labels in train["labels"] - 1]
    puzzles = [invariant(*pair) for pair in zip(train["inputs"], train["labels"])]
    for first, after in zip(train["group_indices"], train["group_indices"][1:]):
        assert len(set(keys[first:after])) == 1
        assert all(puzzle == puzzles[first] for puzzle in puzzles[first:after])
        assert len(np.unique(train["inputs"][first:after], axis=0)) == 1 + COPIES
    assert len(set(keys)) > 1


def test_the_result_is_a_function_of_source_and_seed_not_of_chunks(sources, tmp_path, monkeypatch):
    options = ("--num-aug", COPIES, "--subsample-size", 5)
    build(sources[9], tmp_path / "a", *options)
    fingerprint = dataset_fingerprint(tmp_path / "a")
    monkeypatch.setattr(build_sudoku_dataset, "CHUNK", 7)
    build(sources[9], tmp_path / "b", *options)
    assert dataset_fingerprint(tmp_path / "b") == fingerprint
    build(sources[9], tmp_path / "c", *options, "--seed", 1)
    assert dataset_fingerprint(tmp_path / "c") != fingerprint


def test_subsample_takes_rows_of_train_only(sources, tmp_path):
    arrays = build(sources[9], tmp_path / "built", "--subsample-size", 5)
    questions = [tokens(row[1]) for row in csv_rows(sources[9] / "train.csv")]
    positions = [questions.index(row) for row in arrays["train"]["inputs"].tolist()]
    assert len(positions) == 5 and positions == sorted(set(positions))
    assert len(arrays["test"]["inputs"]) == TEST
    with pytest.raises(ValueError, match=f"--subsample-size 13 of {TRAIN} usable rows"):
        build(sources[9], tmp_path / "more", "--subsample-size", 13)


def test_a_test_set_is_built_alone(sources, tmp_path):
    whole = build(sources[9], tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "test.csv").write_bytes((sources[9] / "test.csv").read_bytes())
    command = ["--source-dir", str(tmp_path / "alone"), "--output-dir", str(tmp_path / "built")]
    with pytest.raises(ValueError, match=r"train\.csv does not exist; .*or test\.csv alone with --test-only"):
        main(command)
    for option in (["--num-aug", "1"], ["--subsample-size", "2"], ["--test-fraction", "0.5"]):
        with pytest.raises(ValueError, match=f"{option[0]} is about training puzzles, and --test-only has none"):
            main([*command, "--test-only", *option])
    main([*command, "--test-only"])
    assert not (tmp_path / "built" / "train").exists()
    for field, array in whole["test"].items():
        np.testing.assert_array_equal(np.load(tmp_path / "built" / "test" / f"all__{field}.npy"), array)
    rows = json.loads((tmp_path / "built" / "source.json").read_text())["rows"]
    assert rows == {"test": {"groups": TEST, "puzzles": TEST, "examples": TEST}}


def test_bounds_of_difficulty_apply_to_both_splits(sources, tmp_path):
    ratings = {split: [int(row[3]) for row in csv_rows(sources[9] / f"{split}.csv")] for split in ("train", "test")}
    bound = sorted(ratings["test"])[2]
    harder = build(sources[9], tmp_path / "harder", "--min-difficulty", bound)
    easier = build(sources[9], tmp_path / "easier", "--max-difficulty", bound)
    between = build(sources[9], tmp_path / "between", "--min-difficulty", bound, "--max-difficulty", bound)
    for split in ratings:
        assert len(harder[split]["inputs"]) == sum(rating >= bound for rating in ratings[split])
        assert len(easier[split]["inputs"]) == sum(rating <= bound for rating in ratings[split])
        assert len(between[split]["inputs"]) == ratings[split].count(bound)
    with pytest.raises(ValueError, match=r"no row of .*train\.csv is within --min-difficulty 99; its ratings are"):
        build(sources[9], tmp_path / "none", "--min-difficulty", 99)


def test_ratings_are_kept_where_asked_one_a_group(sources, tmp_path):
    for keep in ([], ["--keep-ratings"]):
        build(sources[9], tmp_path / f"built{len(keep)}", "--num-aug", 2, *keep)
        assert (tmp_path / f"built{len(keep)}" / "train" / "all__rating.npy").is_file() == bool(keep)
    for split in ("train", "test"):
        kept = np.load(tmp_path / "built1" / split / "all__rating.npy")
        assert kept.tolist() == [float(row[3]) for row in csv_rows(sources[9] / f"{split}.csv")]


def test_provenance_and_report(sources, tmp_path, capsys):
    build(sources[6], tmp_path / "built", "--num-aug", 2)
    source = json.loads((tmp_path / "built" / "source.json").read_text())
    assert source["builder"] == "build_sudoku_dataset" and source["arguments"]["num_aug"] == 2
    assert source["source"]["train.csv"] == file_sha256(sources[6] / "train.csv")
    assert source["rows"] == {"train": {"groups": 12, "puzzles": 36, "examples": 36},
                              "test": {"groups": 5, "puzzles": 5, "examples": 5}}
    printed = capsys.readouterr().out
    assert "train: 12 groups, 36 puzzles, 36 examples" in printed
    assert dataset_fingerprint(tmp_path / "built") in printed


ANSWER = "1234341221434321"


@pytest.mark.parametrize("question, answer, problem", [
    ("1...34..2.....5.", ANSWER, "the question may hold only 1 to 4, and '.' or 0"),
    ("1...34..2.....x.", ANSWER, "the question may hold only 1 to 4"),
    ("1...34..2.......", ANSWER.replace("4", "."), "the answer may hold only 1 to 4"),
    ("1...34..2.......", "1234341221434312", "the answer repeats a digit in a row, column or box"),
    ("2...34..2.......", ANSWER, "the answer contradicts a digit of the question"),
])
def test_a_bad_row_is_named(tmp_path, question, answer, problem):
    good = ("1...34..2.......", ANSWER, 9)
    write_csv(tmp_path / "train.csv", "s", [good, (question, answer, 9), good])
    write_csv(tmp_path / "test.csv", "s", [good])
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'train.csv'}, line 3: {problem}")):
        build(tmp_path, tmp_path / "built")
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize("size", SIZES)
def test_a_fraction_of_one_source_is_the_test_set_and_no_variant_stands_on_both_sides(sources, tmp_path, size):
    """The source holds each puzzle, two symmetric copies of it and, but for 4×4, another question with its grid."""
    rows = [(question, answer) for _, question, answer, _ in csv_rows(sources[size] / "train.csv")]
    digits = np.array([[tokens(text) for text in row] for row in rows], np.uint8) - 1
    parts = [digits]
    for seed in (0, 1):
        symmetries = random_sudoku_symmetries(TRAIN, BOXES[size], np.random.default_rng(seed))
        parts.append(np.stack([symmetries.apply(digits[:, 0]), symmetries.apply(digits[:, 1])], axis=1))
    if size > 4:
        parts.append(np.where([[True], [False]] & (np.arange(size**2) % 5 == 0), 0, digits))
    copies = np.concatenate(parts)
    (tmp_path / "csv").mkdir()
    write_csv(tmp_path / "csv" / "train.csv", "s", [(*map(text_of, row), 0) for row in copies.tolist()])
    options = ["--test-fraction", "0.25", "--num-aug", 0 if size == 4 else 2]
    arrays = build(tmp_path / "csv", tmp_path / "built", *options)
    test = {inputs.tobytes() for inputs in arrays["test"]["inputs"]}
    sides = {split: {task % TRAIN for task, row in enumerate(copies[:, 0] + 1)
                     if (row.astype(np.uint8).tobytes() in test) == (split == "test")} for split in ("train", "test")}
    assert sides["train"] | sides["test"] == set(range(TRAIN)) and not sides["train"] & sides["test"]
    tested = len(np.unique(tasks_of(read_rows_of(tmp_path / "csv" / "train.csv"))))
    assert len(sides["test"]) == round(0.25 * tested)
    kept = arrays["train"]["inputs"][::1 + options[-1]]
    assert len(kept) + len(arrays["test"]["inputs"]) == len(copies)
    again = build(tmp_path / "csv", tmp_path / "again", *options)
    other = build(tmp_path / "csv", tmp_path / "other", *options, "--seed", 1)
    assert np.array_equal(again["test"]["inputs"], arrays["test"]["inputs"])
    assert not np.array_equal(other["test"]["inputs"], arrays["test"]["inputs"])


def read_rows_of(path: Path) -> source_csv.SourceRows:
    return build_sudoku_dataset.checked_puzzles(source_csv.read_rows(path))


def test_other_sizes_mixed_sizes_and_bad_augmentations_are_refused(sources, tmp_path):
    write_csv(tmp_path / "train.csv", "s", [("1" * 25, "1" * 25, 0)])
    (tmp_path / "test.csv").write_bytes((sources[9] / "test.csv").read_bytes())
    with pytest.raises(ValueError, match=r"train\.csv, line 2: the puzzle has 25 characters; 16"):
        build(tmp_path, tmp_path / "built")
    (tmp_path / "train.csv").write_bytes((sources[4] / "train.csv").read_bytes())
    with pytest.raises(ValueError, match="have 16 characters, those of .* 81; both splits must hold one size"):
        build(tmp_path, tmp_path / "built")
    with pytest.raises(ValueError, match="--num-aug is not for 4×4.*two symmetry orbits"):
        build(sources[4], tmp_path / "built", "--num-aug", 1)
    with pytest.raises(ValueError, match="--num-aug: -1 is not a whole number of 0 or more"):
        build(sources[9], tmp_path / "built", "--num-aug", -1)


def test_25x25_puzzles_have_letters_up_to_p_and_another_letter_is_refused(tmp_path):
    answer = text_of(random_grid(25, random.Random(0)))
    question = answer.replace("P", ".")
    for split in ("train", "test"):
        write_csv(tmp_path / f"{split}.csv", "s", [(question, answer, 25)])
    inputs = build(tmp_path, tmp_path / "built", "--num-aug", 2)["train"]["inputs"]
    assert inputs.shape == (3, 625) and (inputs == 1).sum(1).tolist() == [25] * 3 and inputs.max() == 26
    assert valid_grids(load(tmp_path / "built")["train"]["labels"] - 1, (5, 5)).all()
    for bad in "0Q":
        write_csv(tmp_path / "train.csv", "s", [(question.replace(".", bad), answer, 25)])
        with pytest.raises(ValueError, match="the question may hold only 1 to P, and '.' for a blank"):
            build(tmp_path, tmp_path / "other")


@pytest.mark.parametrize("size", BOXES)
def test_valid_grids_of_every_size_finds_two_digits_that_changed_places(size):
    """Of 16×16 and more, sets of digits need more than 16 bits."""
    grid = np.array(random_grid(size, random.Random(0)))
    swapped = grid.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    last = np.where(grid == size, size + 1, grid)
    assert valid_grids(np.stack([grid, swapped, last]), BOXES[size]).tolist() == [True, False, False]


def test_valid_grids_finds_each_kind_of_repetition():
    right = np.array(next(generate_sudoku.solutions([0] * 36))).reshape(6, 6)
    row, column = np.indices((6, 6))
    cyclic = (row + column) % 6 + 1
    only_rows_right, only_columns_right = column + 1, row + 1
    only_boxes_right = row % 2 * 3 + column % 3 + 1
    grids = np.stack([right, cyclic, only_rows_right, only_columns_right, only_boxes_right,
                      np.where(right == 6, 0, right), np.where(right == 6, 22, right), np.where(right == 6, -1, right)])
    assert valid_grids(grids.reshape(-1, 36), BOXES[6]).tolist() == [True] + [False] * 7


def test_shared_solution_grids_are_counted(sources, tmp_path, capsys):
    train = (sources[9] / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "test.csv").write_text("\n".join(train.splitlines()[:4]) + "\n")
    build(tmp_path, tmp_path / "built")
    assert "warning: 3 of 3 distinct test solution grids also occur in train" in capsys.readouterr().err
    build(sources[9], tmp_path / "disjoint")
    assert "warning" not in capsys.readouterr().err


def test_a_failing_write_leaves_nothing(sources, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")
    monkeypatch.setattr(source_csv, "write_split", fail)
    with pytest.raises(OSError):
        build(sources[9], tmp_path / "out" / "built")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_process_leaves_nothing(sources, tmp_path):
    command = [sys.executable, "-m", "dataset.build_sudoku_dataset", "--source-dir", str(sources[9]), "--num-aug",
               "100000", "--output-dir", str(tmp_path / "out" / "built")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=heed_ctrl_c)
    try:
        while not list(tmp_path.glob("out/.built.building-*/train/all__labels.npy")):
            assert process.poll() is None, "the build ended before it could be interrupted"
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
    finally:
        process.kill()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("start", [["-m", "dataset.build_sudoku_dataset"], ["dataset/build_sudoku_dataset.py"]])
def test_runs_as_module_and_as_script(sources, tmp_path, start):
    command = [sys.executable, *start, "--source-dir", str(sources[9]), "--output-dir", str(tmp_path / "built")]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0 and "fingerprint" in first.stdout and not first.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and re.fullmatch(r"error: .* exists already.*\n", again.stderr)


def test_a_published_data_set_is_rebuilt_from_its_rows(shared, tmp_path):
    published = load(shared / "interop" / "sudoku4")
    for split, fields in published.items():
        texts = [["".join(map(str, row)).replace("0", ".") for row in (fields[name] - 1).tolist()]
                 for name in ("inputs", "labels")]
        write_csv(tmp_path / f"{split}.csv", "s", [(question, answer, 0) for question, answer in zip(*texts)])
    built = build(tmp_path, tmp_path / "built")
    for split, fields in published.items():
        for name, array in fields.items():
            np.testing.assert_array_equal(built[split][name], array)
            assert built[split][name].dtype == array.dtype
        theirs, ours = (json.loads((path / split / "dataset.json").read_text())
                        for path in (shared / "interop" / "sudoku4", tmp_path / "built"))
        assert ours == theirs | {"kind": "sudoku"}  # which published readers pass over
    assert (tmp_path / "built" / "identifiers.json").exists()


def test_real_puzzles_pass_every_check(shared, tmp_path, capsys):
    arrays = build(shared / "data" / "sudoku", tmp_path / "built", "--subsample-size", 100, "--num-aug", 3)
    assert arrays["train"]["inputs"].shape == (400, 81) and arrays["test"]["inputs"].shape == (2000, 81)
    assert capsys.readouterr().err == ""
