"""Pace: how long the steps take, and what is left."""
import pytest

from utils.progress import FIRST_STEPS, EvaluationProgress, Pace, duration


@pytest.mark.parametrize("seconds, text", [(0.123, "0.12 s"), (9.4, "9.4 s"), (59.2, "59 s"), (61, "1 min"),
                                           (3599, "1 h 0 min"), (26_400, "7 h 20 min"), (200_000, "2 d 7 h")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_the_first_steps_tell_how_long_the_run_will_take():
    pace = Pace(first_step=100, last_step=200)
    told = []
    for seconds in [9.0] + [0.5] * 30:
        pace.add(seconds)
        told.append(pace.of_first_steps())
    line, = filter(None, told)
    assert told.index(line) == FIRST_STEPS - 1
    assert line == ("the first step took 9 s, the 9 after it 0.5 s each; at that pace the 90 left take 45 s, "
                    "evaluations not counted")
    assert pace.left == 0.5 * (100 - 31)


def test_of_a_few_steps_the_first_tells_and_at_the_end_nothing_is_left_to_tell():
    pace = Pace(0, 3)
    pace.add(2.0)
    assert pace.of_first_steps() == ("the first step took 2 s; at that pace the 2 left take 4 s, evaluations not "
                                     "counted")
    for _ in range(2):
        pace.add(1.0)
        assert pace.of_first_steps() is None
    assert pace.left == 0
    only = Pace(0, 1)
    only.add(2.0)
    assert only.of_first_steps() is None


def test_without_a_terminal_an_evaluation_says_now_and_then_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr("utils.progress.QUIET", -1.0)  # every time
    progress = EvaluationProgress(300)
    for answered in (100, 0, 199, 1):
        progress.add(answered)
    first, second = capsys.readouterr().out.splitlines()
    assert "100 of 300 examples answered, " in first and "299 of 300 examples answered, " in second
    EvaluationProgress(3, processes=2).add(1)
    assert "1 of 3 examples answered by the first of 2 processes, " in capsys.readouterr().out
    quiet = EvaluationProgress(3, shown=False)
    quiet.add(1)
    assert capsys.readouterr() == ("", "")
