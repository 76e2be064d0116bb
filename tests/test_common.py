"""The on-disk format: what is written, what is left behind, and what a fingerprint sees."""
import json
from collections import namedtuple

import numpy as np
import pytest

from dataset import common
from dataset.common import (
    FIELDS,
    PuzzleDatasetMetadata,
    dataset_fingerprint,
    field_path,
    file_sha256,
    new_dataset_directory,
    open_field,
    write_json,
    write_split,
)
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.puzzle_set import load_puzzle_set


def split_arrays() -> dict[str, np.ndarray]:
    """Two groups of two puzzles and of one, with 2, 1 and 1 examples of 3 tokens."""
    return {"inputs": np.arange(12, dtype=np.uint8).reshape(4, 3), "labels": np.ones((4, 3), np.uint8),
            "puzzle_identifiers": np.zeros(3, np.int32), "puzzle_indices": np.array([0, 2, 3, 4], np.int32),
            "group_indices": np.array([0, 2, 3], np.int32)}


def test_a_split_is_written_as_described(tmp_path):
    arrays = split_arrays()
    metadata = write_split(tmp_path / "train", arrays, vocab_size=12)
    stored = json.loads((tmp_path / "train" / "dataset.json").read_text())
    assert stored == metadata.model_dump(exclude={"kind", "token_names", "other_labels"}) == {
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": 12, "seq_len": 3,
        "num_puzzle_identifiers": 1, "total_groups": 2, "mean_puzzle_examples": 4 / 3, "total_puzzles": 3,
        "sets": ["all"]}
    for field in FIELDS:
        loaded = np.load(tmp_path / "train" / f"all__{field}.npy")
        np.testing.assert_array_equal(loaded, arrays[field])
        assert loaded.dtype == arrays[field].dtype


def test_an_array_opened_in_place_is_kept_and_one_of_another_place_is_copied(tmp_path):
    arrays = split_arrays()
    write_split(tmp_path / "old", arrays, vocab_size=12)
    arrays["labels"] = np.load(field_path(tmp_path / "old", "all", "labels"), mmap_mode="r")
    in_place = arrays["inputs"] = open_field(tmp_path / "new", "inputs", (4, 3))
    in_place[:] = 7
    written = field_path(tmp_path / "new", "all", "inputs").stat().st_ino
    write_split(tmp_path / "new", arrays, vocab_size=12)
    assert field_path(tmp_path / "new", "all", "inputs").stat().st_ino == written
    assert (np.load(field_path(tmp_path / "new", "all", "inputs")) == 7).all()
    assert (np.load(field_path(tmp_path / "new", "all", "labels")) == 1).all()


def test_a_split_is_not_replaced_unasked(tmp_path):
    write_split(str(tmp_path / "train"), split_arrays(), vocab_size=12)
    before = {file.name: file.read_bytes() for file in (tmp_path / "train").iterdir()}
    for name in ("all", "other"):  # another set's metadata would forget the first
        with pytest.raises(ValueError, match="train/dataset.json exists already; .* pass overwrite=True"):
            write_split(tmp_path / "train", split_arrays() | {"labels": np.zeros((4, 3), np.uint8)}, 12, set_name=name)
    assert {file.name: file.read_bytes() for file in (tmp_path / "train").iterdir()} == before
    kept = np.load(field_path(tmp_path / "train", "all", "inputs"), mmap_mode="r")
    write_split(tmp_path / "train", split_arrays() | {"inputs": kept[:, ::-1]}, 12, overwrite=True)
    assert np.array_equal(np.load(field_path(tmp_path / "train", "all", "inputs")), split_arrays()["inputs"][:, ::-1])


def test_a_part_of_a_file_is_not_taken_for_the_whole(tmp_path):
    whole = open_field(tmp_path, "labels", (8, 3))
    whole[:] = np.arange(24).reshape(8, 3) % 12
    write_split(tmp_path, split_arrays() | {"labels": whole[4:]}, vocab_size=12, overwrite=True)
    assert np.array_equal(np.load(field_path(tmp_path, "all", "labels")), np.arange(12, 24).reshape(4, 3) % 12)


@pytest.mark.parametrize("labels, ignored, expected", [
    (np.ones((4, 2), np.uint8), 0, [[1, 1, 0]] * 4),
    ([[1], [1, 2], [], [1]], 0, [[1, 0, 0], [1, 2, 0], [0, 0, 0], [1, 0, 0]]),
    (np.ones((4, 2), np.uint8), -100, [[1, 1, -100]] * 4)])
def test_a_shorter_answer_is_filled_up_with_the_ignored_label_which_is_said(tmp_path, capsys, labels, ignored,
                                                                            expected):
    write_split(tmp_path / "train", split_arrays() | {"labels": labels}, 12, ignore_label_id=ignored)
    assert np.load(field_path(tmp_path / "train", "all", "labels")).tolist() == expected
    told = capsys.readouterr().out
    assert "train, labels: rows of " in told and f"are filled up to 3 with the ignored label, {ignored}" in told
    batch = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(tmp_path)], global_batch_size=4,
                                              test_set_mode=False)).examples(range(4))
    assert np.array_equal(batch["labels"], np.where(np.equal(expected, ignored), -100, expected))


def test_a_shorter_question_is_filled_up_with_the_pad_token(tmp_path, capsys):
    metadata = write_split(tmp_path / "train", split_arrays() | {"labels": np.ones((4, 5), np.uint8)}, 12)
    stored = np.load(field_path(tmp_path / "train", "all", "inputs"))
    assert metadata.seq_len == 5 and np.array_equal(stored, np.pad(split_arrays()["inputs"], ((0, 0), (0, 2))))
    assert "inputs: rows of 3 cells are filled up to 5 with the pad token, 0" in capsys.readouterr().out


@pytest.mark.parametrize("changes, options, message", [
    ({"labels": np.ones((4, 2), int)}, {"ignore_label_id": None},
     "labels: rows have 2 cells, and 3 are needed; .*give an ignore_label_id"),
    ({"labels": np.ones((3, 3), int)}, {}, "labels: 3 rows for 4 of inputs"),
    ({"inputs": np.full((4, 3), 12)}, {},
     r"inputs: row 0, position 0 holds 12, but vocab_size is 12 \(tokens 0 to 11\)"),
    ({"labels": np.array([[1, 1, 1]] * 3 + [[1, -100, 1]])}, {}, "labels: row 3, position 1 holds -100"),
    ({"inputs": np.zeros((4, 3))}, {}, "inputs: expected integers in 2 dimensions, found float64"),
    ({"inputs": np.zeros((4, 3, 1), int)}, {},
     r"inputs: expected integers in 2 dimensions, found int64 of shape \(4, 3, 1\)"),
    ({"inputs": np.zeros((0, 3), int), "labels": np.zeros((0, 3), int)}, {}, "inputs: the split is empty"),
    ({"puzzle_indices": [0, 2, 3]}, {}, "puzzle_indices: must rise from 0 to 4, the number of examples"),
    ({"group_indices": [0, 3, 3]}, {}, "group_indices: must rise from 0 to 3, the number of puzzles"),
    ({"puzzle_identifiers": [0, 1, 2]}, {}, "puzzle_identifiers: holds 0 to 2, but num_puzzle_identifiers=1"),
    ({"targets": np.ones(4)}, {}, "arrays: should be inputs, .*, and are inputs, .*, targets"),
    ({}, {"set_name": "a/b"}, "set_name='a/b' begins the names of files")])
def test_arrays_that_do_not_fit_are_not_written(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        write_split(tmp_path / "train", split_arrays() | changes, 12, **options)
    assert not (tmp_path / "train").exists()


def test_tokens_of_a_large_array_in_its_file_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "BLOCK_ROWS", 3)
    arrays = split_arrays() | {"inputs": open_field(tmp_path / "train", "inputs", (4, 3))}
    arrays["inputs"][3, 1] = 12
    with pytest.raises(ValueError, match="inputs: row 3, position 1 holds 12"):
        write_split(tmp_path / "train", arrays, vocab_size=12)


def test_other_solutions_are_a_file_beside_the_usual_ones_which_is_checked(tmp_path):
    others = np.ones((4, 2, 3), np.uint8)
    metadata = write_split(tmp_path / "train", split_arrays() | {"other_labels": others}, vocab_size=12)
    assert metadata.other_labels == 2 and json.loads((tmp_path / "train/dataset.json").read_text())["other_labels"] == 2
    assert np.array_equal(np.load(tmp_path / "train/all__other_labels.npy"), others)
    assert np.array_equal(load_puzzle_set(str(tmp_path), "train", "all", metadata).fetch(np.arange(3))["other_labels"],
                          others[:3])
    foreign = others.copy()
    foreign[2, 1, 1] = 12
    shape = r"expected uint8 of shape \(4, solutions, 3\), found "
    for wrong, message in ((others[:, 0], shape + r"uint8 of shape \(4, 3\)"), (others[:3], shape + "uint8"),
                           (others[:, :0], shape + "uint8"), (others.astype(np.int32), shape + "int32"),
                           (foreign, "row 2, position 1 holds 12, but vocab_size is 12")):
        with pytest.raises(ValueError, match=f"other_labels: {message}.*; nothing was written"):
            write_split(tmp_path / "new", split_arrays() | {"other_labels": wrong}, vocab_size=12)
    with pytest.raises(ValueError, match="all__other_labels.npy: holds 2 solutions of each example, and dataset.json "
                                         "tells other_labels=0; build the data set again"):
        load_puzzle_set(str(tmp_path), "train", "all", metadata.model_copy(update={"other_labels": 0}))
    np.save(tmp_path / "train/all__other_labels.npy", foreign)
    with pytest.raises(ValueError, match="all__other_labels.npy: row 2, position 1 holds 12"):
        load_puzzle_set(str(tmp_path), "train", "all", metadata).fetch(np.arange(4))
    write_split(tmp_path / "train", split_arrays(), vocab_size=12, overwrite=True)
    assert not (tmp_path / "train/all__other_labels.npy").exists()


def test_published_metadata_is_read(shared):
    stored = (shared / "interop" / "sudoku4" / "train" / "dataset.json").read_text()
    metadata = PuzzleDatasetMetadata.model_validate_json(stored)
    assert (metadata.vocab_size, metadata.seq_len, metadata.total_groups) == (6, 16, 4000)
    with_more = {**json.loads(stored), "added_by_others": 1}
    assert PuzzleDatasetMetadata.model_validate(with_more) == metadata


def test_a_directory_gets_its_name_only_when_complete(tmp_path):
    target = tmp_path / "parent" / "data"
    with new_dataset_directory(target, needed_bytes=10) as building:
        (building / "file").write_text("x")
        assert not target.exists() and building.parent == target.parent
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_a_failed_build_leaves_the_old_data_and_nothing_else(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_dataset_directory(tmp_path / "data", 10, overwrite=True) as building:
        (building / "new").touch()
        raise KeyboardInterrupt
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["data", "data/old"]


def test_existing_data_is_replaced_only_on_request(tmp_path):
    (tmp_path / "old").touch()
    with pytest.raises(ValueError, match="exists already.*--overwrite"), new_dataset_directory(tmp_path, 10):
        pass
    assert (tmp_path / "old").exists()
    with new_dataset_directory(tmp_path, 10, overwrite=True) as building:
        (building / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_full_disk_is_noticed_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100e6, 95e6, 5e6)
    monkeypatch.setattr(common.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="needs about 5 MB.*has 5 MB free"), \
            new_dataset_directory(tmp_path / "data", 5_000_000):
        pass
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_sees_contents_and_names_but_not_provenance(tmp_path):
    write_split(tmp_path / "a" / "train", split_arrays(), vocab_size=12)
    before = dataset_fingerprint(tmp_path / "a")
    assert len(before) == 16 and int(before, 16) >= 0
    write_json(tmp_path / "a" / "source.json", {"seed": 1})
    assert dataset_fingerprint(tmp_path / "a") == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert dataset_fingerprint(tmp_path / "b") == before
    changed = split_arrays()
    changed["labels"][3, 2] = 0
    write_split(tmp_path / "c" / "train", changed, vocab_size=12)
    assert dataset_fingerprint(tmp_path / "c") != before
    (tmp_path / "b" / "train").rename(tmp_path / "b" / "test")
    assert dataset_fingerprint(tmp_path / "b") != before


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
