"""Which of several answers to one puzzle counts: the rules of `select=`, on plain arrays.

A *trajectory* is one attempt at a puzzle, numbered from 0 as drawn. K trajectories, L cells. Every tie goes to the
trajectory with the larger q, and then to the one that was drawn first.

    q           the trajectory whose q_halt is largest at its end (PTRM, arXiv 2605.19943)
    vote        an answer that most trajectories agree on (SiC, arXiv 2601.19085)
    residual    the one that changes least: smallest mean ‖z_t − z_{t−1}‖ of its last 3 steps (EqR, arXiv 2605.21488)
    first_halt  the one that halts after the fewest steps, with its answer there (SiC); if none halts, as q
    valid       one that the rules of the puzzle accept, without looking at the label; if they accept none, as q
    best_of     one that is right by the label, if any is: no method, but an upper bound of all of them
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Rule = Literal["q", "vote", "residual", "first_halt", "valid", "best_of"]
RULES: tuple[Rule, ...] = get_args(Rule)
UPPER_BOUND = "best_of"  # the rule that looks at labels


@dataclass
class Trajectories:
    """What K trajectories of one puzzle have come to."""

    # (K, L) answers in the puzzle's own frame, or (K,) numbers that are equal where answers are
    answers: np.ndarray
    # (K,) logits q_halt
    q: np.ndarray
    # (K,) whether each would halt where it stands
    sure: np.ndarray
    # (K,) steps after which each would have halted first; 0: it has not
    halted_at: np.ndarray
    # (K,) mean ‖z_t − z_{t−1}‖ of the last 3 steps; infinite before the second step; None: not measured
    residual: np.ndarray | None = None
    # (K,) whether the rules accept each answer; None: the puzzle has no rules
    valid: np.ndarray | None = None
    # (K,) whether each answer is right by the label
    right: np.ndarray | None = None


def choose(rule: Rule, of: Trajectories) -> int:
    """The number of the trajectory that answers. Raises ValueError where the rule asks for what is not known."""
    q = np.nan_to_num(of.q.astype(np.float64), nan=-np.inf)
    if rule == "q":
        return int(q.argmax())
    if rule == "vote":
        return _surest(_agreed(of.answers) == _agreed(of.answers).max(), q)
    if rule == "residual":
        known = _known(of.residual, rule, "residuals were not measured")
        return _surest(known == known.min(), q)
    if rule == "first_halt":
        halted_at = np.where(of.halted_at > 0, of.halted_at, np.iinfo(np.int64).max)
        return _surest(halted_at == halted_at.min(), q)
    if rule == "valid":
        return _surest(_known(of.valid, rule, "the puzzles have no rules"), q)
    if rule == "best_of":
        return _surest(_known(of.right, rule, "the puzzles have no labels"), q)
    raise ValueError(f"select={rule} is no rule; there are {', '.join(RULES)}")


def is_confident(rule: Rule, of: Trajectories, chosen: int) -> bool:
    """Does the rule hold its choice for right? `vote`: more than half of the trajectories agree with it; `valid`: the
    rules of the puzzle accept it; the others: it would halt there. An answer that is selected so and wrong is
    *spurious*."""
    if rule == "vote":
        return bool(2 * _agreed(of.answers)[chosen] > len(of.answers))
    if rule == "valid":
        return bool(_known(of.valid, rule, "the puzzles have no rules")[chosen])
    return bool(of.sure[chosen])


def confidence(rule: Rule, of: Trajectories, chosen: int) -> float:
    """How sure the choice is, from 0 to 1: for `vote` the share of the trajectories that agree, else sigmoid(q_halt).
    """
    if rule == "vote":
        return float(_agreed(of.answers)[chosen] / len(of.answers))
    return float(1 / (1 + np.exp(-np.float64(of.q[chosen]).clip(-700, 700))))


def known_rules(has_rules: bool, has_residuals: bool = True) -> Sequence[Rule]:
    """The rules that can be applied to puzzles with labels."""
    return [rule for rule in RULES if (rule != "valid" or has_rules) and (rule != "residual" or has_residuals)]


def _agreed(answers: np.ndarray) -> np.ndarray:
    """How many trajectories (K,) have the same answer as each, itself included."""
    _, owner, counts = np.unique(answers, axis=0, return_inverse=True, return_counts=True)
    return counts[owner.reshape(-1)]


def _surest(among: np.ndarray, q: np.ndarray) -> int:
    """The one with the largest q `among` (K,) those that are true; of all if none is."""
    if not among.any():
        return int(q.argmax())
    allowed = np.flatnonzero(among)
    return int(allowed[q[allowed].argmax()])


def _known(values: np.ndarray | None, rule: str, problem: str) -> np.ndarray:
    if values is None:
        raise ValueError(f"select={rule}: {problem}; use select=q or select=vote")
    return values
