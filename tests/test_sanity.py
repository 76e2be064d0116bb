"""The look at the first batch."""
import pytest
import torch

from dataset.common import PuzzleDatasetMetadata, RegressionMetadata
from helpers import tiny_batch
from utils.sanity import check_batch

METADATA = PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=5, seq_len=6,
                                 num_puzzle_identifiers=4, total_groups=1, mean_puzzle_examples=1, total_puzzles=1,
                                 sets=["all"])


def check(batch: dict) -> None:
    check_batch("first train batch", batch, METADATA.batch_fields())


def spoilt(field: str, change) -> dict:
    batch = tiny_batch()
    batch[field] = change(batch[field])
    return batch


def test_a_sound_batch_passes_ignored_labels_included():
    batch = tiny_batch()
    batch["labels"][0, :3] = -100
    check(batch)
    batch["labels"][:] = -100
    check(batch)


@pytest.mark.parametrize("field", ["inputs", "labels", "puzzle_identifiers"])
def test_the_largest_token_passes_and_one_more_does_not(field):
    limit = {"inputs": 5, "labels": 5, "puzzle_identifiers": 4}[field]
    check(spoilt(field, lambda value: value.fill_(limit - 1)))
    for wrong in (limit, -1):
        with pytest.raises(ValueError, match=f"first train batch: {field} holds {wrong} to {wrong}, outside 0 to "
                                             f"{limit - 1}; mend the data set"):
            check(tiny_batch() | {field: torch.full_like(tiny_batch()[field], wrong)})


@pytest.mark.parametrize("field, change, message", [
    ("inputs", lambda v: v[:, :5], r"inputs should be int32 of shape \(4, 6\), and is torch.int32 of \(4, 5\)"),
    ("labels", lambda v: v[:3], r"labels should be int32 of shape \(4, 6\)"),
    ("puzzle_identifiers", lambda v: v[:, None], r"puzzle_identifiers should be int32 of shape \(4,\)"),
    ("inputs", lambda v: v.long(), "inputs should be int32 .* is torch.int64"),
    ("inputs", lambda v: v.float().fill_(float("nan")), "inputs holds NaN or infinity"),
    ("labels", lambda v: v.float().fill_(float("inf")), "labels holds NaN or infinity"),
    ("labels", lambda v: v.float(), "labels should be int32"),
])
def test_shapes_types_and_numbers_that_are_none_are_named(field, change, message):
    with pytest.raises(ValueError, match=f"first train batch: {message}"):
        check(spoilt(field, change))


def test_the_label_that_asks_for_nothing_is_none_of_the_inputs():
    with pytest.raises(ValueError, match="inputs holds -100"):
        check(spoilt("inputs", lambda value: torch.full_like(value, -100)))


FLOATS = RegressionMetadata(task_type="regression", input_dim=3, target_dim=2, seq_len=6, num_puzzle_identifiers=4,
                            sets=["all"])


def float_batch(**changes) -> dict:
    return {"inputs": torch.zeros(4, 6, 3), "targets": torch.zeros(4, 6, 2),
            "target_mask": torch.ones(4, 6, 2, dtype=torch.bool),
            "puzzle_identifiers": torch.zeros(4, dtype=torch.int32)} | changes


def test_a_sound_batch_of_floats_passes():
    check_batch("first train batch", float_batch(), FLOATS.batch_fields())


@pytest.mark.parametrize("changes, message", [
    ({"inputs": torch.full((4, 6, 3), float("nan"))}, "inputs holds NaN or infinity"),
    ({"targets": torch.full((4, 6, 2), float("inf"))}, "targets holds NaN or infinity"),
    ({"inputs": torch.zeros(4, 6, 2)}, r"inputs should be float32 of shape \(4, 6, 3\), and is .* \(4, 6, 2\)"),
    ({"targets": torch.zeros(4, 6, 2, dtype=torch.float64)}, "targets should be float32 .* is torch.float64"),
    ({"target_mask": torch.ones(4, 6, 2)}, "target_mask should be bool"),
    ({"target_mask": torch.zeros(4, 6, 2, dtype=torch.bool)}, "target_mask is false everywhere"),
    ({"puzzle_identifiers": torch.full((4,), 4, dtype=torch.int32)}, "puzzle_identifiers holds 4 to 4, outside")])
def test_what_is_wrong_with_floats_is_named(changes, message):
    with pytest.raises(ValueError, match=f"first train batch: {message}"):
        check_batch("first train batch", float_batch(**changes), FLOATS.batch_fields())
