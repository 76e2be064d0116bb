"""Generated episodes of the Lorenz system."""
import numpy as np
import pytest

from dataset.generate_lorenz import STEP, lorenz, main, runge_kutta, slope
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig


def test_a_step_follows_the_equations():
    state = np.array([[1.0, 2.0, 3.0], [-8.0, 4.0, 30.0]])
    assert np.allclose(slope(state)[0], [10, 1 * 25 - 2, 2 - 8])
    fine = state
    for _ in range(1000):
        fine = fine + STEP / 1000 * slope(fine)  # Euler's method in small steps
    assert np.allclose(runge_kutta(state), fine, atol=2e-3)
    still = np.array([[np.sqrt(72), np.sqrt(72), 27.0]])  # a fixed point
    assert np.allclose(runge_kutta(still), still)


def test_episodes_are_on_the_attractor_and_differ():
    latents = lorenz(5, 200, np.random.default_rng(0))
    assert latents.shape == (5, 200, 3) and np.abs(latents[..., 0]).max() < 22 and latents[..., 2].min() > 0
    assert latents[..., 2].mean() == pytest.approx(23.5, abs=1.5)
    assert len(np.unique(latents[:, 0], axis=0)) == 5


def test_what_is_written_is_read_as_transitions(tmp_path):
    main(["--output-dir", str(tmp_path / "data"), "--train", "3", "--test", "2", "--length", "20"])
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(tmp_path / "data")], global_batch_size=4,
                                             test_set_mode=False, episode_window=8), "train")
    assert data.metadata.input_dim == 3 and data.num_examples == 3 * 3
