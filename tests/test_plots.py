"""Curves: what is drawn, read back from the axes, and files that are pictures."""
import json
from itertools import pairwise

import numpy as np
import pytest

from helpers import is_picture
from utils import plots


def write_metrics(path, *lines: dict):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_hold_every_logged_point(tmp_path, drawn):
    metrics = write_metrics(tmp_path / "metrics.jsonl",
                            {"step": 10, "train/loss": 4.0, "train/exact_accuracy": 0.1},
                            {"step": 20, "train/loss": 2.0},
                            {"step": 20, "val/loss": 3.0, "val/exact_accuracy": 0.0}, {"step": 30, "train/loss": 1.0},
                            {"step": 40, "val/loss": 0.5, "val/exact_accuracy": 0.75})
    picture = tmp_path / "new" / "train_vs_val_loss.png"
    plots.plot_train_vs_val(metrics, picture)
    assert is_picture(picture)
    loss, exact = drawn[0].axes
    points = {line.get_label(): np.array(line.get_xydata()).tolist() for line in loss.lines}
    assert points == {"train": [[10, 4], [20, 2], [30, 1]], "val": [[20, 3], [40, 0.5]]}
    points = {line.get_label(): np.array(line.get_xydata()).tolist() for line in exact.lines}
    assert points == {"train": [[10, 0.1]], "val": [[20, 0], [40, 0.75]]}
    assert loss.get_yscale() == "log" and exact.get_ylim()[0] <= 0 and exact.get_ylim()[1] >= 1
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val"]


def test_a_run_that_knows_no_accuracy_gets_one_panel(tmp_path, drawn):
    metrics = write_metrics(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 1.0}, {"step": 2, "val/loss": 1.0})
    plots.plot_train_vs_val(metrics, tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png") and len(drawn[0].axes) == 1


def test_runs_side_by_side_have_a_curve_each_and_a_bar_a_row(tmp_path, drawn):
    rows = [("plain", [([5, 10], [0.1, 0.6]), ([5, 10], [0.2, 0.8])]), ("other", [([10], [0.3])]),
            ("without", [([], [])])]
    plots.plot_comparison(rows, "val/exact_accuracy", tmp_path / "new" / "runs.png")
    assert is_picture(tmp_path / "new" / "runs.png")
    left, right = drawn[0].axes
    assert [np.array(line.get_xydata()).tolist() for line in left.lines] == [
        [[5, 0.1], [10, 0.6]], [[5, 0.2], [10, 0.8]], [[10, 0.3]], []]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.7, 0.3, 0])
    assert [label.get_text() for label in right.get_yticklabels()] == [label for label, _ in rows]
    plots.plot_comparison([("votes_0", [([0], [0.2])]), ("votes_30", [([0], [0.4])])], "eval/arc/pass@2",
                          tmp_path / "evaluations.png")
    bars, = drawn[-1].axes
    assert [bar.get_width() for bar in bars.patches] == [0.2, 0.4]


@pytest.mark.parametrize("count", [2, 30])
def test_labels_of_any_length_do_not_overlap(tmp_path, drawn, count):
    settings = ", ".join(f"arch.some_long_setting_{i}={i}" for i in range(12))
    rows = [(settings[:60 + 300 * (i % 2)], [([1, 2], [0.1, i / count])]) for i in range(count)]
    plots.plot_comparison(rows, "val/accuracy", tmp_path / "runs.png")
    drawn[0].draw_without_rendering()
    boxes = [label.get_window_extent() for label in drawn[0].axes[-1].get_yticklabels()]
    assert len(boxes) == count and all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    curves, _ = drawn[0].axes
    assert all(box.x0 > curves.get_window_extent().x1 for box in boxes)


def test_of_regression_the_second_panel_is_the_squared_error(tmp_path, drawn):
    metrics = write_metrics(tmp_path / "metrics.jsonl", {"step": 1, "train/loss": 1.0, "train/mse": 4.0},
                            {"step": 2, "val/loss": 1.0, "val/mse": 2.0})
    plots.plot_train_vs_val(metrics, tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    loss, error = drawn[0].axes
    assert [line.get_xydata().tolist() for line in error.lines] == [[[1, 4]], [[2, 2]]]
    assert loss.get_yscale() == error.get_yscale() == "log"


def test_a_sequence_shows_inputs_each_step_and_the_observed_targets(tmp_path, drawn):
    random = np.random.default_rng(0)
    inputs, targets, steps = random.normal(size=(7, 3)), random.normal(size=(7, 2)), random.normal(size=(4, 7, 2))
    mask = np.ones((7, 2), bool)
    mask[2, 1] = False
    plots.plot_sequence_steps(inputs, targets, mask, steps, tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    given, first, second = drawn[0].axes
    assert [np.array_equal(line.get_ydata(), inputs[:, i]) for i, line in enumerate(given.lines)] == [True] * 3
    for feature, axis in enumerate((first, second)):
        *predictions, truth = axis.lines
        assert np.array_equal([line.get_ydata() for line in predictions], steps[:, :, feature])
        assert np.array_equal(truth.get_xdata(), np.flatnonzero(mask[:, feature]))
        assert np.array_equal(truth.get_ydata(), targets[mask[:, feature], feature])


def test_single_rows_are_predictions_against_observed_targets(tmp_path, drawn):
    targets, mask = np.arange(12.0).reshape(6, 2), np.arange(12).reshape(6, 2) % 5 > 0
    plots.plot_predictions(targets + 1, targets, mask, tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    for feature, axis in enumerate(drawn[0].axes):
        seen = targets[mask[:, feature], feature]
        assert axis.lines[0].get_xydata().tolist() == [[t, t + 1] for t in seen]


def test_rollouts_show_errors_by_horizon_and_one_rollout_within_reach_of_the_truth(tmp_path, drawn):
    truth = np.stack([np.arange(25.0), np.full(25, 3.0)], axis=1)
    shown = {"model": truth + 1, "linear": truth * 1e9}
    plots.plot_rollouts({who: np.arange(1.0, 26) for who in shown}, truth, shown, tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    errors, first, second = drawn[0].axes
    assert errors.get_yscale() == "log" and [line.get_label() for line in errors.lines] == ["model", "linear"]
    assert errors.lines[0].get_xydata()[0].tolist() == [1, 1] and first.get_ylim() == pytest.approx((-12, 36))
    assert np.array_equal(first.lines[-1].get_ydata(), truth[:, 0]) and len(second.lines) == 3
