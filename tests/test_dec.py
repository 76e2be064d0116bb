"""DEC: renamed digits give renamed answers, the recursion by hand, and rows that start from answers with errors."""
from dataclasses import replace

import pytest
import torch

from helpers import pretrain_config, tiny_batch
from losses.classification import ACTLossHead
from models.act import noise_keys
from models.recursive_reasoning.dec import DEC, FieldBlock
from models.recursive_reasoning.trm import TRM

CONFIG = {"batch_size": 6, "seq_len": 9, "vocab_size": 7, "num_puzzle_identifiers": 1, "puzzle_emb_ndim": 0,
          "puzzle_emb_len": 0, "H_cycles": 2, "L_cycles": 2, "L_layers": 2, "hidden_size": 16, "expansion": 2,
          "halt_max_steps": 4, "halt_exploration_prob": 0.0, "forward_dtype": "float32", "num_heads": 1}


def dec_of(**changes) -> DEC:
    torch.manual_seed(0)
    return DEC(CONFIG | changes)


def puzzles(rows: int = 6) -> dict[str, torch.Tensor]:
    """Inputs of blanks (1) and digits (2 to 6), and answers of digits."""
    batch = tiny_batch(rows=rows, seq_len=9, vocab_size=6, identifiers=1)
    batch["inputs"] = batch["inputs"].clamp(max=5) + 1
    batch["labels"] = batch["labels"].clamp(min=1) + 1
    return batch


@pytest.mark.parametrize("changes", [{}, {"relaxation": 0.9}, {"fills": [3, 4, 6]}])
def test_renamed_digits_give_the_renamed_answer(changes):
    model, batch = dec_of(H_cycles=1, **changes).eval(), puzzles()
    digits = torch.tensor(model.config.digits)
    renamed = torch.arange(7)
    renamed[digits] = digits.roll(1)
    other = batch | {"inputs": renamed[batch["inputs"].long()].int()}
    results = []
    for puzzle in (batch, other):
        _, outputs = model(model.initial_carry(puzzle), puzzle)
        results.append(outputs)
    assert (results[1]["logits"] - results[0]["logits"]).abs().max() > 0.01
    assert torch.allclose(results[1]["logits"][..., renamed], results[0]["logits"], atol=1e-5)
    assert torch.allclose(results[1]["q_halt_logits"], results[0]["q_halt_logits"], atol=1e-5)


def test_only_digits_can_be_answers_and_the_loss_has_a_gradient_everywhere():
    model, batch = dec_of(), puzzles()
    head = ACTLossHead(model, loss_type="stablemax_cross_entropy").train()
    _, loss, _, outputs, _ = head(carry=head.initial_carry(batch), batch=batch, return_keys=("logits", "preds"))
    assert set(outputs["preds"].unique().tolist()) <= {2, 3, 4, 5, 6}
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_block_by_hand():
    """Each field and each cell in a loop."""
    torch.manual_seed(1)
    block, z = FieldBlock(8, 5, 2.0, glu_norm=False), torch.randn(2, 3, 5, 8)

    def normed(x: torch.Tensor, dim: int) -> torch.Tensor:
        return x / (x.square().mean(dim, keepdim=True) + 1e-5).sqrt()

    for b in range(2):
        fields = [normed(z[b, f] + block.mlp_t(z[b, f].T).T, 0) for f in range(3)]
        mean = [sum(fields[g] for g in range(3) if g != f) / 2 for f in range(3)]
        fields = [normed(fields[f] + mean[f] @ block.coupling.weight.T, 1) for f in range(3)]
        fields = [normed(fields[f] + block.mlp(fields[f]), 1) for f in range(3)]
        assert torch.allclose(block(z, None)[b], torch.stack(fields), atol=1e-5)


def test_some_rows_of_training_start_from_an_answer_with_errors():
    """`anchor_fraction` of them, and no cell of the others; of the wrong cells each has a digit of the answer."""
    model = TRM({**CONFIG, "batch_size": 2000, "pos_encodings": "none", "mlp_t": True, "anchor_fraction": 0.3,
                 "anchor_corruption": 0.4})
    batch = puzzles(2000)
    carry = model.initial_carry(batch)
    empty = model.inner.initial_latents()[0].expand(2000, 9, 16)
    y = model.train().refill(carry, batch).latents[0]
    table = model.inner.scale * model.inner.embed_tokens.embedding_weight
    found = torch.cdist(y, table).argmin(-1)
    anchored = torch.cdist(y, table).min(-1).values.max(-1).values < 1e-4
    assert anchored.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(y[~anchored], empty[~anchored])
    wrong = (found != batch["labels"])[anchored].float().mean(-1)
    # Evenly between none and 0.4 of the cells are drawn anew. One in nine takes its own digit, and others an equal one:
    # of the digits, one has a probability of 1/3 and four of 1/6.
    equal = 1 / 9 + 8 / 9 * (1 / 9 + 4 / 36)
    assert wrong.mean().item() == pytest.approx(0.2 * (1 - equal), abs=0.015) and wrong.max() < 0.8 and wrong.min() == 0
    for row in anchored.nonzero().flatten()[:50]:
        assert set(found[row].tolist()) <= set(batch["labels"][row].tolist())
    in_evaluation = model.eval().refill(carry, batch).latents[0]
    assert torch.equal(in_evaluation, empty)


def test_an_anchor_of_an_answer_without_errors_is_the_answer_as_a_question():
    model, batch = dec_of(anchor_fraction=1.0, initial_state_std=1.0).train(), puzzles()
    carry = replace(model.initial_carry(batch), noise_key=noise_keys(3, torch.arange(6)))
    y, z = model.refill(carry, batch).latents
    assert torch.equal(y, model.inner.embed(batch | {"inputs": batch["labels"]}))
    assert torch.equal(z, model.inner.initial_latents(carry.noise_key)[1])


@pytest.mark.parametrize("changes, message", [
    ({"mlp_t": False}, "mlp_t"), ({"puzzle_emb_ndim": 16}, "puzzle_emb_ndim"), ({"fills": [1, 2]}, "fills=.1, 2."),
    ({"fills": [2]}, "name two tokens or more"), ({"fills": [2, 7]}, "there is no token 7 among 7"),
    ({"latent_dim": 2}, "for puzzles of tokens"), ({"anchor_corruption": 0.1}, "has no effect with anchor_fraction=0")])
def test_what_it_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dec_of(**changes)


def test_its_config_has_the_published_settings():
    options = pretrain_config("arch=dec").arch.options
    assert {key: options[key] for key in ("hidden_size", "H_cycles", "L_cycles", "halt_max_steps", "relaxation",
                                          "noise_scale", "anchor_fraction", "anchor_corruption")} == {
        "hidden_size": 192, "H_cycles": 3, "L_cycles": 6, "halt_max_steps": 16, "relaxation": 0.95,
        "noise_scale": 0.01, "anchor_fraction": 0.25, "anchor_corruption": 0.2}
