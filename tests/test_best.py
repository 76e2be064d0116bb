"""Which evaluation is the best: never one that is no number, the first of equals; and when other metrics disagree."""
import math

import pytest

from helpers import pretrain_config
from utils.best import best_in_doubt, best_of, out_of_patience, unscored_since
from utils.run_directory import evaluations
from utils.strict_json import as_json

# val/loss holds the halting loss, and grows while puzzles get solved
SOLVED = [(5, {"val/loss": 1.0, "val/exact_accuracy": 0.0}), (10, {"val/loss": 1.4, "val/exact_accuracy": 0.9}),
          (15, {"val/loss": 1.3, "val/exact_accuracy": 0.9})]


def write_log(folder, evaluations):
    lines = [{"step": step, "epoch": 0, **metrics} for step, metrics in evaluations]
    (folder / "metrics.jsonl").write_text("".join(as_json(line) + "\n" for line in lines))
    return folder


def test_a_newer_checkpoint_that_was_not_scored_is_told(tmp_path):
    run = write_log(tmp_path, SOLVED)
    for step in (5, 10, 15):
        (run / f"step_{step:08d}.ckpt").touch()
    assert unscored_since(run, 5) == unscored_since(run, 15) == []
    (run / "step_00000018.ckpt").touch()
    line, = unscored_since(run, 10)
    assert "best.ckpt is of step 10; step_00000018.ckpt is newer" in line
    assert f"checkpoint={run / 'step_00000018.ckpt'}" in line


@pytest.mark.parametrize("mode, values, best", [
    ("min", [math.nan, 0.5, 0.3, math.nan, 0.3, 0.4], (3, 0.3)), ("max", [0.1, math.inf, 0.7, math.nan, 0.7], (3, 0.7)),
    ("max", [math.nan, -math.inf], None), ("min", [], None)])
def test_the_best_is_a_number_and_the_first_of_equal_ones(tmp_path, mode, values, best):
    run = write_log(tmp_path, [(step, {"val/x": value}) for step, value in enumerate(values, 1)])
    assert best_of(evaluations(run), "val/x", mode) == best and best_of(evaluations(run), "val/y", mode) is None


def test_patience_counts_evaluations_since_the_best(tmp_path):
    settings = pretrain_config("checkpoint.monitor=val/x").checkpoint
    ends = []
    for count in range(1, 7):
        run = write_log(tmp_path, [(10 * step, {"val/x": value}) for step, value in enumerate(
            [3.0, 2.0, 2.0, 2.5, 1.0, math.nan][:count], 1)])
        ends.append([out_of_patience(run, settings, patience) is not None for patience in (1, 2, 3)])
    assert ends == [[False] * 3, [False] * 3, [True, False, False], [True, True, False], [False] * 3,
                    [True, False, False]]
    line = out_of_patience(run, settings, 1)
    assert line.startswith("notice: the run ends at step 60: val/x has not improved since step 50 (1), for 1 eval")
    run = write_log(tmp_path, [(step, {"val/x": math.nan}) for step in (1, 2)])
    assert "val/x has not improved at all, for 2" in out_of_patience(run, settings, 2)


def test_where_another_metric_knows_a_better_step_it_is_told_with_what_to_do(tmp_path):
    run = write_log(tmp_path, SOLVED)
    expected = ("notice: best.ckpt is of step 5, the best by checkpoint.monitor=val/loss, but val/exact_accuracy is 0 "
                "there and 0.9 at step 10; {}choose by that metric with checkpoint.monitor=val/exact_accuracy "
                "checkpoint.mode=max")
    assert best_in_doubt(run, "val/loss", step=5) == best_in_doubt(run, "val/loss", value=1.0) == [expected.format("")]
    (run / "step_00000010.ckpt").touch()
    assert best_in_doubt(run, "val/loss", step=5) == [expected.format(
        f"score that step with evaluate.py checkpoint={run / 'step_00000010.ckpt'}, and ")]


def test_where_all_agree_or_nothing_is_known_nothing_is_told(tmp_path):
    assert best_in_doubt(tmp_path, "val/loss", step=5) == []  # no log
    run = write_log(tmp_path, SOLVED)
    assert best_in_doubt(run, "val/exact_accuracy", step=10) == []
    assert best_in_doubt(run, "val/loss", step=15) == []  # as good as step 10
    assert best_in_doubt(run, "val/loss", step=7) == best_in_doubt(run, None) == []
    write_log(tmp_path, [(5, {"val/mse": 1.0, "val/rmse": 1.0, "eval/a/solved": math.nan}),
                         (9, {"val/mse": 2.0, "val/rmse": 0.9, "eval/a/solved": 0.5})])
    assert "val/rmse is 1 there and 0.9 at step 9, eval/a/solved is nan there and 0.5 at step 9; choose by" in \
        best_in_doubt(run, "val/mse", step=5)[0]
