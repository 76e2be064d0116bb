"""Sotaku: its passes by hand, the loss of each, the question added once, and what it refuses."""
import pytest
import torch

from helpers import pretrain_config
from losses.classification import ACTLossHead
from test_family import batch_of, head_of, step


def sotaku(**changes) -> ACTLossHead:
    return head_of("sotaku", anchor_fraction=0.0, anchor_corruption=0.0, **changes)


def by_hand(head: ACTLossHead, batch: dict[str, torch.Tensor], passes: int) -> list[torch.Tensor]:
    """The logits of each pass on a new puzzle, without a word of the recursion."""
    inner, found = head.model.inner, []
    h, p = inner.embed(batch), None
    for _ in range(passes):
        if p is not None:
            h = h + p @ inner.feedback.weight.T + inner.feedback.bias
        for layer in inner.L_level.layers:
            h = h + layer.self_attn(layer.attn_norm(h), inner.rotary)
            h = h + layer.down_proj(layer.up_proj(layer.mlp_norm(h)).clamp(min=0))
        found.append(h @ inner.lm_head.weight.T)
        p = found[-1].softmax(-1)
    return found


def test_the_loss_is_the_mean_over_passes_of_which_each_sees_the_answer_before():
    head, batch = sotaku(L_cycles=3), batch_of()
    _, _, metrics, outputs, _ = head(carry=head.initial_carry(batch), batch=batch, return_keys=("logits",))
    every = by_hand(head, batch, 3)
    assert torch.allclose(outputs["logits"], every[-1], atol=1e-4)
    losses = [head.cell_losses(logits, batch["labels"]).mean(-1).sum() for logits in every]
    assert metrics["lm_loss"].item() == pytest.approx(sum(losses).item() / 3, rel=1e-4)


def test_several_supervision_steps_are_as_many_more_passes_and_the_question_is_added_once():
    head, batch = sotaku(L_cycles=2, halt_max_steps=4).eval(), batch_of()
    carry, every = head.initial_carry(batch), by_hand(head, batch, 6)
    with torch.no_grad():
        for number in range(3):
            carry, _, outputs = step(head, carry, batch)
            assert torch.allclose(outputs["logits"], every[2 * number + 1], atol=1e-3)


def test_the_gradient_reaches_the_question_through_all_passes():
    head, batch = sotaku(L_cycles=3), batch_of()
    step(head, head.initial_carry(batch), batch)[1].backward()
    through = head.model.inner.embed_tokens.embedding_weight.grad.clone()
    head.zero_grad()
    losses = [head.cell_losses(logits, batch["labels"]).mean(-1).sum() for logits in by_hand(head, batch, 3)]
    (sum(losses) / 3).backward()
    assert torch.allclose(head.model.inner.embed_tokens.embedding_weight.grad, through, atol=1e-5)


def test_weights_begin_small_for_nothing_normalises_what_h_gathers():
    inner = sotaku(hidden_size=64, num_heads=2).model.inner
    for block in inner.L_level.layers:
        for weight in (block.self_attn.qkv_proj.weight, block.up_proj.weight, block.down_proj.weight):
            bound = weight.shape[1]**-0.5
            assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    tokens = inner.embed_tokens.embedding_weight * inner.scale
    assert tokens.std().item() == pytest.approx((3 * len(tokens))**-0.5, rel=0.1)


@pytest.mark.parametrize("overrides, message", [
    (["arch.H_cycles=2"], "arch.H_cycles=2: Input should be 1"),
    (["arch.wta_chains=2"], "arch.wta_chains=2: Input should be 1"),
    (["arch.glu_norm=true"], "arch.glu_norm=True: Input should be False"),
    (["arch.pos_encodings=learned"], "rope_base=10.0 has no effect with pos_encodings=learned")])
def test_options_without_effect_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config("arch=sotaku", *overrides)
