"""LDT on digit fields: renamed digits give renamed deductions, a block by hand, sizes that its weights do not have."""
import pytest
import torch
import torch.nn.functional as F

from helpers import pretrain_config, tiny_metadata
from losses.head import LossHead
from models.recursive_reasoning.ldt_fields import LatticeFieldBlock
from test_ldt import batch_of
from utils.distributed import World


def head_of(*words: str, vocab_size: int = 6) -> LossHead:
    torch.manual_seed(0)
    config = pretrain_config("arch=ldt_fields", "arch.hidden_size=8", "arch.turns=[]", *words)
    return config.arch.build_head(tiny_metadata(vocab_size=vocab_size, seq_len=16), batch_size=4, world=World()).train()


@pytest.mark.parametrize("tokens", [[2, 3, 4, 5], [3, 4]])
def test_renamed_digits_are_kept_and_chosen_alike(tokens):
    """In all loops, of boards on which some candidates are gone; `tokens` are those that take part."""
    inner = head_of("arch.fills=[2,3,4,5]").model.inner
    torch.manual_seed(1)
    candidates = (inner.start(batch_of()["inputs"]) * (torch.rand(4, 16, 6) < 0.8)).float()
    names = torch.arange(6)
    names[tokens] = torch.tensor(tokens).roll(1)
    keys = torch.zeros(4, dtype=torch.int64)
    for own, renamed in zip(inner(candidates, keys, 0, 0.0, True), inner(candidates[..., names], keys, 0, 0.0, True)):
        same = own[..., names] if own.ndim == 4 else own
        assert torch.allclose(renamed, same, atol=1e-5)
        assert own.ndim < 4 or (renamed - own).abs().max() > 1e-2


def test_a_block_by_hand():
    """The mixing of cells digit by digit and channel by channel, and the mean of the other digits, in loops."""
    torch.manual_seed(0)
    block, z = LatticeFieldBlock(3, 5, 2.0), torch.randn(2, 4, 5, 3)
    with torch.no_grad():
        expected, y = z.clone(), block.mix_norm(z)
        for row in range(2):
            for digit in range(4):
                for channel in range(3):
                    both = block.mlp_t.gate_up_proj.weight @ y[row, digit, :, channel]
                    expected[row, digit, :, channel] += block.mlp_t.down_proj.weight @ (F.silu(both[:10]) * both[10:])
        y, mixed = block.mlp_norm(expected), expected.clone()
        for digit in range(4):
            others = y[:, [other for other in range(4) if other != digit]].mean(1)
            inner = F.gelu(torch.cat((y[:, digit], others), -1) @ block.up_proj.weight.T + block.up_proj.bias)
            expected[:, digit] = mixed[:, digit] + inner @ block.down_proj.weight.T + block.down_proj.bias
        assert torch.allclose(block(z.permute(2, 0, 1, 3)).permute(1, 2, 0, 3), expected, atol=1e-5)


def test_tokens_that_no_cell_is_filled_with_are_never_chosen():
    head, batch = head_of(), batch_of()
    _, outputs = head.model(head.model.initial_carry(batch), batch)
    assert (outputs["logits"][..., :2] < -1e3).all() and (outputs["keep_logits"][..., :2] == 0).all()


def test_its_weights_serve_any_number_of_digits():
    small, large = head_of(), head_of(vocab_size=9)
    assert small.model.config.fixed_sizes == ("seq_len",)
    large.load_state_dict(small.state_dict())


@pytest.mark.parametrize("words, message", [
    (["arch.relabel=true"], "arch.relabel=True"), (["arch.num_heads=2"], "arch.num_heads=2"),
    (["arch.pos_encodings=learned2d"], "arch.pos_encodings='learned2d'")])
def test_options_of_attention_and_of_renaming_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config("arch=ldt_fields", *words)


def test_a_field_tells_what_is_no_candidate_a_candidate_and_the_only_one():
    inner = head_of().model.inner
    candidates = torch.zeros(1, 16, 6)
    candidates[0, 0, 3], candidates[0, 1, [2, 5]] = 1, 1
    none, one, only = inner.embed_roles.embedding_weight
    h0 = inner.embed(candidates).permute(1, 2, 0, 3)
    assert h0.shape == (1, 4, 16, 8)
    for cell, roles in [(0, [none, only, none, none]), (1, [one, none, none, one]), (2, [none] * 4)]:
        assert torch.equal(h0[0, :, cell], torch.stack(roles))
