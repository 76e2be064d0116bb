"""Pictures: what is drawn, read back from the axes, and files that are pictures."""
import json

import matplotlib
import numpy as np
import pytest

from dataset.build_maze_dataset import TOKEN_NAMES
from utils import plots

matplotlib.use("Agg")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are saved; kept open so that they can be looked at."""
    pyplot, figures = plots._pyplot(), []
    monkeypatch.setattr(pyplot, "close", figures.append)
    yield figures
    monkeypatch.undo()
    pyplot.close("all")


def write_metrics(path, *lines: dict):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def is_picture(path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and np.ptp(matplotlib.image.imread(path)) > 0.5


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
    assert len(boxes) == count and all(above.y0 >= below.y1 for above, below in zip(boxes, boxes[1:]))
    curves, _ = drawn[0].axes
    assert all(box.x0 > curves.get_window_extent().x1 for box in boxes)


def texts(axis) -> dict[tuple[int, int], tuple[str, str]]:
    """Text and colour by (row, column)."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): (t.get_text(), t.get_color()) for t in axis.texts}


def test_a_small_puzzle_is_digits_with_clues_and_mistakes_told_apart(tmp_path, drawn):
    question = np.array([2, 1, 1, 3])  # digit d is token d + 1, 1 is a blank
    answer = np.array([2, 3, 4, 3])
    steps = np.array([[2, 4, 4, 2], answer])
    plots.plot_solution_steps(question, steps, answer, [0.25, 0.995], tmp_path / "picture.png", ["", "", *"123"])
    assert is_picture(tmp_path / "picture.png")
    puzzle, first, second, truth = drawn[0].axes
    assert [axis.get_title() for axis in (puzzle, first, second, truth)] == [
        "puzzle", "step 1: 2 wrong\nbelief 0.25", "step 2: solved\nbelief 0.99", "answer"]
    assert texts(puzzle) == {(0, 0): ("1", "black"), (1, 1): ("2", "black")}
    assert texts(first) == {(0, 0): ("1", "black"), (0, 1): ("3", "tab:red"), (1, 0): ("3", "tab:green"),
                            (1, 1): ("1", "tab:red")}  # a clue that the model changed is a mistake
    assert texts(second)[0, 1] == ("2", "tab:green") and texts(truth)[1, 0] == ("3", "tab:green")


def test_where_no_solution_is_known_none_is_drawn_and_nothing_is_called_solved(tmp_path, drawn):
    question = np.array([2, 1, 1, 3])
    plots.plot_solution_steps(question, question[None], np.full(4, -100), [0.01], tmp_path / "picture.png")
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles == ["puzzle", "step 1: no solution known\nbelief 0.01"]


def test_a_sequence_is_rows_of_cells_whose_tokens_are_their_numbers(tmp_path, drawn):
    question, answer = np.arange(40) % 12, np.arange(40)[::-1] % 12
    answer[7:] = -100  # no answer is asked for
    step = np.where(answer < 0, 1, answer)
    step[3] = 11
    plots.plot_solution_steps(question, np.stack([step, question]), answer, [0.5, 0.5], tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    puzzle, first, second, truth = drawn[0].axes
    assert len(puzzle.patches) == 40 and puzzle.get_xlim() == (0, 20)
    assert texts(puzzle) == {divmod(i, 20): (str(i % 12), "black") for i in range(40)}
    assert texts(first)[0, 2] == ("1", "tab:green") and texts(first)[0, 3] == ("11", "tab:red")
    assert texts(first)[1, 0] == ("1", "0.5") and first.get_title().startswith("step 1: 1 wrong")
    assert second.get_title().startswith("step 2: 7 wrong") and len(texts(truth)) == 7


@pytest.mark.parametrize("cells, shape", [(1, (1, 1)), (11, (1, 11)), (24, (1, 24)), (81, (9, 9)), (31, (2, 16)),
                                          (900, (30, 30)), (901, (31, 30))])
def test_cells_are_a_square_or_rows_of_at_most_thirty(cells, shape):
    assert plots.board_shape(cells) == shape


def test_of_a_long_sequence_cells_without_an_answer_have_no_colour_and_no_frame(tmp_path, drawn):
    question = np.arange(310) % 5
    answer = np.where(np.arange(310) < 300, question, -100)
    step = answer.copy()
    step[[2, 305]] = 7
    plots.plot_solution_steps(question, np.stack([step, question]), answer, [0.5, 0.5], tmp_path / "picture.png")
    first, second, truth = drawn[0].axes[1:4]
    assert [(int(line.get_ydata()[0]), int(line.get_xdata()[0])) for line in first.lines] == [(0, 2)]
    assert not second.lines and truth.images[0].get_array().mask.sum() == 10 + 11 * 29 - 310
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        *(f"token {i}" for i in (0, 1, 2, 3, 4, 7)), "wrong cell"]


def test_a_copied_question_shows_its_wrong_cells(tmp_path, drawn):
    question = np.full(100, 2)
    answer = np.where(np.arange(100) == 42, 5, question)
    plots.plot_solution_steps(question, question[None], answer, [0.5], tmp_path / "picture.png", TOKEN_NAMES)
    assert [len(axis.lines) for axis in drawn[0].axes[:3]] == [0, 1, 0]


def test_a_large_puzzle_is_colours_with_wrong_cells_marked(tmp_path, drawn):
    random = np.random.default_rng(0)
    question, answer = random.integers(1, 6, (2, 400))
    step = answer.copy()
    step[[7, 45]] = 9
    plots.plot_solution_steps(question, step[None], answer, [0.5], tmp_path / "picture.png")
    assert is_picture(tmp_path / "picture.png")
    puzzle, prediction, truth = drawn[0].axes[:3]
    assert np.array_equal(prediction.images[0].get_array(), step.reshape(20, 20))
    marks = {(int(line.get_ydata()[0]), int(line.get_xdata()[0])) for line in prediction.lines}
    assert marks == {(0, 7), (2, 5)} and not puzzle.lines and not truth.lines
    legend, = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [*(f"token {i}" for i in (1, 2, 3, 4, 5, 9)),
                                                                "wrong cell"]


def test_a_mazes_colours_are_named(tmp_path, drawn):
    maze = np.tile([1, 2, 3, 4, 5], 20)
    plots.plot_solution_steps(maze, maze[None], maze, [0.5], tmp_path / "picture.png", TOKEN_NAMES)
    legend, = drawn[0].legends
    shown = drawn[0].axes[0].images[0]
    named = {text.get_text(): mark.get_color() for text, mark in zip(legend.get_texts(), legend.legend_handles)}
    assert list(named) == ["wall", "free", "start", "goal", "path", "wrong cell"]
    for token, name in enumerate(TOKEN_NAMES):
        assert name == "padding" or named[name] == shown.cmap(shown.norm(token))


@pytest.mark.parametrize("vocab_size", [12, 23])
def test_the_legend_has_the_colours_of_the_cells_whatever_their_number(tmp_path, drawn, vocab_size):
    grid = np.arange(900) % vocab_size
    plots.plot_solution_steps(grid, grid[None], grid, [0.5], tmp_path / "picture.png")
    shown, (legend,) = drawn[0].axes[0].images[0], drawn[0].legends
    for token, mark in enumerate(legend.legend_handles[:vocab_size]):
        assert mark.get_color() == shown.cmap(shown.norm(shown.get_array().flat[token]))


def test_many_steps_fill_rows(tmp_path, drawn):
    grid = np.full(16, 2)
    plots.plot_solution_steps(grid, np.tile(grid, (16, 1)), grid, [0.5] * 16, tmp_path / "picture.png")
    assert sum(bool(axis.get_title()) for axis in drawn[0].axes) == 18 and len(drawn[0].axes) == 18


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
