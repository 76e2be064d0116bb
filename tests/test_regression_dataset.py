"""Regression data on disk: what is written is what is read, statistics, and what is refused."""
import json
import shutil

import numpy as np
import pytest
import torch

from dataset import regression_dataset
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.regression_dataset import feature_statistics, write_regression_dataset
from helpers import write_tiny_dataset, write_tiny_regression


def opened(*paths, split: str = "train", **more) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(**{
        "seed": 3, "dataset_paths": list(map(str, paths)), "global_batch_size": 4,
        "test_set_mode": split == "test"} | more), split)


@pytest.fixture
def path(tmp_path):
    return write_tiny_regression(tmp_path / "data")


def stored(path, field: str, split: str = "train") -> np.ndarray:
    return np.load(path / split / f"all__{field}.npy")


@pytest.mark.parametrize("shape", [(5,), (7, 5)])
def test_what_is_written_is_what_is_read(tmp_path, shape):
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(9, *shape)), random.integers(0, 9, (9, *shape[:-1], 2))
    metadata = write_regression_dataset(tmp_path, "train", inputs, targets)
    assert (metadata.input_dim, metadata.target_dim, metadata.seq_len) == (5, 2, 7 if len(shape) == 2 else 1)
    assert json.loads((tmp_path / "train" / "dataset.json").read_text())["task_type"] == "regression"
    data = opened(tmp_path)
    batch = data.examples(range(9))
    assert {name: value.dtype for name, value in batch.items()} == {
        "inputs": torch.float32, "targets": torch.float32, "target_mask": torch.bool, "puzzle_identifiers": torch.int32}
    assert np.array_equal(batch["inputs"], inputs.astype(np.float32)) and np.array_equal(batch["targets"], targets)
    assert batch["target_mask"].all() and batch["target_mask"].shape == targets.shape
    assert data.metadata.model_sizes() == {"seq_len": metadata.seq_len, "latent_dim": 5, "output_dim": 2,
                                           "num_puzzle_identifiers": 1}
    for name, field in data.metadata.batch_fields().items():
        assert batch[name].shape[1:] == field.shape, name


def test_targets_that_are_not_observed_are_the_pad_value_even_where_they_are_no_numbers(tmp_path):
    inputs, targets = np.zeros((3, 4, 1)), np.ones((3, 4, 2))
    mask = np.random.default_rng(0).random(targets.shape) > 0.5
    targets[~mask] = np.nan
    write_regression_dataset(tmp_path, "train", inputs, targets, mask, target_pad_value=-7.0)
    batch = opened(tmp_path).examples(range(3))
    assert np.array_equal(batch["target_mask"], mask)
    assert np.array_equal(batch["targets"], np.where(mask, 1.0, -7.0))


@pytest.mark.parametrize("flat", [False, True])
def test_a_mask_without_features_holds_for_all_of_them(tmp_path, flat):
    targets = np.ones((4, 2) if flat else (4, 5, 2))
    mask = np.random.default_rng(0).random(targets.shape[:-1]) > 0.5
    write_regression_dataset(tmp_path, "train", targets, targets, mask)
    assert np.array_equal(stored(tmp_path, "target_mask"), np.stack([mask, mask], axis=-1))


def test_sequences_of_different_length_are_filled_up_and_what_was_added_counts_nowhere(tmp_path, capsys):
    random = np.random.default_rng(0)
    inputs = [random.normal(5, 1, (length, 3)) for length in (4, 7, 2)]
    targets = [rows[:, :2] + 1 for rows in inputs]
    mask = [random.random(len(rows)) > 0.3 for rows in inputs]
    write_regression_dataset(tmp_path / "masked", "train", inputs, targets, mask, input_pad_value=-1.0)
    metadata = write_regression_dataset(tmp_path / "whole", "train", inputs, targets)
    assert metadata.seq_len == 7
    assert (f"notice: {tmp_path / 'whole' / 'train'}: sequences of 2 to 7 positions are filled up to 7; what is filled "
            "up is neither trained on nor scored") in capsys.readouterr().out
    for i, rows in enumerate(inputs):
        assert np.array_equal(stored(tmp_path / "masked", "inputs")[i, :len(rows)], rows.astype(np.float32))
        assert (stored(tmp_path / "masked", "inputs")[i, len(rows):] == -1).all()
        expected = np.pad(mask[i], (0, 7 - len(rows)))
        assert np.array_equal(stored(tmp_path / "masked", "target_mask")[i], np.stack([expected, expected], axis=-1))
    statistics = feature_statistics(list(opened(tmp_path / "whole").sets.values()))
    assert np.allclose(statistics["input_mean"], np.concatenate(inputs).mean(0))
    assert np.allclose(statistics["input_std"], np.concatenate(inputs).std(0))
    assert np.allclose(statistics["target_mean"], np.concatenate(targets).mean(0))


@pytest.mark.parametrize("targets, message", [
    ([np.ones((4, 2)), np.ones((7, 1))], r"row 1 has the shape \(7, 1\) and row 0 \(4, 2\); only their lengths may"),
    ([np.ones((4, 2)), ["x"] * 7], r"row 1 has the shape \(7,\) and row 0 \(4, 2\)")])
def test_rows_of_other_features_are_refused_and_not_spread_over_them(tmp_path, targets, message):
    inputs = [np.ones((4, 3)), np.ones((7, 3))]
    with pytest.raises(ValueError, match=message):
        write_regression_dataset(tmp_path / "data", "train", inputs, targets)
    assert not (tmp_path / "data").exists()


def test_an_epoch_takes_one_example_of_a_group_and_all_of_a_puzzle(tmp_path):
    """Groups a (examples 0, 2, 4) and b (1, 3, 5), of which 1 and 5 share an identifier."""
    inputs = np.arange(6.0)[:, None]
    metadata = write_regression_dataset(tmp_path, "train", inputs, inputs, groups=np.array(list("ababab")),
                                        identifiers=np.array([0, 2, 0, 1, 0, 2]))
    assert (metadata.total_groups, metadata.total_puzzles, metadata.num_puzzle_identifiers) == (2, 5, 3)
    data = opened(tmp_path, global_batch_size=1)
    found = set()
    for _ in range(40):
        epoch, taken = data.stream.epoch, []
        while data.stream.epoch == epoch:
            batch = data.next_batch()
            taken.append((int(batch["inputs"]), int(batch["puzzle_identifiers"])))
        found.add(tuple(sorted(taken)))
    assert found == {tuple(sorted([(a, 0), *b])) for a in (0, 2, 4) for b in ([(1, 2), (5, 2)], [(3, 1)])}


def test_an_npz_stands_in_for_an_npy_and_without_a_mask_all_is_observed(path):
    expected = opened(path).examples(range(64))
    for field, save in (("inputs", np.savez), ("targets", lambda f, a: np.savez(f, x=a, targets=a)),
                        ("puzzle_indices", lambda f, a: np.savez_compressed(f, puzzle_indices=a))):
        save(path / "train" / f"all__{field}.npz", stored(path, field))
        (path / "train" / f"all__{field}.npy").unlink()
    (path / "train" / "all__target_mask.npy").unlink()
    batch = opened(path).examples(range(64))
    assert torch.equal(batch["inputs"], expected["inputs"]) and batch["target_mask"].all()
    assert isinstance(opened(path).sets["all"].inputs, np.memmap)


def test_other_numbers_are_cast_with_one_notice(path, capsys):
    for split in ("train", "test"):
        np.save(path / split / "all__inputs.npy", stored(path, "inputs", split).astype(np.float64))
        np.save(path / split / "all__targets.npy", (10 * stored(path, "targets", split)).astype(np.int64))
        assert opened(path, split=split).examples([0])["inputs"].dtype == torch.float32
    assert capsys.readouterr().out == f"notice: {path}: inputs (float64), targets (int64) cast to float32\n"
    opened(path, rank=1, num_replicas=2)
    assert not capsys.readouterr().out


def test_metadata_may_lack_what_only_puzzles_have(path):
    file = path / "train" / "dataset.json"
    kept = {key: json.loads(file.read_text())[key] for key in ("task_type", "input_dim", "target_dim", "sets")}
    null = dict.fromkeys(("vocab_size", "pad_id", "seq_len", "blank_identifier_id"))
    file.write_text(json.dumps(kept | null))
    metadata = opened(path).metadata
    assert (metadata.seq_len, metadata.num_puzzle_identifiers, metadata.blank_identifier_id) == (6, 1, 0)
    assert (metadata.total_groups, metadata.total_puzzles, metadata.mean_puzzle_examples) == (64, 64, 1)


def test_a_pad_value_in_the_metadata_is_a_finite_number(path):
    file = path / "train" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_pad_value": np.nan}))
    with pytest.raises(ValueError, match=r"dataset.json does not describe .*\ntarget_pad_value\n.*nan is no finite"):
        opened(path)


def test_the_largest_identifier_and_a_mask_of_floats_are_written_and_read(tmp_path):
    ones = np.ones((3, 1))
    write_regression_dataset(tmp_path, "train", ones, ones, identifiers=np.array([0, 2**31 - 1, 2.0]),
                             mask=np.array([[1.0], [0], [1]]))
    batch = opened(tmp_path).examples(range(3))
    found = {(int(i), bool(m)) for i, m in zip(batch["puzzle_identifiers"], batch["target_mask"])}
    assert found == {(0, True), (2**31 - 1, False), (2, True)}


def test_test_batches_are_padded_with_the_pad_values(tmp_path):
    write_regression_dataset(tmp_path, "test", np.ones((5, 2, 3)), np.ones((5, 2, 1)), input_pad_value=9.0,
                             target_pad_value=8.0)
    (_, first, _), (_, last, size) = opened(tmp_path, split="test")
    assert size == 1 and first["target_mask"].all()
    assert (last["inputs"][1:] == 9).all() and (last["targets"][1:] == 8).all() and not last["target_mask"][1:].any()


def test_statistics_are_those_of_the_observed_training_data(path):
    statistics = feature_statistics(list(opened(path).sets.values()))
    inputs, targets, mask = (stored(path, field) for field in ("inputs", "targets", "target_mask"))
    assert np.allclose(statistics["input_mean"], inputs.mean((0, 1))) and np.allclose(statistics["input_std"],
                                                                                      inputs.std((0, 1)))
    for feature in range(2):
        seen = targets[..., feature][mask[..., feature]]
        assert statistics["target_mean"][feature] == pytest.approx(seen.mean(), rel=1e-5)
        assert statistics["target_std"][feature] == pytest.approx(seen.std(), rel=1e-5)


def test_statistics_weigh_data_sets_by_their_size_where_not_all_rows_are_taken(tmp_path, monkeypatch):
    for name, rows, value in (("large", 950, 0.0), ("small", 50, 10.0)):
        write_regression_dataset(tmp_path / name, "train", np.full((rows, 1), value), np.full((rows, 1), value))
    monkeypatch.setattr(regression_dataset, "STATISTICS_ROWS", 100)
    statistics = feature_statistics(list(opened(tmp_path / "large", tmp_path / "small").sets.values()))
    for kind in ("input", "target"):
        assert statistics[f"{kind}_mean"] == pytest.approx(0.5)
        assert statistics[f"{kind}_std"] == pytest.approx(10 * (0.95 * 0.05) ** 0.5)


def test_a_feature_that_never_changes_is_not_scaled(tmp_path):
    write_regression_dataset(tmp_path, "train", np.full((4, 1), 1e6), np.arange(4.0)[:, None])
    assert feature_statistics(list(opened(tmp_path).sets.values()))["input_std"] == 1


def spoil(path, field: str, change) -> None:
    np.save(path / "train" / f"all__{field}.npy", change(stored(path, field)), allow_pickle=True)


def at(value: float, *place: int):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[place] = value
        return array
    return change


@pytest.mark.parametrize("field, change, message", [
    ("inputs", at(np.nan, 7, 2, 1), "all__inputs.npy: row 7 holds NaN or infinity; mend the array"),
    ("targets", at(np.inf, 5), "all__targets.npy: row 5 holds NaN or infinity where target_mask is true"),
    ("target_mask", at(2, 9, 0), "all__target_mask.npy: row 9 holds other values than 0 and 1"),
    ("target_mask", lambda a: a[:, :3], r"all__target_mask.npy: has shape \(64, 3, 2\), and the targets \(64, 6, 2\)"),
    ("inputs", lambda a: a.astype(str), "all__inputs.npy: holds <U.*, not numbers"),
    ("inputs", lambda a: a.astype(object), "all__inputs.npy holds pickled objects, which are not read"),
    ("inputs", lambda a: a[..., :2], r"all__inputs.npy: expected shape \(64, 6, 3\) by inputs, seq_len and input_dim"),
    ("targets", lambda a: a[:, :4], r"all__targets.npy: expected shape \(64, 6, 2\)"),
    ("targets", lambda a: a[:, 0], r"all__targets.npy: expected shape \(64, 6, 2\)"),
    ("inputs", lambda a: a.ravel(), r"all__inputs.npy: expected \(N, 3\) or \(N, L, 3\)"),
    ("inputs", lambda a: a[:0], "all__targets.npy: expected shape"),
    ("puzzle_indices", lambda a: a[:-1], "all__puzzle_indices.npy: must rise from 0 to 64"),
])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_bad_arrays_are_named_with_file_and_row(path, field, change, message, suffix):
    spoil(path, field, change)
    if suffix == ".npz":
        spoilt = path / "train" / f"all__{field}.npy"
        np.savez(spoilt.with_suffix(".npz"), **{field: np.load(spoilt, allow_pickle=True)})
        spoilt.unlink()
        message = message.replace(f"{field}.npy", f"{field}.npz").replace(
            "npz holds pickled", "npz: inputs.npy holds pickled")
    with pytest.raises(ValueError, match=message):
        opened(path).examples(range(64))


def test_data_sets_that_cannot_be_mixed_are_named(path, tmp_path):
    puzzles = write_tiny_dataset(tmp_path / "puzzles")
    longer = write_tiny_regression(tmp_path / "longer", length=8)
    with pytest.raises(ValueError, match="cannot be mixed: .*data holds regression data, and .*puzzles puzzles"):
        opened(path, puzzles)
    with pytest.raises(ValueError, match="cannot be mixed: seq_len is 6 in .*data and 8 in .*longer"):
        opened(path, longer)
    for name, shape in (("rows", (5, 3)), ("sequences", (5, 1, 3))):
        write_regression_dataset(tmp_path / name, "train", np.ones(shape), np.ones(shape))
    with pytest.raises(ValueError, match=r"mixed: inputs_shape is \(N, 3\) in .*rows and \(N, 1, 3\) in .*sequences"):
        opened(tmp_path / "rows", tmp_path / "sequences")
    for file in (tmp_path / "sequences" / "train").glob("*.npy"):
        shutil.copy(file, tmp_path / "rows" / "train" / file.name.replace("all__", "second__"))
    file = tmp_path / "rows" / "train" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sets": ["all", "second"]}))
    with pytest.raises(ValueError, match=r"second__inputs.npy: has shape \(5, 1, 3\), and all__inputs .* \(N, 3"):
        opened(tmp_path / "rows")
    file = path / "train" / "dataset.json"
    file.write_text(file.read_text().replace('"regression"', '"ranking"'))
    with pytest.raises(ValueError, match="task_type is 'ranking', and there are classification, regression"):
        opened(path)


@pytest.mark.parametrize("changes, message", [
    ({"mask": np.ones((3, 2))}, r"mask has shape \(3, 2\), and should have \(3, 4, 2\)"),
    ({"groups": np.zeros(2)}, r"groups has shape \(2,\), and should have \(3,\)"),
    ({"targets": np.ones((3, 5, 2))}, "must agree in all but the last dimension; repeat or mask targets"),
    ({"inputs": [np.ones((n, 1)) for n in (4, 3, 4)]}, "example 1 has 3 positions of inputs and 4 of targets; repeat"),
    ({"inputs": [np.ones((n, 1)) for n in (4, 3, 4)], "targets": [np.ones((n, 2)) for n in (4, 3, 4)],
      "mask": np.ones((3, 4))}, "example 1 has 3 positions of inputs and 4 of mask"),
    ({"inputs": [np.ones((n, 1)) for n in (4, 3)], "targets": [np.ones((n, 2)) for n in (4, 3, 4)]},
     r"inputs of shape \(2, 4, 1\) and targets of shape \(3, 4, 2\)"),
    ({"inputs": np.full((3, 4, 1), np.nan)}, "inputs: row 0 holds NaN"),
    ({"inputs": np.full((3, 4, 1), "a")}, "inputs should hold numbers in 2 or 3 dimensions"),
    *(({"identifiers": np.array([0, wrong, 2])}, f"identifiers should hold .* to 2147483647, and row 1 holds {wrong}")
      for wrong in (-1, 1.5, np.nan, 2**31)),
    ({"identifiers": np.array(["a", "b", "c"])}, "identifiers should hold whole numbers from 0 to .*, and is <U1"),
    *(({"mask": np.full((3, 4, 2), wrong)}, f"mask should hold whole numbers from 0 to 1, and row 0 holds {wrong}")
      for wrong in (0.3, np.nan, 2)),
    ({"mask": np.full((3, 4, 2), "yes")}, "mask should hold whole numbers from 0 to 1, and is <U3"),
    ({"input_pad_value": np.nan}, r"input_pad_value\n.*nan is no finite float32; pad with a number such as 0.0"),
    ({"target_pad_value": -np.inf}, r"target_pad_value\n.*-inf is no finite float32"),
    ({"set_name": "a/b"}, "set_name='a/b' begins the names of files, so it cannot be empty or a path"),
])
def test_arrays_that_do_not_fit_are_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_regression_dataset(tmp_path / "data", "train", **{"inputs": np.ones((3, 4, 1)),
                                                                "targets": np.ones((3, 4, 2))} | changes)
    assert not (tmp_path / "data" / "train").exists()
