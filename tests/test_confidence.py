"""What q knows: precision, recall, reliability and the fates of attempts, on courses made by hand."""
import numpy as np
import pytest

from evaluators.confidence import Course, calibration_error, fates, halting, reliability


def course(answers: str, right: str, q: tuple[float, ...] = ()) -> Course:
    """Answers by letters; `right`: the letter of the right one."""
    ids = np.array([ord(letter) for letter in answers])
    logits = np.array(q or [0.0] * len(answers))
    return Course(0, 0, ids, ids == ord(right), logits > 0, logits)


@pytest.mark.parametrize("answers, fate, last_change", [
    ("abcd", "never", 4), ("xxxx", "settled", 1), ("abxx", "settled", 3), ("axax", "recovered", 4),
    ("axxa", "lost", 4), ("xaaa", "lost", 2), ("aaaa", "never", 1), ("abbx", "settled", 4)])
def test_the_fate_of_an_attempt(answers, fate, last_change):
    one = course(answers, "x")
    assert (one.fate, one.last_change) == (fate, last_change)
    row = one.row()
    assert row["never_settles"] == (last_change == 4) and row["answers"] == len(set(answers))
    assert row["first_right"] == (answers.index("x") + 1 if "x" in answers else None)
    assert row["steps_right"] == answers.count("x")


def test_shares_of_fates():
    shares = fates([course(answers, "x") for answers in ("axxa", "xxxx", "abcd", "aaaa")])
    assert shares == {"never": 0.5, "settled": 0.25, "recovered": 0, "lost": 0.25, "never_settles": 0.5}


def test_precision_and_recall_of_halting_after_each_step():
    courses = [course("ax", "x", (1, 1)), course("xx", "x", (-1, 1)), course("aa", "x", (-1, 1)),
               course("ax", "x", (-1, -1))]
    first, last = halting(courses)
    assert first == {"step": 1, "right": 0.25, "halts": 0.25, "precision": 0.0, "recall": 0.0}
    assert last == {"step": 2, "right": 0.75, "halts": 0.75, "precision": pytest.approx(2 / 3),
                    "recall": pytest.approx(2 / 3)}
    assert halting([course("a", "x", (-1,))]) == [
        {"step": 1, "right": 0.0, "halts": 0.0, "precision": None, "recall": None}]


def test_a_reliability_diagram_counts_each_attempt_once():
    def logit(p: float) -> float:
        return float(np.log(p / (1 - p)))

    courses = [course("x" if right else "a", "x", (logit(p),)) for p, right in
               [(0.05, 0), (0.11, 0), (0.19, 1), (0.95, 1), (0.97, 1), (0.99, 0)]]
    bins = reliability(courses)
    assert [one["attempts"] for one in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins[1]["probability"] == pytest.approx(0.15) and bins[1]["right"] == 0.5
    assert bins[9]["right"] == pytest.approx(2 / 3) and bins[4]["right"] is None
    assert calibration_error(bins) == pytest.approx((0.05 + 2 * 0.35 + 3 * abs(0.97 - 2 / 3)) / 6)
    assert reliability([course("x", "x", (900.0,))])[9]["attempts"] == 1
