"""LDT: what a step drops, fixes and ends, by hand; its views, its dropout, and what it refuses."""
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dataset.kinds.sudoku import Sudoku
from helpers import pretrain_config, tiny_metadata
from losses import ACTLossHead
from models.recursive_reasoning.ldt import LDT, LDTConfig, LDTNetwork
from models.views import permuted
from test_kinds import puzzles
from utils.distributed import World

SUDOKU4 = tiny_metadata(vocab_size=6, seq_len=16)
SMALL = ["arch=ldt", "arch.hidden_size=16", "arch.num_heads=2", "arch.L_layers=1", "arch.loops=2"]


def head_of(*words: str):
    torch.manual_seed(0)
    return pretrain_config(*SMALL, *words).arch.build_head(SUDOKU4, batch_size=4, world=World()).train()


def batch_of(rows: int = 4) -> dict[str, Tensor]:
    inputs, labels = (torch.from_numpy(tokens) for tokens in puzzles(Sudoku(16, 6), rows))
    return {"inputs": torch.where(inputs == 1, 1, labels), "labels": labels,
            "puzzle_identifiers": torch.zeros(rows, dtype=torch.int32)}


class Saying(LDTNetwork):
    """In place of the network: given logits, so that the rest can be followed by hand."""

    def __init__(self, config: LDTConfig, keep: Tensor, digit: Tensor, conflict: Tensor):
        super().__init__(config)
        self.said = keep[:, None], digit[:, None], conflict[:, None]

    def forward(self, *_):
        return self.said


def model_saying(keep: Tensor, digit: Tensor, conflict: Tensor, *words: str) -> LDT:
    model = head_of(*words).model
    model.inner = Saying(model.config, keep, digit, conflict)
    return model


def test_the_start_is_what_is_given_and_all_digits_elsewhere():
    start = head_of().model.inner.start(torch.tensor([[1, 3, 0, 5]]))
    assert start[0].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    mazes = head_of("arch.blank=2", "arch.fills=[2,5]", "arch.relabel=false").model.inner
    assert mazes.start(torch.tensor([[2, 1]]))[0].tolist() == [[0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]]
    assert head_of().model.inner.playable.tolist() == [False, False, True, True, True, True]
    assert mazes.playable.tolist() == [False, True, True, True, True, True]


def test_a_step_drops_what_is_improbable_and_fixes_one_open_cell():
    batch = batch_of()
    keep = torch.where(torch.arange(6) == 3, torch.logit(torch.tensor(0.0999)), torch.logit(torch.tensor(0.1001)))
    model = model_saying(keep.expand(4, 16, 6), torch.zeros(4, 16, 6), torch.full((4,), -1.0))
    carry, outputs = model(model.initial_carry(batch), batch)
    after, removed = carry.latents
    given = batch["inputs"] != 1
    assert torch.equal(removed, torch.zeros(4, 16, 6).index_fill(2, torch.tensor([3]), 1) * ~given[..., None])
    left = after.sum(-1)
    assert torch.equal(left[given], torch.ones_like(left[given]))
    assert ((left[~given] == 3) | (left[~given] == 1)).all() and ((left == 1) & ~given).sum(1).tolist() == [1] * 4
    assert not outputs["solved"].any() and carry.steps.tolist() == [1] * 4


def test_the_digit_is_drawn_from_the_candidates_by_its_logits_and_the_temperature():
    rows = 4000
    batch = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in batch_of().items()}
    digit = torch.tensor([9.0, 9.0, 0.0, 1.5, 3.0, 9.0]).expand(rows, 16, 6)
    keep = torch.tensor([9.0, 9.0, 9.0, 9.0, 9.0, -9.0]).expand(rows, 16, 6)  # the last digit goes
    model = model_saying(keep, digit, torch.full((rows,), -1.0), "arch.temperature=1.5")
    carry, _ = model(model.initial_carry(batch), batch)
    after, blank = carry.latents[0], (batch["inputs"] == 1)
    chosen = after[(after.sum(-1) == 1) & blank]
    shares, expected = chosen.float().mean(0)[2:5], torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    assert len(chosen) == rows and torch.allclose(shares, expected, atol=0.04)
    cells = ((after.sum(-1) == 1) & blank).float().mean(0)[blank[0]]
    assert torch.allclose(cells, torch.full_like(cells, 1 / len(cells)), atol=0.04)


def test_a_step_that_dropped_candidates_decides_nothing_if_decisions_wait_until_deduction_is_stuck():
    batch = batch_of()
    keep = torch.zeros(4, 16, 6)
    keep[:2, :, 3] = -9  # rows 0 and 1 lose a candidate of each open cell, once
    model = model_saying(keep, torch.zeros(4, 16, 6), torch.full((4,), -1.0), "arch.decide=stuck")
    blank, carry = batch["inputs"] == 1, model.initial_carry(batch)
    decided = []
    for _ in range(2):
        carry, _ = model(carry, batch)
        decided.append(((carry.latents[0].sum(-1) == 1) & blank).sum(1).tolist())
    assert decided == [[0, 0, 1, 1], [1, 1, 2, 2]]


def test_a_cell_with_the_fewest_candidates_is_fixed_if_asked_for_and_each_of_several_as_often():
    rows = 2000
    batch = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in batch_of().items()}
    few = (batch["inputs"][0] == 1).nonzero().flatten()[[1, 3]]  # two open cells that lose a candidate
    keep = torch.zeros(rows, 16, 6)
    keep[:, few, 2] = -9
    model = model_saying(keep, torch.zeros(rows, 16, 6), torch.full((rows,), -1.0), "arch.decide_cell=fewest")
    carry, _ = model(model.initial_carry(batch), batch)
    fixed = ((carry.latents[0].sum(-1) == 1) & (batch["inputs"] == 1)).float().mean(0)
    assert fixed.sum() == 1 and torch.allclose(fixed[few], torch.tensor(0.5), atol=0.05)


def test_the_surest_cell_is_fixed_if_asked_for():
    """Its digit is the most probable among the candidates that are left, not among all."""
    batch, digit = batch_of(), torch.zeros(4, 16, 6)
    open_cells = [(batch["inputs"][row] == 1).nonzero()[:2, 0].tolist() for row in range(4)]
    keep = torch.zeros(4, 16, 6)
    for row, (first, second) in enumerate(open_cells):
        digit[row, first, 2], keep[row, first, 2] = 9, -9  # sure of a digit that is dropped
        digit[row, second, 4] = 5
    model = model_saying(keep, digit, torch.full((4,), -9.0), "arch.decide_cell=surest", "arch.temperature=0.01")
    after = model(model.initial_carry(batch), batch)[0].latents[0]
    for row, (first, second) in enumerate(open_cells):
        assert after[row, second].tolist() == [0, 0, 0, 0, 1, 0] and after[row, first].sum() == 3


def test_a_cell_whose_only_candidate_is_in_doubt_is_a_conflict_and_a_board_is_solved_once_it_was_seen():
    batch = batch_of()
    keep = torch.nn.functional.one_hot(batch["labels"].long(), 6).float() * 18 - 9  # deduction completes the board
    open_cell = (batch["inputs"][1] == 1).nonzero()[0, 0]
    keep[1, open_cell] = torch.where(keep[1, open_cell] > 0, 2.0, keep[1, open_cell])  # of this cell it is less sure
    given = (batch["inputs"][2] != 1).nonzero()[0, 0]
    keep[2, given] = 2.0  # and of this clue, while the board is open
    for below, expected in ((0, [[True] * 4]), (0.9, [[False] * 4, [True, False, False, True]])):
        model = model_saying(keep, torch.zeros(4, 16, 6), torch.full((4,), -9.0), f"arch.doubt_below={below}").eval()
        carry, found, halted = model.initial_carry(batch), [], []
        for _ in expected:
            carry, outputs = model(carry, batch)
            found.append(outputs["solved"].tolist())
            halted.append(carry.halted.tolist())
        assert found == expected
        assert not below or halted == [[False, False, True, False], [True] * 4]
    # doubt that waits for a full board sees the clue in doubt one step later
    model = model_saying(keep, torch.zeros(4, 16, 6), torch.full((4,), -9.0), "arch.doubt_below=0.9",
                         "arch.doubt_open=0").eval()
    carry, _ = model(model.initial_carry(batch), batch)
    assert not carry.halted.any()
    carry, outputs = model(carry, batch)
    assert carry.halted.all() and outputs["solved"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("train, share", [(True, 0.6), (False, 0.25)])
def test_a_share_of_the_decisions_of_training_is_true_and_others_are_drawn(train, share):
    rows = 4000
    batch = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in batch_of().items()}
    model = model_saying(torch.zeros(rows, 16, 6), torch.zeros(rows, 16, 6), torch.full((rows,), -1.0),
                         f"arch.true_decisions={(0.6 - 0.25) / 0.75}").train(train)
    carry, _ = model(model.initial_carry(batch), batch)
    true = carry.latents[0].gather(-1, batch["labels"].long()[..., None])[..., 0].bool().all(-1).float().mean()
    assert abs(true - share) < 0.04  # of four digits, a draw takes the true one every fourth time


@pytest.mark.parametrize("train", [True, False])
def test_a_row_ends_when_solved_in_conflict_or_old_and_in_training_only_by_a_true_conflict(train):
    batch = batch_of()
    batch["inputs"][0] = batch["labels"][0]  # all given: solved at once
    keep = torch.zeros(4, 16, 6)
    keep[1] = -9  # every candidate of an open cell goes: a conflict, and a true one
    conflict = torch.tensor([-9.0, -9.0, 9.0, -9.0])  # seen in row 2, where there is none
    model = model_saying(keep, torch.zeros(4, 16, 6), conflict, "arch.halt_max_steps=2").train(train)
    carry, outputs = model(model.initial_carry(batch), batch)
    assert outputs["solved"].tolist() == [True, False, False, False]
    assert carry.halted.tolist() == [True, True, not train, False]
    assert torch.equal(carry.latents[0][2], model.inner.start(batch["inputs"])[2])  # nothing is fixed in a conflict
    carry, _ = model(carry, batch)
    assert carry.halted[3] and carry.steps.tolist() == [1, 1, 2 if train else 1, 2]


@pytest.mark.parametrize("share, ends", [(0, 0), (0.4, 0.4), (1, 1)])
def test_a_share_of_the_rows_without_a_solution_ends_in_training_though_no_conflict_is_seen(share, ends):
    rows = 2000
    batch = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in batch_of().items()}
    keep, cell = torch.zeros(rows, 16, 6), int((batch["inputs"][0] == 1).nonzero()[0])
    keep[:1000, cell, int(batch["labels"][0, cell])] = -9  # the true digit of one cell goes, and two or three stay
    model = model_saying(keep, torch.zeros(rows, 16, 6), torch.full((rows,), -9.0), f"arch.lost_ends={share}",
                         "arch.true_decisions=1")
    halted = model(model.initial_carry(batch), batch)[0].halted
    assert abs(halted[:1000].float().mean() - ends) < 0.06 and not halted[1000:].any()


@pytest.mark.parametrize("train, limit", [(True, 0.5), (False, 0.6)])
def test_a_conflict_is_seen_above_its_threshold(train, limit):
    batch = batch_of()
    conflict = torch.logit(torch.tensor([limit - 0.01, limit + 0.01, limit - 0.01, limit + 0.01]))
    model = model_saying(torch.zeros(4, 16, 6), torch.zeros(4, 16, 6), conflict).train(train)
    carry, _ = model(model.initial_carry(batch), batch)
    fixed = (carry.latents[0].sum(-1) == 1).sum(1) > (batch["inputs"] != 1).sum(1)
    assert fixed.tolist() == [True, False, True, False]


def test_a_view_is_undone_and_keeps_every_token_that_is_no_digit():
    network = head_of("arch.fills=[2,3,4]").model.inner
    keys = torch.arange(50)
    cells, names = network._view(keys, 0)
    values = torch.rand(50, 3, 16, 6)
    back = permuted(permuted(values, cells, names), cells.argsort(1), names.argsort(1))
    assert torch.equal(back, values)
    assert torch.equal(names[:, [0, 1, 5]], torch.tensor([0, 1, 5]).expand(50, 3)) and len(names.unique(dim=0)) == 6
    assert len(cells.unique(dim=0)) == 8 and not torch.equal(cells, network._view(keys, 1)[0])
    plain = head_of("arch.turns=[]", "arch.relabel=false").model.inner._view(keys, 0)
    assert torch.equal(plain[0], torch.arange(16).expand(50, 16)) and torch.equal(plain[1][3], torch.arange(6))


def test_the_network_computes_in_the_frame_of_its_view():
    """A puzzle under one of the views is what the network without views makes of the changed puzzle."""
    plain, viewed = head_of("arch.turns=[]", "arch.relabel=false"), head_of()
    plain.load_state_dict(viewed.state_dict())
    candidates, keys = viewed.model.inner.start(batch_of()["inputs"]), torch.arange(4)
    cells, names = viewed.model.inner._view(keys, 0)
    expected = plain.model.inner(permuted(candidates, cells, names), keys, 0, 0.0, True)
    found = viewed.model.inner(candidates, keys, 0, 0.0, True)
    for got, want in zip(found[:2], expected[:2]):
        assert got.shape == (4, 2, 16, 6) and torch.allclose(permuted(got, cells, names), want, atol=1e-5)
    assert torch.allclose(found[2], expected[2], atol=1e-5)


def test_the_last_loop_alone_is_the_last_of_all():
    network = head_of().model.inner
    candidates, keys = network.start(batch_of()["inputs"]), torch.arange(4)
    every, last = (network(candidates, keys, 0, 0.3, of_all) for of_all in (True, False))
    assert all(torch.equal(a[:, -1:], b) for a, b in zip(every, last))


def test_a_second_pass_is_without_dropout_and_only_for_what_is_decided():
    batch, found = batch_of(), {}
    for second, dropout in ((True, 0.5), (False, 0.5), (False, 0.0)):
        head = head_of(f"arch.second_pass={second}", f"arch.dropout={dropout}", "arch.turns=[]", "arch.relabel=false")
        outputs = head.step(head.initial_carry(batch), batch)[1]
        found[second, dropout] = outputs
    assert torch.equal(found[True, 0.5]["keep_logits"], found[False, 0.5]["keep_logits"])
    assert torch.allclose(found[True, 0.5]["logits"], found[False, 0.0]["logits"], atol=1e-6)
    assert not torch.allclose(found[False, 0.5]["logits"], found[False, 0.0]["logits"], atol=1e-2)


def test_a_row_that_ends_takes_the_next_puzzle_whole():
    head, batch = head_of("arch.halt_max_steps=3"), batch_of()
    carry, _ = head.step(head.initial_carry(batch), batch)
    carry = replace(carry, halted=torch.tensor([True, False, False, True]))
    other = {name: value.flip(0) for name, value in batch.items()}
    refilled = head.model.refill(carry, other)
    start = head.model.inner.start(other["inputs"])
    for row in (0, 3):
        assert torch.equal(refilled.latents[0][row], start[row]) and not refilled.latents[1][row].any()
    assert torch.equal(refilled.latents[0][1:3], carry.latents[0][1:3])


@pytest.mark.parametrize("words, message", [
    (["arch.hidden_size=18", "arch.num_heads=4"], "must be a multiple of num_heads=4"),
    (["arch.hidden_size=12", "arch.num_heads=2", "arch.pos_encodings=rope2d"], "each head of width 4"),
    (["arch.turns=[8]"], "there are the transforms 0 to 7"),
    (["arch.pos_encodings=rope"], "pos_encodings"),
    (["arch.puzzle_emb_len=1"], "puzzle_emb_len"),
    (["arch.loss.halting_weight=0.1"], "halting_weight=0.1 has no effect"),
    (["arch.drop_below=1.5"], "drop_below"),
])
def test_impossible_options_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config(*SMALL, *words)


def test_what_the_data_or_the_loss_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="there is no token 9 among 6"):
        head_of("arch.fills=[9]")
    with pytest.raises(ValueError, match="set arch.loss.name=losses@LatticeLossHead"):
        LDT(pretrain_config(*SMALL).arch.options | SUDOKU4.model_sizes() | {"forward_dtype": "float32"})


def test_options_of_other_architectures_are_off_and_unknown_ones_no_options():
    config = head_of().model.config
    assert (config.wta_chains, config.no_ACT_continue, config.noise_scale, config.relaxation) == (1, True, 0, 1)
    for unknown in ("hidden_sice", "pos", "puzzle_emb_ndim"):
        with pytest.raises(AttributeError):
            getattr(config, unknown)
    assert "wta_chains" not in config.model_dump()


def test_its_loss_is_for_it_alone():
    with pytest.raises(ValueError, match="trains candidates, which TRM does not have"):
        pretrain_config("arch=trm", "arch.loss.name=losses@LatticeLossHead").arch.build_head(SUDOKU4, 4, World())
    assert not isinstance(head_of(), ACTLossHead)
