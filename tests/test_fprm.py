"""FPRM: its pass by hand, scales that keep the latent bounded, and halting where the latent no longer moves."""
from dataclasses import replace

import pytest
import torch

from helpers import pretrain_config, tiny_batch
from losses.classification import ACTLossHead
from models.act import relative_change
from models.recursive_reasoning.fprm import FPRM
from models.recursive_reasoning.trm import TRM

CONFIG = {"batch_size": 4, "seq_len": 9, "vocab_size": 5, "num_puzzle_identifiers": 1, "puzzle_emb_ndim": 0,
          "puzzle_emb_len": 2, "H_cycles": 1, "L_cycles": 2, "L_layers": 2, "hidden_size": 16, "expansion": 2,
          "num_heads": 2, "halt_max_steps": 40, "halt_exploration_prob": 0.0, "pos_encodings": "rope",
          "forward_dtype": "float32", "alpha_1": 0.75, "alpha_2": 0.25, "grid_conv": True, "halt_on": "residual"}


def fprm(**changes) -> FPRM:
    torch.manual_seed(0)
    return FPRM(CONFIG | changes)


def test_a_pass_by_hand():
    """The convolution cell by cell."""
    net, inner = fprm().inner.L_level, fprm().inner
    z, x = torch.randn(2, 11, 16), torch.randn(2, 11, 16)
    mixed = z.clone()
    for cell in range(9):
        total = torch.zeros(2, 16)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                row, column = cell // 3 + down, cell % 3 + right
                if 0 <= row < 3 and 0 <= column < 3:
                    total += net.conv_weight[:, 0, down + 1, right + 1] * z[:, 2 + 3 * row + column]
        mixed[:, 2 + cell] = total
    beta_2 = 1 - 0.25 * 0.75**4
    beta_1 = beta_2 * 0.25 / (1 - 0.75**4)

    def normed(h: torch.Tensor) -> torch.Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    h = 0.25 * mixed + beta_2 * x
    for layer in net.layers:
        h = 0.75 * h + beta_1 * layer.self_attn(normed(h), inner.rotary)
        h = 0.75 * h + beta_1 * layer.mlp(normed(h))
    assert torch.allclose(net(z, x, inner.rotary), h, atol=1e-4)


def test_the_latent_stays_bounded_over_many_passes_without_a_norm_after_the_sums():
    model, batch = fprm(L_cycles=1, halt_on="q", halt_max_steps=500), tiny_batch(seq_len=9)
    carry, sizes = model.eval().initial_carry(batch), []
    with torch.no_grad():
        for _ in range(300):
            carry, _ = model(carry, batch)
            sizes.append(carry.latents[0].abs().max().item())
    assert max(sizes[150:]) < 1.2 * max(sizes[:150]) < 100


def test_all_passes_of_a_step_have_a_gradient():
    model, batch = fprm(), tiny_batch(seq_len=9)
    head = ACTLossHead(model, loss_type="stablemax_cross_entropy").train()
    inputs = []
    model.inner.L_level.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    _, loss, *_ = head(carry=head.initial_carry(batch), batch=batch, return_keys=())
    assert [z.requires_grad for z in inputs] == [False, True]
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_relative_change_is_the_largest_over_positions_of_change_by_size():
    z, before = torch.tensor([[[2.0, -4.0], [1.0, 0.0]]]), torch.tensor([[[2.0, -3.0], [1.0, 0.5]]])
    assert relative_change(z, before).tolist() == [pytest.approx(0.5)]  # 1/4 at the first position, 0.5/1 at the second


@pytest.mark.parametrize("model", [fprm(act_inference=True), fprm(act_inference=True, halt_on="q"), TRM(
    {key: value for key, value in CONFIG.items() if key not in ("alpha_1", "alpha_2", "grid_conv")}
    | {"act_inference": True})], ids=["fprm", "fprm by q", "trm"])
def test_a_puzzle_halts_where_its_answer_latent_moves_less_than_said(model):
    model.config.halt_below = 0.5
    batch, steps = tiny_batch(seq_len=9), []
    carry = model.eval().initial_carry(batch)
    with torch.no_grad():
        for step in range(1, 41):
            before = carry.latents[0]
            carry, _ = model(carry, batch)
            if step > 1:
                fixed = relative_change(carry.latents[0], before) < 0.5
                assert torch.equal(carry.halted, fixed if model.config.halt_on == "residual" else fixed & False) or \
                    step == 40
            steps.append(carry.halted.clone())
            carry = replace(carry, halted=torch.zeros(4, dtype=torch.bool))  # go on with the same puzzles
    if model.config.halt_on == "residual" and isinstance(model, FPRM):
        assert torch.stack(steps)[:39].any()  # some does


def test_training_halts_by_the_residual_too_though_no_halting_logit_is_trained():
    model, batch = fprm(learns_halting=False, halt_below=1e9), tiny_batch(seq_len=9)
    carry, _ = model.train()(model.initial_carry(batch), batch)
    assert carry.halted.all()
    carry, _ = fprm(learns_halting=False, halt_below=1e-9).train()(model.initial_carry(batch), batch)
    assert not carry.halted.any()


@pytest.mark.parametrize("changes, message", [
    ({"H_cycles": 2}, "H_cycles"), ({"alpha_1": 1.0}, "alpha_1"), ({"seq_len": 10}, "has 10 cells|these have 10"),
    ({"halt_on": "q", "halt_below": 0.2}, "halt_below=0.2 has no effect with halt_on=q")])
def test_what_it_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fprm(**changes)


def test_its_config_has_the_published_settings():
    options = pretrain_config("arch=fprm").arch.options
    published = {"alpha_1": 0.75, "alpha_2": 0.25, "initial_state_std": 6.0, "halt_on": "residual", "halt_below": 0.1,
                 "L_cycles": 6, "hidden_size": 512, "L_layers": 2}
    assert {key: options[key] for key in published} == published
