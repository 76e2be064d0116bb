"""The order in which training sees the examples. Which batches come of it: test_puzzle_dataset.py."""
import json

import numpy as np
import pytest

from config.run_data import load_data
from dataset.common import load_metadata
from dataset.puzzle_set import load_puzzle_set
from dataset.train_stream import TrainStream, WindowStream
from helpers import pretrain_config, write_tiny_dataset
from utils.curriculum import RatingStage
from utils.distributed import World

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


STAGES = [RatingStage(until=0.35, min_rating=7), RatingStage(until=0.6, min_rating=4)]


@pytest.fixture
def rated(tmp_path):
    """Ten groups of one puzzle and one example each, rated 0 to 9."""
    path = write_tiny_dataset(tmp_path / "rated", train=[[1]] * 10)
    np.save(path / "train" / "all__rating.npy", np.arange(10.0))
    return path


def stream_of(path, stages=STAGES, **settings) -> TrainStream:
    return TrainStream([load_puzzle_set(str(path), "train", "all", load_metadata(str(path), "train"))], 0,
                       **{"stages": stages, "epochs": 10} | settings)


def test_a_stage_takes_hard_puzzles_alone_and_each_as_often_until_its_fraction_of_training(rated):
    """3.5 of 10 epochs of 10 examples, then 2.5, then all."""
    stream = stream_of(rated)
    assert stream.examples_per_epoch == 10
    for count, hard in ((35, range(7, 10)), (25, range(4, 10))):
        taken = np.bincount(stream.take(count), minlength=10)[hard.start:]
        assert taken.sum() == count and taken.max() - taken.min() <= count // 10 + 1
    last = stream.take(40).reshape(4, 10)
    assert (np.sort(last) == np.arange(10)).all()
    assert np.array_equal(last, stream_of(rated, []).take(100)[60:].reshape(4, 10))


@pytest.mark.parametrize("taken", [3, 34, 35, 38, 60, 99])
def test_a_stream_in_stages_goes_on_from_its_cursor_in_any_stage(rated, taken):
    whole, stream, other = stream_of(rated), stream_of(rated), stream_of(rated)
    stream.take(taken)
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert np.array_equal(whole.take(100)[taken:], other.take(100 - taken))


def test_stages_are_those_of_the_settings_and_leave_out_what_is_held_out(rated):
    settings = [f"data_paths=[{rated}]", "epochs=10", "global_batch_size=5", "val_puzzles=5",
                "rating_curriculum=[{until: 0.35, min_rating: 2}, {until: 0.6, min_rating: 1}]"]
    stream = load_data(pretrain_config(*settings), World())[0].stream
    left = np.setdiff1d(np.arange(10), stream.held_out)
    assert set(stream.take(17)) == set(left[left >= 2]) and set(stream.take(33)) == set(left)


def test_ratings_that_are_missing_damaged_or_too_low_are_named(rated, sets):
    with pytest.raises(ValueError, match="no training puzzle is rated 10 or higher, the highest 9; use a lower"):
        stream_of(rated, [RatingStage(until=0.5, min_rating=10)])
    for stream_class in (TrainStream, WindowStream):
        with pytest.raises(ValueError, match="needs ratings, and .*train has none; build .* with --keep"):
            stream_class(sets, 0, stages=STAGES)
    np.save(rated / "train" / "all__rating.npy", np.full(10, np.nan))
    with pytest.raises(ValueError, match="all__rating.npy: holds a value that is not finite"):
        stream_of(rated)
    np.save(rated / "train" / "all__rating.npy", np.arange(9.0))
    with pytest.raises(ValueError, match="expected 10 floats, one a group"):
        stream_of(rated)
    with pytest.raises(ValueError, match="rating_curriculum: each stage must end later"):
        pretrain_config("rating_curriculum=[{until: 0.5, min_rating: 2}, {until: 0.5, min_rating: 1}]")
