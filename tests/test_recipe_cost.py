"""What benchmarks/recipe_cost.py counts, against products by hand and figures that were measured or published."""
from dataclasses import replace

import pytest

from benchmarks import recipe_cost

TINY = ["arch.hidden_size=8", "arch.num_heads=2", "arch.puzzle_emb_len=0", "arch.puzzle_emb_ndim=0", "arch.L_layers=1",
        "arch.H_cycles=2", "arch.L_cycles=1"]


@pytest.fixture(scope="module")
def step():
    return recipe_cost.counted(recipe_cost.composed("sudoku_att", *TINY), recipe_cost.SUDOKU)


def test_a_step_is_counted_by_row_and_as_by_hand(step):
    """One layer of width 8 without puzzle embedding, 81 tokens: qkv, o, gate, up, down, attention's two products."""
    inner, positions = 256, 81
    one_pass = 2 * positions * (8 * 24 + 8 * 8 + 3 * 8 * inner) + 4 * positions**2 * 8
    heads = 2 * positions * 8 * 11 + 2 * 8 * 2  # logits of all cells, q from the first position
    assert step.evaluate == 4 * one_pass + heads  # T (n + 1) passes
    # of two passes, with products for the gradients of both factors; the first has no gradient of its input
    assert 4 * one_pass + heads + 2 * 2 * one_pass * 0.9 < step.train <= 4 * one_pass + 3 * heads + 4 * one_pass
    again = recipe_cost.counted(recipe_cost.composed("sudoku_att", *TINY), recipe_cost.SUDOKU, rows=3)
    assert (again.train, again.evaluate, again.carry) == (step.train, step.evaluate, step.carry)
    assert again.saved == pytest.approx(step.saved, rel=0.02)  # but for what all rows share


def test_a_step_of_a_model_that_guesses_is_counted_too():
    """LDT of two loops of one layer of width 8: 81 cells and CLS, 11 tokens; heads of the last loop at evaluation, of
    both in training, whose backward pass takes twice the forward one, but for the gradient of the candidates."""
    small = ["arch.hidden_size=8", "arch.num_heads=2", "arch.L_layers=1", "arch.loops=2", "arch.second_pass=false"]
    step = recipe_cost.counted(recipe_cost.composed("ldt_sudoku", *small), recipe_cost.SUDOKU)
    loop = 2 * 82 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 4 * 82**2 * 8
    embedding, heads = 2 * 81 * 11 * 8, 2 * 81 * 2 * 11 * 8 + 2 * 8
    assert step.evaluate == embedding + 2 * loop + heads
    assert step.train == pytest.approx(3 * (embedding + 2 * loop + 2 * heads) - embedding, rel=0.01)


def test_the_step_that_was_measured_has_the_operations_that_were_told_of_it():
    anchor = recipe_cost.composed(*recipe_cost.ANCHOR_SETTINGS)
    told = recipe_cost.counted(anchor, recipe_cost.SUDOKU)
    assert 384 * told.train == pytest.approx(13.0e12, rel=0.01)
    assert 384 * told.train / 59.2e-3 == pytest.approx(recipe_cost.ANCHOR_TERAFLOPS * 1e12, rel=0.01)


def test_cards_share_rows_and_hours_and_micro_batches_make_steps_fit(step):
    config = recipe_cost.composed("arc1")
    step = replace(step, saved=recipe_cost.GIB, train=4e11)
    one, four = (recipe_cost.cost(config, step, cards, 1e12, 1.0, 60) for cards in (1, 4))
    assert one["steps"] == pytest.approx(518_071, rel=0.003)  # what the published checkpoint is named after
    assert one["evaluate_h"] == 4 * four["evaluate_h"] and 3.5 < one["train_h"] / four["train_h"] < 4
    assert one["rows"] == four["rows"] == 48 and one["gib"] <= 60
    assert recipe_cost.cost(config, step, 1, 1e12, 0.001, 60)["rows"] == 768
    table = 4 * 876_000 * 512
    assert one["checkpoint_gb"] * 1e9 == pytest.approx(table + 16 * step.parameters + 768 * step.carry)
