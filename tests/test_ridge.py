"""The ridge baseline against least squares by hand."""
import numpy as np
import pytest
import torch

from dataset.common import EpisodeMetadata
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig, load_metadata
from dataset.regression_dataset import write_regression_dataset
from evaluators.ridge import Ridge, ridge_weights
from helpers import write_tiny_dataset


def test_the_weights_are_those_of_the_penalised_least_squares_of_the_observed():
    random = np.random.default_rng(0)
    x = np.c_[random.normal(size=(50, 3)), np.ones(50)]
    y, mask = random.normal(size=(50, 2)), random.random((50, 2)) > 0.3
    weights, = ridge_weights(x, y, mask, [0.1])
    for target in range(2):
        seen = mask[:, target]
        # as rows added to the data: √(strength · examples) for each input but the constant
        rows = np.sqrt(0.1 * seen.sum()) * np.eye(4)[:3]
        expected = np.linalg.lstsq(np.r_[x[seen], rows], np.r_[y[seen, target], np.zeros(3)], rcond=None)[0]
        assert np.allclose(weights[:, target], expected, atol=1e-6)


def test_it_solves_what_is_linear_and_reports_the_model_over_the_same_targets(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 40)):
        inputs = random.normal(size=(count, 4, 2))
        targets = np.cumsum(inputs, axis=1)[..., :1] + 3
        write_regression_dataset(tmp_path, split, inputs, targets, random.random(targets.shape) > 0.2)
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(tmp_path)], global_batch_size=16,
                                             test_set_mode=True), "test")
    ridge = Ridge(str(tmp_path), data.metadata)
    for _, batch, real in data:
        batch = {name: value[:real] for name, value in batch.items()}
        ridge.update_batch(batch, {"preds": batch["targets"] + 2})
    found = ridge.result(str(tmp_path / "out"), 0, 1, None)  # as published code gives it
    assert found["ridge_rmse"] < 1e-3 and found["model_rmse"] == pytest.approx(2)
    assert (tmp_path / "out" / "ridge.png").read_bytes()[:4] == b"\x89PNG"
    ridge.begin_eval()
    assert not torch.any(ridge.sums)


def test_other_data_are_refused(tmp_path):
    puzzles = write_tiny_dataset(tmp_path / "puzzles")
    with pytest.raises(ValueError, match="ridge@Ridge is a baseline of regression data, and .* holds puzzles"):
        Ridge(str(puzzles), load_metadata(puzzles, "test"))
    write_regression_dataset(tmp_path / "wide", "test", np.ones((2, 3000)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="takes at most 2048 inputs, and an example of .*wide has 3000"):
        Ridge(str(tmp_path / "wide"), load_metadata(tmp_path / "wide", "test"))
    episodes = EpisodeMetadata(task_type="regression", input_dim=3, target_dim=3, seq_len=8, sets=["latentset"])
    with pytest.raises(ValueError, match="does not take the latent episodes of .*; use evaluators="):
        Ridge(str(tmp_path), episodes)
