"""The on-disk format: what is written, what is left behind, and what a fingerprint sees."""
import json
from collections import namedtuple

import numpy as np
import pytest

from dataset import common
from dataset.common import (FIELDS, PuzzleDatasetMetadata, dataset_fingerprint, field_path, file_sha256,
                            new_dataset_directory, open_field, write_json, write_split)


def split_arrays() -> dict[str, np.ndarray]:
    """Two groups of two puzzles and of one, with 2, 1 and 1 examples of 3 tokens."""
    return {"inputs": np.arange(12, dtype=np.uint8).reshape(4, 3), "labels": np.ones((4, 3), np.uint8),
            "puzzle_identifiers": np.zeros(3, np.int32), "puzzle_indices": np.array([0, 2, 3, 4], np.int32),
            "group_indices": np.array([0, 2, 3], np.int32)}


def test_a_split_is_written_as_described(tmp_path):
    arrays = split_arrays()
    metadata = write_split(tmp_path / "train", arrays, vocab_size=12)
    stored = json.loads((tmp_path / "train" / "dataset.json").read_text())
    assert stored == metadata.model_dump() == {
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
