"""The training stream and the test batches, against what is stored, what was recorded, and a stream drawn by hand."""
import json
from itertools import islice

import numpy as np
import pytest
import torch

from dataset.common import FIELDS, write_split
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from helpers import split_arrays, write_tiny_dataset

# groups of 1 to 3 puzzles, puzzles of 1 to 3 examples; 3 + 2 + (2 + 1) / 2 + 1 = 7.5 examples expected in an epoch
GROUPS = [[3], [2, 2, 2], [2, 1], [1]]


def dataset(*paths, split: str = "train", batch: int = 4, rank: int = 0, ranks: int = 1, **more) -> PuzzleDataset:
    more = {"seed": 3, "test_set_mode": split == "test"} | more
    return PuzzleDataset(PuzzleDatasetConfig(dataset_paths=[str(path) for path in paths], global_batch_size=batch,
                                             rank=rank, num_replicas=ranks, **more), split)


def drawn(data: PuzzleDataset, batches: int) -> dict[str, np.ndarray]:
    """So many batches of the training stream, one behind the other."""
    parts = [data.next_batch() for _ in range(batches)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


@pytest.fixture
def path(tmp_path):
    return write_tiny_dataset(tmp_path / "data", train=GROUPS, test=[[4], [1], [2, 2]])


def rows_of(path, inputs: np.ndarray, split: str = "train") -> list[int]:
    """Numbers of the stored examples that these are."""
    stored = np.load(path / split / "all__inputs.npy")
    return [int(np.flatnonzero((stored == row).all(1))[0]) for row in inputs]


def test_an_epoch_takes_one_puzzle_of_each_group_and_all_its_examples_once(path):
    arrays = {field: np.load(path / "train" / f"all__{field}.npy") for field in FIELDS}
    data = dataset(path, batch=1)
    orders, puzzles_taken = set(), set()
    for _ in range(60):
        rows, epoch = [], data.stream.epoch
        while data.stream.epoch == epoch:
            rows += rows_of(path, data.next_batch()["inputs"].numpy())
        puzzles = np.searchsorted(arrays["puzzle_indices"], rows, side="right") - 1
        runs = [int(p) for i, p in enumerate(puzzles) if i == 0 or p != puzzles[i - 1]]
        assert sorted(np.searchsorted(arrays["group_indices"], runs, side="right") - 1) == [0, 1, 2, 3]
        for puzzle in runs:
            first, end = arrays["puzzle_indices"][puzzle:puzzle + 2]
            assert sorted(row for row, p in zip(rows, puzzles) if p == puzzle) == list(range(first, end))
        orders.add(tuple(rows))
        puzzles_taken |= set(runs)
    assert puzzles_taken == set(range(7)) and len(orders) > 50


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_each_batch_in_order(path, ranks):
    whole = dataset(path, batch=8)
    parts = [dataset(path, batch=8, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(10):
        batch, shares = whole.next_batch(), [part.next_batch() for part in parts]
        assert all(torch.equal(batch[name], torch.cat([share[name] for share in shares])) for name in batch)


def test_looks_at_examples_leave_the_stream_where_it_is(path):
    data, undisturbed = dataset(path), dataset(path)
    data.first_batch(), data.examples([5, 0, 5])
    assert torch.equal(data.next_batch()["inputs"], undisturbed.next_batch()["inputs"])


def test_iterating_gives_the_whole_batches_of_so_many_epochs_and_then_goes_on(path):
    data = dataset(path, batch=4, epochs_per_iter=3)
    assert data.stream.examples_per_epoch == 7.5
    first, second = list(data), list(data)
    assert (len(first), len(second)) == (22 // 4, 45 // 4 - 22 // 4)
    assert {(name, size) for name, _, size in first + second} == {("all", 4)}
    expected = drawn(dataset(path, batch=4), len(first) + len(second))["inputs"]
    assert np.array_equal(torch.cat([batch["inputs"] for _, batch, _ in first + second]).numpy(), expected)


def test_labels_identifiers_and_types_are_those_stored(path):
    labels = np.load(path / "train" / "all__labels.npy")
    labels[:, 2] = 0  # the value that means "no answer asked"
    np.save(path / "train" / "all__labels.npy", labels)
    data = dataset(path)
    batch = data.examples(range(13))
    assert all(value.dtype == torch.int32 for value in batch.values())
    assert np.array_equal(batch["inputs"], np.load(path / "train" / "all__inputs.npy"))
    assert np.array_equal(batch["labels"], np.where(labels == 0, -100, labels.astype(int)))
    sizes = [3, 2, 2, 2, 2, 1, 1]
    assert batch["puzzle_identifiers"].tolist() == [i + 1 for i, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize("batch, ranks", [(4, 1), (4, 2), (16, 2), (16, 4), (9, 1)])
def test_test_batches_hold_every_example_once_in_order_padded(path, batch, ranks):
    stored = np.load(path / "test" / "all__inputs.npy")
    shares = [list(dataset(path, split="test", batch=batch, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert all([size for *_, size in share] == [size for *_, size in shares[0]] for share in shares)
    seen = []
    for parts in zip(*shares, strict=True):
        size = parts[0][2]
        fields = {name: torch.cat([part[1][name] for part in parts]).numpy() for name in parts[0][1]}
        assert len(fields["inputs"]) == batch
        seen.append(fields["inputs"][:size])
        assert (fields["inputs"][size:] == 0).all() and (fields["labels"][size:] == -100).all()
        assert (fields["puzzle_identifiers"][size:] == 0).all() and (fields["labels"][:size] != -100).all()
    assert np.array_equal(np.concatenate(seen), stored)


@pytest.mark.parametrize("ranks", [1, 2])
def test_test_batches_equal_the_recorded_ones(shared, ranks):
    recorded = np.load(shared / "interop" / "arc-small-test-batches.npz")
    for rank in range(ranks):
        batches = list(dataset(shared / "interop" / "arc-small", split="test", batch=32, rank=rank, ranks=ranks))
        prefix = f"r{rank}of{ranks}/"
        assert len(batches) == sum(key.startswith(prefix) and key.endswith("/inputs") for key in recorded)
        for i, (_, batch, size) in enumerate(batches):
            assert size == recorded[f"{prefix}b{i}/effective"]
            for name, value in batch.items():
                assert np.array_equal(value, recorded[f"{prefix}b{i}/{name}"]), (i, name)


def test_data_sets_share_one_table_in_which_only_the_blank_is_shared(tmp_path):
    a, b = (write_tiny_dataset(tmp_path / name, train=[[1], [1, 1]], test=[[1]], seed=i) for i, name in
            enumerate("ab"))
    identifiers = np.load(b / "train" / "all__puzzle_identifiers.npy")
    identifiers[1] = 0
    np.save(b / "train" / "all__puzzle_identifiers.npy", identifiers)
    data = dataset(a, b)
    assert data.metadata.num_puzzle_identifiers == 1 + 3 + 3
    assert data.examples(range(6))["puzzle_identifiers"].tolist() == [1, 2, 3, 4, 0, 6]
    assert list(data.sets) == ["all", "all1"] and data.metadata.total_groups == 4
    inputs = [np.load(path / "train" / "all__inputs.npy") for path in (a, b)]
    assert np.array_equal(data.examples([4, 1, 3])["inputs"], np.concatenate(inputs)[[4, 1, 3]])


def test_an_epoch_of_several_data_sets_mixes_them(tmp_path):
    a, b = (write_tiny_dataset(tmp_path / name, train=[[1]] * 40, seed=i) for i, name in enumerate("ab"))
    identifiers = drawn(dataset(a, b, batch=80), 1)["puzzle_identifiers"]
    assert sorted(identifiers) == list(range(1, 81))
    assert 5 < (identifiers[:40] > 40).sum() < 35


def test_test_sets_of_several_data_sets_come_one_after_the_other(tmp_path):
    a, b = (write_tiny_dataset(tmp_path / name, test=[[1]] * 5, seed=i) for i, name in enumerate("ab"))
    assert [(name, size) for name, _, size in dataset(a, b, split="test")] == [
        ("all", 4), ("all", 1), ("all1", 4), ("all1", 1)]


def spoilt_metadata(path, **changes):
    file = path / "train" / "dataset.json"
    file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | changes).items() if v != "gone"}))


@pytest.mark.parametrize("spoil, message", [
    (lambda p: (p / "train" / "all__labels.npy").unlink(), "all__labels.npy is missing; build"),
    (lambda p: (p / "train" / "all__labels.npy").write_bytes((p / "train" / "all__labels.npy").read_bytes()[:-9]),
     "all__labels.npy is truncated"),
    (lambda p: (p / "train" / "all__inputs.npy").write_text("no array"), "all__inputs.npy is truncated or not a NumPy"),
    (lambda p: (p / "train" / "all__group_indices.npy").write_bytes(b""), "all__group_indices.npy is truncated"),
    (lambda p: np.save(p / "train" / "all__puzzle_indices.npy", np.array([0, 5, 3, 13])), "must rise from 0 to 13"),
    (lambda p: np.save(p / "train" / "all__group_indices.npy", np.array([0, 4])), "must rise from 0 to 7"),
    (lambda p: np.save(p / "train" / "all__puzzle_indices.npy", np.arange(14)), "has 14 entries for 7 puzzles"),
    (lambda p: np.save(p / "train" / "all__inputs.npy", np.zeros((13, 6), object), allow_pickle=True),
     "all__inputs.npy holds pickled objects"),
    (lambda p: spoilt_metadata(p, vocab_size="gone"),
     r"dataset.json does not describe a data set: .*\n?.*vocab"),
    (lambda p: (p / "train" / "dataset.json").write_text("{"), "dataset.json does not describe a data set"),
    (lambda p: spoilt_metadata(p, seq_len=7), r"expected shape \(13, 7\) by inputs and seq_len"),
    (lambda p: spoilt_metadata(p, num_puzzle_identifiers=4),
     "holds 1 to 7, but num_puzzle_identifiers=4"),
    (lambda p: (p / "train" / "dataset.json").unlink(), "has no train split"),
])
def test_what_is_wrong_with_files_is_said_with_their_names(path, spoil, message):
    spoil(path)
    with pytest.raises(ValueError, match=message):
        dataset(path)


def test_a_folder_of_csv_files_is_told_how_to_become_a_data_set(tmp_path):
    (tmp_path / "train.csv").write_text("source,question,answer,rating\n")
    with pytest.raises(ValueError, match=f"it holds train.csv, .*build_sudoku_dataset .*--source-dir {tmp_path} "):
        dataset(tmp_path)


def test_a_token_beyond_the_vocabulary_is_found_where_it_is_read(path):
    inputs = np.load(path / "train" / "all__inputs.npy")
    inputs[11, 4] = 5
    np.save(path / "train" / "all__inputs.npy", inputs)
    data = dataset(path)
    with pytest.raises(ValueError, match="all__inputs.npy: row 11, position 4 holds 5, but vocab_size is 5"):
        drawn(data, 20)


def test_what_is_not_there_is_named(path, tmp_path):
    with pytest.raises(ValueError, match="no data set at .*/nowhere: the folder does not exist; build it first"):
        dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data_paths is empty"):
        dataset()
    with pytest.raises(ValueError, match="no example 13: the train split of .* has 13, numbered from 0"):
        dataset(path).examples([13])
    with pytest.raises(ValueError, match="global_batch_size=4 is not divisible by 3 processes; use .* such as 6"):
        dataset(path, ranks=3)


def test_a_set_with_another_ignored_label_is_read_by_its_own(tmp_path):
    arrays = split_arrays([[1]] * 3)
    write_split(tmp_path / "data" / "train", arrays, vocab_size=5, num_puzzle_identifiers=4, ignore_label_id=None)
    labels = arrays["labels"]
    labels[0, 0] = 0
    np.save(tmp_path / "data" / "train" / "all__labels.npy", labels)
    assert np.array_equal(dataset(tmp_path / "data").examples(range(3))["labels"], labels)


def test_first_batches_are_padded_where_the_split_is_small(path):
    batch = dataset(path, split="test", batch=32).first_batch()
    assert batch["inputs"].shape == (32, 6) and (batch["labels"][9:] == -100).all()
    assert len(list(islice(dataset(path, split="test", batch=32), 5))) == 1
