"""What benchmarks/arc_cost.py counts, against products by hand and against figures that were measured or published."""
from dataclasses import replace

import pytest

from benchmarks import arc_cost

TINY = ["arch.hidden_size=8", "arch.num_heads=2", "arch.puzzle_emb_len=0", "arch.puzzle_emb_ndim=0", "arch.L_layers=1",
        "arch.H_cycles=2", "arch.L_cycles=1"]


@pytest.fixture(scope="module")
def step():
    return arc_cost.counted(arc_cost.composed("sudoku_att", *TINY), arc_cost.SUDOKU)


def test_a_step_is_counted_by_row_and_as_by_hand(step):
    """One layer of width 8 without puzzle embedding, 81 tokens: qkv, o, gate, up, down, attention's two products."""
    inner, positions = 256, 81
    one_pass = 2 * positions * (8 * 24 + 8 * 8 + 3 * 8 * inner) + 4 * positions**2 * 8
    heads = 2 * positions * 8 * 11 + 2 * 8 * 2  # logits of all cells, q from the first position
    assert step.evaluate == 4 * one_pass + heads  # T (n + 1) passes
    # of two passes, with products for the gradients of both factors; the first has no gradient of its input
    assert 4 * one_pass + heads + 2 * 2 * one_pass * 0.9 < step.train <= 4 * one_pass + 3 * heads + 4 * one_pass
    again = arc_cost.counted(arc_cost.composed("sudoku_att", *TINY), arc_cost.SUDOKU, rows=3)
    assert (again.train, again.evaluate, again.carry) == (step.train, step.evaluate, step.carry)
    assert again.saved == pytest.approx(step.saved, rel=0.02)  # but for what all rows share


def test_the_step_that_was_measured_has_the_operations_that_were_told_of_it():
    anchor = arc_cost.composed(*arc_cost.ANCHOR_SETTINGS)
    told = arc_cost.counted(anchor, arc_cost.SUDOKU)
    assert 384 * told.train == pytest.approx(13.0e12, rel=0.01)
    assert 384 * told.train / 59.2e-3 == pytest.approx(arc_cost.ANCHOR_TERAFLOPS * 1e12, rel=0.01)


def test_cards_share_rows_and_hours_and_micro_batches_make_steps_fit(step):
    config = arc_cost.composed("arc1")
    step = replace(step, saved=arc_cost.GIB, train=4e11)
    one, four = (arc_cost.cost(config, step, cards, 1e12, 1.0, 60) for cards in (1, 4))
    assert one["steps"] == pytest.approx(518_071, rel=0.003)  # what the published checkpoint is named after
    assert one["evaluate_h"] == 4 * four["evaluate_h"] and 3.5 < one["train_h"] / four["train_h"] < 4
    assert one["rows"] == four["rows"] == 48 and one["gib"] <= 60
    assert arc_cost.cost(config, step, 1, 1e12, 0.001, 60)["rows"] == 768
    table = 4 * 876_000 * 512
    assert one["checkpoint_gb"] * 1e9 == pytest.approx(table + 16 * step.parameters + 768 * step.carry)
