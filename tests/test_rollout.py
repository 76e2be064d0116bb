"""Rollouts against predictions made by hand: a system that a model and a linear map know exactly, and a real model."""
import numpy as np
import pytest
import torch

from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.rollout import (
    LinearAutoregression,
    ModelPredictor,
    linear_order,
    one_step_cases,
    open_loop,
    repeat_last,
    roll_out,
    rollout_cases,
)
from helpers import tiny_config, write_episode, write_tiny_episodes
from losses import ACTRegressionLossHead
from models.recursive_reasoning.trm import TRM
from utils.distributed import World


def sets_of(path, split: str, window: int = 1, **more) -> list:
    return list(PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], global_batch_size=4, **more,
                                                  episode_window=window, test_set_mode=True), split).sets.values())


class Rotation(torch.nn.Module):
    """A head that turns the first two features of each position by 0.4 and adds 0.1 · identifier to the third."""

    steps_known = 1

    def initial_carry(self, batch, **noise):
        return None

    def step(self, carry, batch):
        x, y, *rest = batch["inputs"].unbind(-1)
        c, s = np.cos(0.4), np.sin(0.4)
        identifiers = batch["puzzle_identifiers"].view(-1, *[1] * (x.ndim - 1))
        preds = torch.stack([c * x - s * y, s * x + c * y, rest[0] + 0.1 * identifiers], -1)
        return carry, {"preds": preds}


def numbered(path, lengths: list[int], split: str):
    """Episodes that turn by 0.4 a step, whose third feature rises by 0.1 times their identifier, which is 1, 2, …"""
    for i, length in enumerate(lengths):
        t = np.arange(length)
        latents = np.stack([np.cos(i + 0.4 * t), np.sin(i + 0.4 * t), 0.1 * (i + 1) * t], axis=1)
        write_episode(path, split, i, latents.astype(np.float32), puzzle_identifier=i + 1)
    return path


@pytest.mark.parametrize("window", [1, 4])
def test_a_model_that_knows_the_system_makes_no_error_and_the_baselines_make_theirs(tmp_path, window):
    numbered(tmp_path, [80, 30, 6], "test")
    numbered(tmp_path, [60, 60], "train")
    test, train = sets_of(tmp_path, "test", window), sets_of(tmp_path, "train", window)
    found = roll_out(Rotation(), test, train, batch_size=3, world=World())
    metrics = found.metrics()
    assert metrics["model/one_step_rmse"] < 1e-6 and max(found.by_horizon["model"].rmse) < 1e-4
    # repeat the last: 2·sin(0.2·h) off in the plane, 0.1·identifier·h in the third feature
    _, futures, identifiers = rollout_cases(test[0])
    for horizon in (1, 5, 10, 25):
        real = np.isfinite(futures[:, horizon - 1, 0])
        squares = 4 * np.sin(0.2 * horizon) ** 2 + (0.1 * identifiers[real] * horizon) ** 2
        expected = pytest.approx(np.sqrt(squares.mean() / 3), rel=1e-4)
        assert metrics[f"repeat_last/rmse@{horizon}"] == expected
    # a linear map cannot know the identifier from one latent; from two it can
    assert (metrics["linear/rmse@5"] > 0.01) == (window == 1)
    assert "open loop @25" in found.table() and "repeat last" in found.table()


def test_rollouts_start_where_a_window_is_known_and_do_not_overlap(tmp_path):
    numbered(tmp_path, [80, 30, 6, 4], "test")
    contexts, futures, identifiers = rollout_cases(sets_of(tmp_path, "test", 4)[0])
    assert identifiers.tolist() == [1, 1, 1, 1, 2, 2, 3]  # the last episode has no latent after the first window
    ends = ((1, 3), (1, 28), (1, 53), (1, 78), (2, 3), (2, 28), (3, 3))  # identifier, last known t
    assert np.allclose(contexts[:, -1, 2], [0.1 * i * t for i, t in ends])
    assert np.isfinite(futures[:, :, 0]).sum(1).tolist() == [25, 25, 25, 1, 25, 1, 2]


def test_open_loop_feeds_predictions_back():
    def fibonacci(latents, _identifiers):
        return latents[:, -1] + latents[:, -2]

    rolled = open_loop(fibonacci, np.array([[[0.0], [1.0]]]), np.array([0]))
    assert rolled[0, :6, 0].tolist() == [1, 2, 3, 5, 8, 13] and rolled.shape == (1, 25, 1)


def test_the_linear_baseline_is_the_least_squares_of_the_training_transitions(tmp_path):
    random = np.random.default_rng(0)
    for i in range(3):
        write_episode(tmp_path, "train", i, random.normal(size=(30, 2)).astype(np.float32))
    fitted = LinearAutoregression.fit(sets_of(tmp_path, "train"))
    latents = [np.load(f"{tmp_path}/train/latents/episode_{i:03d}.npz")["latents"] for i in range(3)]
    x = np.concatenate([np.c_[frames[:-1], np.ones(29)] for frames in latents])
    expected = np.linalg.pinv(x) @ np.concatenate([frames[1:] for frames in latents])
    assert fitted.order == 1 and np.allclose(fitted.weights, expected, atol=1e-5)
    assert [linear_order(window) for window in (1, 2, 3, 8, 64)] == [1, 1, 2, 4, 16]


def test_one_step_takes_the_places_with_enough_latents_before_them_and_no_padding(tmp_path):
    numbered(tmp_path, [7], "test")  # windows of 4 transitions: 0 to 3, and 4, 5 with two of padding
    episodes = sets_of(tmp_path, "test", 4)[0]
    latents, following, real = one_step_cases(episodes, episodes.fields(np.arange(2)))
    assert real.tolist() == [[True, True, True], [True, False, False]] and latents.shape == (2, 3, 2, 3)
    assert np.allclose(10 * latents[real][:, :, 2], [[0, 1], [1, 2], [2, 3], [4, 5]])
    assert np.allclose(10 * following[real][:, 2], [2, 3, 4, 6])
    assert np.array_equal(repeat_last(latents[real], None), latents[real][:, -1])


@pytest.mark.parametrize("window", [1, 5])
def test_a_real_model_predicts_alike_one_by_one_and_at_every_position(tmp_path, window):
    write_tiny_episodes(tmp_path, test=[20, 30])
    torch.manual_seed(0)
    head = ACTRegressionLossHead(TRM(tiny_config(vocab_size=0, latent_dim=3, output_dim=3, seq_len=window,
                                                 num_puzzle_identifiers=6, causal=True, learns_halting=False))).eval()
    model = ModelPredictor(head, window, 3, torch.device("cpu"))
    contexts, _, identifiers = rollout_cases(sets_of(tmp_path, "test", window)[0])
    whole = model.every_position(contexts, identifiers)
    assert np.allclose(model(contexts, identifiers), whole[:, -1])
    one = np.concatenate([model(contexts[i:i + 1], identifiers[i:i + 1]) for i in range(len(contexts))])
    assert np.allclose(one, whole[:, -1], atol=1e-5)


def test_the_rollout_to_look_at_is_the_one_of_that_number(tmp_path):
    numbered(tmp_path, [80, 30, 6], "test")
    contexts, futures, _ = rollout_cases(sets_of(tmp_path, "test")[0])
    for number in (0, 3, 5):
        found = roll_out(Rotation(), sets_of(tmp_path, "test"), [], 4, World(), number)
        assert np.array_equal(found.truth, futures[number], equal_nan=True)
        assert (found.shown["repeat_last"] == contexts[number]).all()


def test_episodes_too_short_for_a_rollout_leave_its_errors_out(tmp_path):
    numbered(tmp_path, [4, 3], "test")
    found = roll_out(Rotation(), sets_of(tmp_path, "test", 4), [], 4, World())
    assert set(found.metrics()) == {f"{who}/one_step_rmse" for who in ("model", "repeat_last")}
    assert "too short" in found.table() and not found.shown


def test_rollouts_that_diverge_are_counted_where_they_do(tmp_path):
    """Of two, one grows by 1e16 a step, beyond float32 in the third; the error of the other is its own."""
    class Exploding(Rotation):
        def step(self, carry, batch):
            grows = batch["puzzle_identifiers"].view(-1, *[1] * (batch["inputs"].ndim - 1)) == 1
            return carry, {"preds": batch["inputs"] * torch.where(grows, 1e16, 1.0)}

    numbered(tmp_path, [26, 26], "test")
    found = roll_out(Exploding(), sets_of(tmp_path, "test"), [], 4, World())
    metrics, table = found.metrics(), found.table()
    assert metrics["model/rmse@1"] == pytest.approx(1e16 / 6**0.5) and np.isfinite(
        metrics["model/one_step_rmse"])
    for horizon in (5, 10, 25):
        assert metrics[f"model/rmse@{horizon}"] == np.inf
        assert metrics[f"model/diverged@{horizon}"] == 1
    assert len(metrics) == 13 and table.count("1/2 diverged") == 3 and "nan" not in table + str(metrics)


def test_without_training_data_there_is_no_linear_baseline(tmp_path):
    numbered(tmp_path, [40], "test")
    found = roll_out(Rotation(), sets_of(tmp_path, "test"), [], 4, World())
    assert set(found.by_horizon) == {"model", "repeat_last"}
