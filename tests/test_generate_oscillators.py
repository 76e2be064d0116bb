"""Generated oscillators: their inputs and targets are what is said of them."""
import numpy as np

from dataset.generate_oscillators import LENGTH, NOISE, main, oscillators


def test_readings_are_the_course_with_noise_and_gaps_and_the_end_is_not_read():
    made = oscillators(2000, np.random.default_rng(0))
    readings, read = made["inputs"][..., 0], made["inputs"][..., 1].astype(bool)
    course = made["targets"][..., 0]
    assert course.shape == (2000, LENGTH) and not read[:, -8:].any() and abs(read[:, :-8].mean() - 0.75) < 0.01
    assert not readings[~read].any() and abs((readings - course)[read].std() - NOISE) < 0.005
    assert abs(made["mask"].mean() - 0.8) < 0.01 and np.abs(course).max() <= 1.5


def test_a_course_obeys_the_recurrence_of_a_damped_oscillator():
    """x[t+1] = p · x[t] − q · x[t−1], with q = exp(−2γ) below 1 and one p and q for the whole course."""
    for x in oscillators(20, np.random.default_rng(1))["targets"][..., 0]:
        (p, q), residual, *_ = np.linalg.lstsq(np.c_[x[1:-1], -x[:-2]], x[2:], rcond=None)
        assert residual < 1e-18 and 0.9 < q <= 1 and abs(p) < 2


def test_the_same_seed_writes_the_same_data(tmp_path, capsys):
    fingerprints = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(["--output-dir", str(tmp_path / name), "--train", "6", "--test", "3", "--seed", str(seed)])
        out = capsys.readouterr().out
        assert "train: 6 sequences\ntest: 3 sequences" in out
        fingerprints.append(out.split()[-1])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
