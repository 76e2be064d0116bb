"""The parts of the network against their formulas, written out."""
import math

import pytest
import torch
import torch.nn.functional as F

from models.layers import (
    Attention,
    Block,
    ConvSwiGLU,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    RotaryPositions,
    SwiGLU,
    board_positions,
    rms_norm,
    rows_to_add,
    truncated_normal_,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_truncated_normal_has_the_deviation_asked_for_and_no_tails():
    torch.manual_seed(0)
    x = truncated_normal_(torch.empty(200_000), std=0.3)
    assert x.std().item() == pytest.approx(0.3, rel=0.01)
    assert x.mean().item() == pytest.approx(0, abs=0.003)
    assert x.abs().max() <= 2 * 0.3 / 0.8796 + 1e-3  # cut at two deviations of the uncut normal


def test_weights_keep_the_variance_of_their_input():
    torch.manual_seed(0)
    layer = Linear(400, 300, bias=True)
    assert layer.weight.shape == (300, 400) and not layer.bias.any()
    assert layer(random(500, 400, seed=1)).std().item() == pytest.approx(1, rel=0.05)


def test_parameters_stay_float32_and_activations_keep_their_dtype():
    x = random(3, 5, 16).bfloat16()
    rotary = RotaryPositions(5, 8)
    assert rotary.cos.dtype == torch.float32
    for module, arguments in ((Linear(16, 4, bias=True), (x,)), (SwiGLU(16, 2), (x,)), (Attention(16, 2), (x, rotary)),
                              (Embedding(7, 16, 0.1, torch.bfloat16), (torch.arange(5),))):
        assert module(*arguments).dtype == torch.bfloat16
        assert all(p.dtype == torch.float32 for p in module.parameters())
    assert rms_norm(x).dtype == torch.bfloat16


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    x = random(4, 9) * 7
    assert torch.allclose(rms_norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert torch.isfinite(rms_norm(torch.zeros(2, 9))).all()


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_only():
    rotary = RotaryPositions(12, 8)
    q, k = random(8, seed=1), random(8, seed=2)
    turned_q, turned_k = (rotary.rotate(v.expand(1, 1, 12, 8))[0, 0] for v in (q, k))
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(12), atol=1e-5)
    assert torch.allclose(turned_q[0], q)
    products = turned_q @ turned_k.T
    for distance in (-5, 0, 3):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert not torch.allclose(products[0, 0], products[0, 5], atol=1e-2)


def test_rotation_angles_fall_geometrically():
    rotary = RotaryPositions(3, 4)
    assert torch.allclose(rotary.cos[2], torch.tensor([2.0, 0.02, 2.0, 0.02]).cos())


@pytest.mark.parametrize("rotated", [True, False])
def test_attention_is_the_softmax_of_scaled_products(rotated):
    torch.manual_seed(0)
    attention, x = Attention(12, 3), random(2, 5, 12)
    rotary = RotaryPositions(5, 4) if rotated else None
    expected = []
    for row in x:
        q, k, v = F.linear(row, attention.qkv_proj.weight).view(5, 3, 3, 4).unbind(1)  # each (positions, heads, width)
        heads = []
        for h in range(3):
            queries, keys = ((rotary.rotate(t[None, None, :, h])[0, 0] if rotated else t[:, h]) for t in (q, k))
            heads.append(F.softmax(queries @ keys.T / math.sqrt(4), dim=-1) @ v[:, h])
        expected.append(F.linear(torch.cat(heads, dim=-1), attention.o_proj.weight))
    assert torch.allclose(attention(x, rotary), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("width, expansion, inner", [(512, 4, 1536), (64, 4, 256), (97, 4, 512), (128, 4, 512)])
def test_the_inner_width_of_swiglu_is_rounded_up_to_256(width, expansion, inner):
    module, x = SwiGLU(width, expansion), random(2, width)
    assert module.gate_up_proj.weight.shape == (2 * inner, width)
    gate, up = (F.linear(x, w) for w in module.gate_up_proj.weight.split(inner))
    assert torch.allclose(module(x), F.linear(F.silu(gate) * up, module.down_proj.weight), atol=1e-5)
    normed = SwiGLU(width, expansion, normed=True)
    normed.load_state_dict(module.state_dict())
    product = F.rms_norm(gate * up, (inner,), eps=1e-5)
    assert torch.allclose(normed(x), F.linear(torch.sigmoid(gate) * product, module.down_proj.weight), atol=1e-5)


@pytest.mark.parametrize("mlp_t", [False, True])
def test_a_block_normalises_after_each_sum_and_mixes_positions(mlp_t):
    torch.manual_seed(0)
    block, x = Block(width=16, positions=6, heads=2, expansion=2, mlp_t=mlp_t), random(3, 6, 16)
    y = block(x, None)
    assert torch.allclose(y.square().mean(-1), torch.ones(3, 6), atol=1e-3)
    changed = x.clone()
    changed[:, 5] += 1
    assert (block(changed, None) - y)[:, 0].abs().max() > 1e-4


def test_without_positions_attention_does_not_see_order_and_the_mlp_along_the_sequence_does():
    torch.manual_seed(0)
    x, order = random(1, 6, 16), torch.tensor([3, 1, 5, 0, 2, 4])
    for mlp_t in (False, True):
        block = Block(width=16, positions=6, heads=2, expansion=2, mlp_t=mlp_t)
        follows = torch.allclose(block(x[:, order], None), block(x, None)[:, order], atol=1e-5)
        assert follows == (not mlp_t)


def test_on_a_board_half_a_heads_width_turns_by_the_row_and_half_by_the_column():
    places = board_positions(prefix=2, cells=9)
    assert places.tolist() == [[0, 0], [1, 1]] + [[2 + row, 2 + column] for row in range(3) for column in range(3)]
    rotary, line = RotaryPositions(places, 8), RotaryPositions(5, 4)
    for angles, expected in ((rotary.cos, line.cos), (rotary.sin, line.sin)):
        # Of eight numbers, the pairs (0, 4) and (1, 5) turn by the row, (2, 6) and (3, 7) by the column.
        assert torch.equal(angles[:, [0, 1, 4, 5]], expected[places[:, 0]])
        assert torch.equal(angles[:, [2, 3, 6, 7]], expected[places[:, 1]])
    q, k = random(8, seed=1), random(8, seed=2)
    turned_q, turned_k = (rotary.rotate(v.expand(1, 1, 11, 8))[0, 0, 2:].view(3, 3, 8) for v in (q, k))
    down_left = torch.einsum("ijd,ijd->ij", turned_q[:2, 1:], turned_k[1:, :2])
    assert torch.allclose(down_left, down_left[0, 0].expand(2, 2), atol=1e-4)  # one offset, one product
    with pytest.raises(ValueError, match="needs square puzzles, and these have 12 cells; use pos_encodings=rope"):
        board_positions(0, 12)


def test_the_short_convolution_of_swiglu_is_depthwise_and_causal():
    torch.manual_seed(0)
    module, x = ConvSwiGLU(8, 2), random(3, 5, 8)
    torch.nn.init.normal_(module.conv_bias)
    gate, up = F.linear(x, module.gate_up_proj.weight).chunk(2, dim=-1)
    h = F.pad((F.silu(gate) * up).transpose(1, 2), (1, 0))  # (B, inner, 1 + positions)
    convolved = F.conv1d(h, module.conv_weight.T[:, None], module.conv_bias, groups=h.shape[1]).transpose(1, 2)
    assert torch.allclose(module(x), F.linear(F.silu(convolved), module.down_proj.weight), atol=1e-5)


def result_and_gradients(module: torch.nn.Module, x: torch.Tensor, apply) -> list[torch.Tensor]:
    """What `apply` makes of x by the module, and the gradients of x and of its weights."""
    own = x.clone().requires_grad_()
    y = apply(own)
    return [y, *torch.autograd.grad((y * random(*y.shape, seed=1)).sum(), [own, *module.parameters()])]


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("positions", [5, 8, 13])
def test_along_the_sequence_a_swiglu_is_the_same_on_the_transposed_latent_with_or_without_rows_of_zeros(
        positions, normed, monkeypatch):
    torch.manual_seed(0)
    module, x = SwiGLU(positions, 2, normed), random(3, positions, 12)
    expected = result_and_gradients(module, x, lambda own: module(own.mT).mT)
    for zeros in (0, -positions % 8):  # as on a CPU, and as on tensor cores
        monkeypatch.setattr("models.layers.rows_to_add", lambda rows, *_, zeros=zeros: zeros * (rows == positions))
        for got, want in zip(result_and_gradients(module, x, module.along_sequence), expected):
            assert got.shape == want.shape and torch.allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("width", [5, 8])
def test_along_the_first_dimension_a_swiglu_is_the_same_on_columns_however_its_weights_are_stored(width, normed,
                                                                                                   monkeypatch):
    torch.manual_seed(0)
    module, x = SwiGLU(width, 3, normed, rounded=1), random(width, 12)
    expected = result_and_gradients(module, x, lambda own: module(own.T).T)
    for rows in (1, 8):  # as on a CPU, and as on tensor cores
        monkeypatch.setattr("models.layers.rows_to_add", lambda count, *_, rows=rows: -count % rows)
        for got, want in zip(result_and_gradients(module, x, module.along_first), expected):
            assert got.shape == want.shape and torch.allclose(got, want, atol=2e-6)


def test_rows_of_zeros_are_added_for_tensor_cores_only():
    cuda = torch.device("cuda")
    assert [rows_to_add(rows, cuda, torch.bfloat16) for rows in (96, 97, 103, 104)] == [0, 7, 1, 0]
    assert rows_to_add(97, cuda, torch.float32) == rows_to_add(97, torch.device("cpu"), torch.bfloat16) == 0
def test_layer_norm_is_pytorchs_and_keeps_the_dtype():
    torch.manual_seed(0)
    norm, x = LayerNorm(16), random(4, 5, 16)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    expected = F.layer_norm(x, (16,), norm.weight, norm.bias)
    assert torch.equal(norm(x), expected)
    low = norm(x.bfloat16())
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), expected, atol=0.05)


def test_dropout_keeps_the_mean_and_draws_by_row_and_place():
    x = torch.ones(2000, 7, 9)
    drop = Dropout(torch.arange(2000), 0.2)
    dropped = drop(x, 0)
    assert set(dropped.unique().tolist()) == {0.0, 1.25} and dropped.mean().item() == pytest.approx(1, abs=5e-3)
    assert torch.equal(Dropout(torch.arange(5, 9), 0.2)(x[5:9], 0), dropped[5:9])
    assert not torch.equal(drop(x, 1), dropped)


@pytest.mark.parametrize("mlp_t", [False, True])
def test_dropout_falls_on_what_each_part_of_a_block_adds(mlp_t):
    torch.manual_seed(0)
    block, x = Block(16, 5, 2, 4, mlp_t), random(3, 5, 16)
    nothing = Dropout(torch.arange(3), 1 - 2**-17)  # so likely that it drops all
    assert torch.allclose(block(x, None, nothing), rms_norm(rms_norm(x.mT).mT if mlp_t else rms_norm(x)), atol=1e-6)
