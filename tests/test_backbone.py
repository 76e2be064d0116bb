"""The embedded question, the heads, and the options that do not go together."""
import math

import pytest
import torch
from pydantic import ValidationError

from helpers import tiny_batch, tiny_config
from models.act import noise_keys
from models.recursive_reasoning.eqr import EqR
from models.recursive_reasoning.hrm import HRM
from models.recursive_reasoning.transformers_baseline import TransformersBaseline
from models.recursive_reasoning.trm import TRM, TRMConfig
from models.recursive_reasoning.trm_hier6 import TRMHier6
from models.recursive_reasoning.urm import URM


def backbone(**changes):
    torch.manual_seed(0)
    return TRM(tiny_config(**changes)).inner


@pytest.mark.parametrize("ndim, length, expected", [(8, 0, 1), (9, 0, 2), (16, 0, 2), (8, 3, 3), (0, 0, 0), (0, 2, 2)])
def test_the_prefix_is_as_long_as_asked_or_as_the_embedding_needs(ndim, length, expected):
    config = TRMConfig(**tiny_config(puzzle_emb_ndim=ndim, puzzle_emb_len=length))
    assert config.prefix_len == expected


def test_the_question_is_scaled_tokens_behind_the_zero_padded_puzzle_vector():
    inner, batch = backbone(puzzle_emb_ndim=12, puzzle_emb_len=3), tiny_batch()
    inner.puzzle_emb.weights.normal_()
    x = inner.embed(batch)
    assert x.shape == (4, 3 + 6, 8)
    assert torch.allclose(x[:, 3:], math.sqrt(8) * inner.embed_tokens.embedding_weight[batch["inputs"].long()])
    vector = x[:, :3].reshape(4, 24)
    assert torch.allclose(vector[:, :12], math.sqrt(8) * inner.puzzle_emb.weights[batch["puzzle_identifiers"].long()])
    assert not vector[:, 12:].any()


def test_positions_without_a_puzzle_vector_are_zero():
    inner = backbone(puzzle_emb_ndim=0, puzzle_emb_len=2)
    assert not hasattr(inner, "puzzle_emb")
    x = inner.embed(tiny_batch())
    assert x.shape == (4, 8, 8) and not x[:, :2].any()


def test_registers_are_learned_positions_shared_by_all_puzzles():
    inner, batch = backbone(puzzle_emb_ndim=0, puzzle_emb_len=0, register_tokens=40, register_std=2.0), tiny_batch()
    x = inner.embed(batch)
    assert x.shape == (4, 40 + 6, 8) and inner.P == 40 and torch.equal(x[0, :40], x[3, :40])
    assert x[0, :40].std().item() == pytest.approx(2, rel=0.15)
    x.sum().backward()
    assert inner.registers.embedding_weight.grad.all()
    assert not any(inner.registers.embedding_weight is matrix for matrix in inner.matrices())


def test_learned_positions_are_added_at_constant_variance():
    inner, batch = backbone(pos_encodings="learned"), tiny_batch()
    tokens = inner.embed_tokens.embedding_weight[batch["inputs"].long()]
    expected = math.sqrt(8) * (tokens + inner.embed_pos.embedding_weight[1:]) / math.sqrt(2)
    assert torch.allclose(inner.embed(batch)[:, 1:], expected)
    assert inner.embed_pos.embedding_weight.shape == (7, 8)


@pytest.mark.parametrize("positions, rotary", [("rope", True), ("none", False), ("learned", False)])
def test_only_rope_turns_queries_and_keys(positions, rotary):
    assert (backbone(pos_encodings=positions).rotary is not None) == rotary


def test_the_heads_leave_the_prefix_out_and_halting_starts_unlikely():
    inner, y = backbone(puzzle_emb_len=2), torch.randn(4, 8, 8)
    logits, q = inner.heads(y)
    assert torch.equal(logits, inner.lm_head(y[:, 2:]))
    assert torch.equal(q, torch.full((4, 2), -5.0))


def test_initial_latents_are_saved_and_not_trained():
    inner = backbone()
    assert {"H_init", "L_init"} <= set(inner.state_dict()) - set(dict(inner.named_parameters()))
    assert not torch.equal(inner.H_init, inner.L_init)


@pytest.mark.parametrize("changes, message", [
    ({"hidden_size": 6, "num_heads": 2}, "pos_encodings=rope turns pairs: hidden_size / num_heads = 3 must be even"),
    ({"mlp_t": True, "pos_encodings": "rope"}, "rope has no effect with mlp_t=True; use pos_encodings=none"),
    ({"puzzle_emb_ndim": 17, "puzzle_emb_len": 2}, "use puzzle_emb_len=0 for as many as needed"),
    ({"hidden_size": 2, "num_heads": 4}, "leaves no width for num_heads=4"),
    ({"register_tokens": 1}, "in place of a puzzle embedding; set puzzle_emb_ndim=0 and puzzle_emb_len=0"),
    ({"register_std": 0.5}, "register_std=0.5 has no effect with register_tokens=0"),
    ({"dropout": 1.0}, "dropout"),
    ({"H_cycles": 0}, "H_cycles"),
    ({"halt_exploration_prob": 1.5}, "halt_exploration_prob"),
    ({"pos_encodings": "sinus"}, "pos_encodings"),
    ({"hiden_size": 8}, "hiden_size"),
    ({"hidden_size": "8"}, "hidden_size"),
])
def test_options_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValidationError, match=message):
        TRM(tiny_config(**changes))


NOISY = {"noise_scale": 0.1, "dropout": 0.1, "initial_state_std": 1.0, "relaxation": 0.9}


@pytest.mark.parametrize("model, changes, compiled", [
    (TRM, {"L_cycles": 4}, False), (TRM, {"mlp_t": True, "pos_encodings": "none"}, False), (TRMHier6, {}, False),
    (URM, {}, False), (EqR, {}, False), (HRM, {"H_layers": 1}, False),
    (TransformersBaseline, {"H_cycles": 1, "H_layers": 3}, False), (TRM, {}, True)])
def test_a_pass_that_is_computed_again_in_backward_saves_less_and_has_the_same_gradients(model, changes, compiled):
    found = {}
    for again in (False, True):
        torch.manual_seed(0)
        inner, batch = model(tiny_config(checkpoint_passes=again, **NOISY, **changes)).inner.train(), tiny_batch()
        if compiled:
            torch.compiler.reset()
            inner.compile(backend="aot_eager", fullgraph=True, dynamic=False)
        keys, saved = noise_keys(3, torch.arange(4)), []

        def keep(tensor: torch.Tensor, saved: list = saved) -> torch.Tensor:
            saved.append(tensor)
            return tensor

        x = inner.embed(batch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _, logits, _ = inner(inner.initial_latents(keys), x, keys)
        logits.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in inner.parameters() if p.grad is not None])
        found[again] = logits.detach(), gradients, len({tensor.data_ptr(): 0 for tensor in saved})
    for own, other in zip(found[True][:2], found[False][:2]):
        assert torch.allclose(own, other, rtol=1e-6, atol=1e-6 * other.abs().max().item())
    assert compiled or found[True][2] < 0.5 * found[False][2]
