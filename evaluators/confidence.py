"""What q knows: how often halting is right, whether its probabilities are true, and which puzzles do not settle.

    precision   of the attempts that would halt, the share that is right
    recall      of the attempts that are right, the share that would halt
    reliability the share that is right among attempts that q gives a probability of 0 to 10%, 10 to 20%, and so on
    fate        whether an attempt finds the right answer and keeps it

Written by `curve=true` (evaluators/curve.py).
"""
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

BINS = 10  # of the reliability diagram
# never right; right at some step and at all later ones; right, then wrong, then right at the end; right, but not at the
# end
Fate = Literal["never", "settled", "recovered", "lost"]


@dataclass
class Course:
    """The steps of one attempt at a puzzle."""

    number: int
    attempt: int
    ids: np.ndarray  # (T,) numbers that are equal where answers are
    right: np.ndarray  # (T,) bool
    sure: np.ndarray  # (T,) bool, whether it would halt there
    q: np.ndarray  # (T,) logits q_halt

    @property
    def fate(self) -> Fate:
        if not self.right.any():
            return "never"
        if not self.right[-1]:
            return "lost"
        return "settled" if self.right[self.right.argmax():].all() else "recovered"

    @property
    def last_change(self) -> int:
        """The step that changed the answer last; 1: it never changed."""
        changes = np.flatnonzero(self.ids[1:] != self.ids[:-1])
        return int(changes[-1]) + 2 if len(changes) else 1

    def row(self) -> dict[str, object]:
        """A line of oscillation.csv. `never_settles`: its answer still changes in the last step."""
        return {"puzzle": self.number, "attempt": self.attempt, "fate": self.fate,
                "first_right": int(self.right.argmax()) + 1 if self.right.any() else None,
                "steps_right": int(self.right.sum()), "answers": len(set(self.ids.tolist())),
                "last_change": self.last_change, "never_settles": int(self.last_change == len(self.ids) > 1)}


def halting(courses: Sequence[Course]) -> list[dict[str, float | None]]:
    """Precision and recall of halting after each step, over all attempts. None: nothing halts, or nothing is right."""
    right, sure = (np.stack([getattr(course, name) for course in courses]) for name in ("right", "sure"))
    both = (right & sure).sum(0)
    return [{"step": t + 1, "right": float(right[:, t].mean()), "halts": float(sure[:, t].mean()),
             "precision": _ratio(both[t], sure[:, t].sum()), "recall": _ratio(both[t], right[:, t].sum())}
            for t in range(right.shape[1])]


def reliability(courses: Sequence[Course]) -> list[dict[str, float | None]]:
    """Bins of sigmoid(q_halt) after the last step: how many attempts are in it, the mean of their probabilities, and
    the share of them that is right. None: the bin is empty."""
    p = 1 / (1 + np.exp(-np.array([course.q[-1] for course in courses], np.float64).clip(-700, 700)))
    right = np.array([course.right[-1] for course in courses])
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return [{"from": b / BINS, "to": (b + 1) / BINS, "attempts": int((bins == b).sum()),
             "probability": _ratio(p[bins == b].sum(), (bins == b).sum()),
             "right": _ratio(right[bins == b].sum(), (bins == b).sum())} for b in range(BINS)]


def calibration_error(bins: Sequence[dict[str, float | None]]) -> float:
    """Mean distance between probability and share of right answers, over attempts (expected calibration error)."""
    total = sum(one["attempts"] or 0 for one in bins)
    return sum(abs((one["probability"] or 0) - (one["right"] or 0)) * (one["attempts"] or 0) for one in bins) / total


def fates(courses: Sequence[Course]) -> dict[str, float]:
    """Shares of the attempts: those of each fate, and those whose answer still changes in the last step."""
    counts: Counter[str] = Counter(course.fate for course in courses)
    still = sum(course.last_change == len(course.ids) > 1 for course in courses)
    return {fate: counts[fate] / len(courses) for fate in ("never", "settled", "recovered", "lost")} | {
        "never_settles": still / len(courses)}


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
