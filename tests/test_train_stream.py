"""The order in which training sees the examples. Which batches come of it: test_puzzle_dataset.py."""
import json

import numpy as np
import pytest

from dataset.common import load_metadata
from dataset.puzzle_set import load_puzzle_set
from dataset.train_stream import TrainStream, WindowStream
from helpers import write_tiny_dataset

# groups of 1 to 3 puzzles, puzzles of 1 to 3 examples; 3 + 2 + (2 + 1) / 2 + 1 = 7.5 examples expected in an epoch
GROUPS = [[3], [2, 2, 2], [2, 1], [1]]


@pytest.fixture
def sets(tmp_path):
    """Two sets, of the groups above and of one group more: 13 examples and 3, of 7.5 + 1.5 = 9 an epoch."""
    paths = [write_tiny_dataset(tmp_path / "a", train=GROUPS), write_tiny_dataset(tmp_path / "b", train=[[1, 2]])]
    return [load_puzzle_set(str(path), "train", "all", load_metadata(str(path), "train")) for path in paths]


def test_the_stream_is_a_function_of_the_seed_however_much_is_taken_at_a_time(sets):
    whole = TrainStream(sets, seed=3).take(240)
    for count in (2, 3, 16, 120):
        stream = TrainStream(sets, seed=3)
        assert np.array_equal(whole, np.concatenate([stream.take(count) for _ in range(240 // count)]))
    assert not np.array_equal(whole, TrainStream(sets, seed=4).take(240))


def test_an_epoch_has_as_many_examples_as_expected_and_takes_all_sets(sets):
    stream = TrainStream(sets, seed=0)
    assert stream.examples_per_epoch == 9
    rows = stream.take(9000)
    assert stream.epoch == pytest.approx(1000, rel=0.02) and set(rows) == set(range(16))


def test_each_puzzle_of_a_group_is_as_likely(sets):
    counts = np.bincount(TrainStream(sets, seed=0).take(20_000), minlength=16)
    epochs = counts[0]  # of the first group's only puzzle
    assert np.abs(counts[3:9] - epochs / 3).max() < 4 * (epochs * 2 / 9) ** 0.5  # 4 deviations


@pytest.mark.parametrize("stream_class", [TrainStream, WindowStream])
def test_the_stream_goes_on_from_its_cursor(sets, stream_class):
    stream = stream_class(sets, seed=3)
    stream.take(21)
    cursor = json.loads(json.dumps(stream.state_dict()))
    other = stream_class(sets, seed=3)
    other.load_state_dict(cursor)
    assert np.array_equal(stream.take(60), other.take(60))


def test_an_epoch_of_windows_takes_each_example_once(sets):
    stream = WindowStream(sets, seed=0)
    assert stream.examples_per_epoch == 16
    epochs = stream.take(16), stream.take(16)
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs) and not np.array_equal(*epochs)
