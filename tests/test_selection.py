"""Each rule that chooses among trajectories, against a version that looks at them one by one."""
import itertools
import math

import numpy as np
import pytest

from evaluators.selection import RULES, Trajectories, choose, confidence, is_confident, known_rules


def drawn(seed: int, K: int = 5) -> Trajectories:
    """Few different values, so that there are ties."""
    random = np.random.default_rng(seed)
    q = random.integers(-2, 3, K).astype(float)
    return Trajectories(random.integers(1, 3, (K, 2)), q, q > 0, random.integers(0, 4, K),
                        random.choice([0.5, 1.0, np.inf], K), random.random(K) < 0.3, random.random(K) < 0.3)


def by_hand(rule: str, of: Trajectories) -> int:
    """Trajectories are compared in pairs: one that is better than, or as good as, all others and comes first."""
    K = len(of.q)

    def votes(i: int) -> int:
        return sum(list(of.answers[i]) == list(of.answers[j]) for j in range(K))

    def worth(i: int) -> tuple:
        halted = of.halted_at[i] or math.inf
        return {"q": (), "vote": (votes(i),), "residual": (-of.residual[i],), "first_halt": (-halted,),
                "valid": (bool(of.valid[i]),), "best_of": (bool(of.right[i]),)}[rule] + (of.q[i],)

    return next(i for i in range(K) if all(worth(i) >= worth(j) for j in range(K)))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_as_one_does_by_hand(rule):
    chosen = [(choose(rule, drawn(seed)), by_hand(rule, drawn(seed))) for seed in range(200)]
    assert all(one == other for one, other in chosen)
    assert len({one for one, _ in chosen}) == 5


@pytest.mark.parametrize("rule", RULES)
def test_a_choice_follows_its_trajectory_where_they_come_in_another_order(rule):
    """Ties aside, which go to the first."""
    for seed in range(20):
        of, order = drawn(seed), np.random.default_rng(seed).permutation(5)
        of.q = of.q + np.arange(5) / 10  # no ties
        mixed = Trajectories(of.answers[order], of.q[order], of.sure[order], of.halted_at[order], of.residual[order],
                             of.valid[order], of.right[order])
        assert order[choose(rule, mixed)] == choose(rule, of)


def test_no_rule_is_right_more_often_than_the_upper_bound():
    for seed in range(100):
        of = drawn(seed)
        bound = of.right[choose("best_of", of)]
        assert bound == of.right.any()
        assert all(of.right[choose(rule, of)] <= bound for rule in RULES)


def test_confidence_is_the_share_of_votes_or_the_sigmoid_of_q():
    answers = np.array([[1], [2], [2], [2], [3]])
    of = Trajectories(answers, np.array([3.0, -1.0, 0.0, -2.0, 1.0]), np.array([1, 0, 0, 0, 1], bool),
                      np.zeros(5, int), valid=np.array([0, 0, 1, 0, 0], bool))
    assert choose("vote", of) == 2 and confidence("vote", of, 2) == 3 / 5 and is_confident("vote", of, 2)
    assert choose("q", of) == 0 and confidence("q", of, 0) == pytest.approx(1 / (1 + math.exp(-3)))
    assert is_confident("q", of, 0) and not is_confident("q", of, 1)
    assert choose("valid", of) == 2 and is_confident("valid", of, 2)
    of.valid[:] = False
    assert choose("valid", of) == 0 and not is_confident("valid", of, 0)
    of.answers[1:3] = 3
    assert not is_confident("vote", Trajectories(np.arange(4), *[np.zeros(4)] * 3), 0)


def test_what_was_not_measured_chooses_nothing():
    bare = Trajectories(np.zeros((2, 3)), np.array([0.0, np.nan]), np.zeros(2, bool), np.zeros(2, int))
    assert choose("q", bare) == 0 and choose("first_halt", bare) == 0
    for rule, lacking in {"residual": "residuals", "valid": "rules", "best_of": "labels"}.items():
        with pytest.raises(ValueError, match=f"select={rule}: .*{lacking}"):
            choose(rule, bare)
    with pytest.raises(ValueError, match="no rule; there are q, vote"):
        choose("luck", bare)
    rules = [set(known_rules(*has)) for has in itertools.product([False, True], repeat=2)]
    assert [len(found) for found in rules] == [4, 5, 5, 6]
