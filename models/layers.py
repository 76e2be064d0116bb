"""The layers that every architecture is built from: linear, norm, rotary positions, attention, SwiGLU, and the block.

Shapes, here and everywhere: B batch, L sequence length, P positions of the puzzle embedding, D hidden width, V
vocabulary size. A latent is (B, P+L, D). Weights stay in float32 and are cast to the dtype of the activations at each
use, so that the optimizer always works in full precision.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.act import kept

NORM_EPS = 1e-5
ROPE_BASE = 10_000.0
ALIGNED_ROWS = 8  # on tensor cores; 1 switches the rows of zeros off
STD_OF_TRUNCATED_NORMAL = 0.8796256610342398  # standard deviation of N(0, 1) cut at ±2


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill a tensor with a normal distribution cut at two of its deviations, whose deviation after the cut is `std`."""
    wide = std / STD_OF_TRUNCATED_NORMAL
    return nn.init.trunc_normal_(tensor, std=wide, a=-2 * wide, b=2 * wide)


def rms_norm(x: Tensor, dim: int = -1) -> Tensor:
    """Divide by the root mean square over a dimension, in float32, without a learned weight."""
    # Not F.rms_norm, which rounds in another order than the published code: an untrained recursion amplifies such a
    # difference to 1e-2 within four supervision steps.
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + NORM_EPS)).to(x.dtype)


def rows_to_add(rows: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many rows of zeros a matrix product that runs along `rows` gets, so that it is fast.

    Tensor cores read 16 bytes at a time. Where a row of the weights is no multiple of that, a product runs at a third
    of its speed or less (H100: 78 TFLOP/s along 97 positions, 234 along 96).
    """
    on_tensor_cores = device.type == "cuda" and dtype.itemsize == 2
    return -rows % ALIGNED_ROWS if on_tensor_cores else 0


class LayerNorm(nn.LayerNorm):
    """Layer norm with weight and bias, which are stored in float32 and cast at each use."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


@dataclass(frozen=True)
class Dropout:
    """Dropout (arXiv 1207.0580) that is a function of the rows' keys, and so of neither batch, ranks nor a resume."""

    # (B,) int64, the key of each row in this pass
    keys: Tensor
    # probability that a value is dropped
    share: float

    def __call__(self, x: Tensor, place: int | Tensor) -> Tensor:
        """Values x (B, …) with some set to 0 and the others divided by 1 − share. `place` numbers the draws of a pass,
        of all rows or (B,) of each."""
        return x * kept(self.keys, place, self.share, *x.shape[1:]) / (1 - self.share)


def dropped(x: Tensor, drop: Dropout | None, place: int | Tensor) -> Tensor:
    return x if drop is None else drop(x, place)


class Linear(nn.Module):
    """`x @ weight.T + bias`, with weight (out, in) drawn LeCun-normal and bias zero at first."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        initial = truncated_normal_(torch.empty(out_features, in_features), std=in_features**-0.5)
        self.weight = nn.Parameter(initial)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    # of x (…, in) and the weight, in float8 (models/float8.py); for training's passes without gradient
    product_without_gradient: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.product_without_gradient and self.training and not torch.is_grad_enabled():
            return self.product_without_gradient(x, self.weight)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def along_first(self, x: Tensor) -> Tensor:
        """`weight @ x`, from (in, N) to (out, N): the map runs along the first dimension. The bias is not used."""
        weight = self.weight.to(x.dtype)
        if not rows_to_add(weight.shape[1], x.device, x.dtype):
            return weight @ x
        # Rows of 81 numbers are no multiple of 16 bytes. The same weight with its columns stored as rows, which have
        # `out` numbers and zeros to fill them up, is.
        turned = F.pad(weight.T, (0, rows_to_add(len(weight), x.device, x.dtype)))
        return (turned.T @ x)[:len(weight)]

    def along_sequence(self, x: Tensor) -> Tensor:
        """`weight @ x`, from (B, in, D) to (B, out, D): the map runs along the sequence, with no transposed copy of x.

        The bias is not used.
        """
        weight, zeros = self.weight.to(x.dtype), rows_to_add(x.shape[1], x.device, x.dtype)
        if zeros:
            weight, x = F.pad(weight, (0, zeros)), F.pad(x, (0, 0, 0, zeros))
        # Not torch.matmul, which would transpose and copy x where the weight has a gradient.
        return torch.bmm(weight.expand(len(x), -1, -1), x)


class OuterLinear(Linear):
    """A linear map at an end of the network: from floats to latents, or from latents to logits or predictions.

    It is a class of its own so that optimizers can tell it from the matrices in between (`Backbone.matrices`).
    """


class Embedding(nn.Module):
    """A dense table (rows, D), looked up in the forward dtype."""

    def __init__(self, rows: int, width: int, std: float, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.embedding_weight = nn.Parameter(truncated_normal_(torch.empty(rows, width), std=std))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding_weight.to(self.dtype))


def board_positions(prefix: int, cells: int) -> Tensor:
    """Row and column of each position, (prefix + cells, 2), for a square board.

    The prefix positions have the places (0, 0), (1, 1), … on the diagonal, and the board begins at (prefix, prefix).
    Raises ValueError for a board that is not square.
    """
    side = math.isqrt(cells)
    if side**2 != cells:
        raise ValueError(f"pos_encodings=rope2d needs square puzzles, and these have {cells} "
                         "cells; use pos_encodings=rope")
    before, board = torch.arange(prefix), prefix + torch.arange(side)
    return torch.cat((before.expand(2, -1).T, torch.cartesian_prod(board, board)))


class RotaryPositions(nn.Module):
    """Rotary position encoding (arXiv 2104.09864): cosines and sines (positions, head width), always float32.

    `positions` is the number of positions in a line, or the coordinates (positions, axes) of each position. Each axis
    then rotates an equal part of the head's width. `base`: how far apart the slowest and the fastest rotation are.
    """

    def __init__(self, positions: int | Tensor, head_width: int, base: float = ROPE_BASE):
        super().__init__()
        places = torch.arange(positions)[:, None] if isinstance(positions, int) else positions
        width = head_width // places.shape[1]
        frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        # (positions, axes, width / 2) -> (positions, head width / 2), repeated for the second half of the rotated pairs
        angles = (places.float()[:, :, None] * frequencies).flatten(1).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (B, heads, positions, head width)."""
        first, second = x.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
        return (x * self.cos + quarter_turn * self.sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention. With `causal`, no position sees later ones. `head_width`: by default width / heads."""

    def __init__(self, width: int, heads: int, causal: bool = False, bias: bool = False,
                 head_width: int | None = None):
        super().__init__()
        self.heads, self.head_width, self.causal = heads, head_width or width // heads, causal
        self.qkv_proj = Linear(width, 3 * heads * self.head_width, bias)
        self.o_proj = Linear(heads * self.head_width, width, bias)

    def forward(self, x: Tensor, rotary: RotaryPositions | None) -> Tensor:
        B, positions, _ = x.shape
        # (B, positions, 3·heads·width) -> three of (B, heads, positions, head width)
        q, k, v = self.qkv_proj(x).view(B, positions, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotary.rotate(q), rotary.rotate(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, positions, -1))


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) · up(x))` (arXiv 2002.05202), of inner width 2/3·expansion·width, rounded up to a
    multiple of `rounded`.

    With `normed` it is `down(sigmoid(gate(x)) · rms_norm(gate(x) · up(x)))`, which Muon needs at high learning rates
    (arXiv 2601.19085).
    """

    kernel: Callable[..., Tensor] | None = None  # computes `part` in one go (models/kernels.py)

    def __init__(self, width: int, expansion: float, normed: bool = False, rounded: int = 256):
        super().__init__()
        self.normed = normed
        inner = -(-round(expansion * width * 2 / 3) // rounded) * rounded
        self.gate_up_proj = Linear(width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def gated(self, gate_up: Tensor, dim: int = -1) -> Tensor:
        gate, up = gate_up.chunk(2, dim)
        if self.normed:
            return gate.sigmoid() * rms_norm(gate * up, dim)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.silu(gate) * up
        return F.silu(gate, inplace=True).mul_(up)  # in the memory of the gate, which nothing else reads

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gated(self.gate_up_proj(x)))

    def along_first(self, x: Tensor) -> Tensor:
        """The same along the first dimension of x (width, N)."""
        return self.down_proj.along_first(self.gated(self.gate_up_proj.along_first(x), dim=0))

    def along_sequence(self, x: Tensor) -> Tensor:
        """The same along the second dimension of x (B, width, D)."""
        return self.down_proj.along_sequence(self.gated(self.gate_up_proj.along_sequence(x), dim=1))

    def part(self, x: Tensor, dim: int = 2, drop: Dropout | None = None, place: int = 0) -> Tensor:
        """The residual part of a block: `rms_norm(x + SwiGLU(x))` along a dimension of x (B, P+L, D)."""
        if self.kernel is not None and drop is None:
            return self.kernel(x, self.gate_up_proj.weight.to(x.dtype), self.down_proj.weight.to(x.dtype), self.normed)
        return rms_norm(x + dropped(self(x) if dim == 2 else self.along_sequence(x), drop, place), dim)


class ConvSwiGLU(SwiGLU):
    """SwiGLU with a convolution over two positions before the down projection (arXiv 2512.14693):
    `down(silu(w₀·h[t−1] + w₁·h[t] + b))` for each inner channel h, with zeros before the first position."""

    def __init__(self, width: int, expansion: float, normed: bool = False):
        super().__init__(width, expansion, normed)
        inner = self.down_proj.weight.shape[1]
        self.conv_weight = nn.Parameter(truncated_normal_(torch.empty(2, inner), std=2**-0.5))
        self.conv_bias = nn.Parameter(torch.zeros(inner))

    def forward(self, x: Tensor) -> Tensor:
        h = self.gated(self.gate_up_proj(x))  # (B, positions, inner)
        earlier, now = self.conv_weight.to(x.dtype)
        before = F.pad(h[:, :-1], (0, 0, 1, 0))
        return self.down_proj(F.silu(earlier * before + now * h + self.conv_bias.to(x.dtype)))


class Block(nn.Module):
    """Two residual parts, each normalised after the sum (post-norm): one across positions, then one within each.

    Across positions works attention or, with `mlp_t`, a SwiGLU along the sequence of `positions` = P+L entries; its
    norm also runs along the sequence. `short_conv` makes the second part a `ConvSwiGLU`.
    """

    def __init__(self, width: int, positions: int, heads: int, expansion: float, mlp_t: bool,
                 short_conv: bool = False, causal: bool = False, glu_norm: bool = False):
        super().__init__()
        if mlp_t:
            self.mlp_t = SwiGLU(positions, expansion, glu_norm)
        else:
            self.self_attn = Attention(width, heads, causal)
        self.mixes_by_mlp = mlp_t
        self.mlp = (ConvSwiGLU if short_conv else SwiGLU)(width, expansion, glu_norm)

    def forward(self, x: Tensor, rotary: RotaryPositions | None, drop: Dropout | None = None,
                number: int = 0) -> Tensor:
        """`drop`: dropout of what each part adds; `number`: of this block in its network."""
        if self.mixes_by_mlp:
            x = self.mlp_t.part(x, 1, drop, 2 * number)
        else:
            x = rms_norm(x + dropped(self.self_attn(x, rotary), drop, 2 * number))
        return self.mlp.part(x, 2, drop, 2 * number + 1)


class PreNormBlock(nn.Module):
    """Two residual parts, each of which sees its input normalised (pre-norm): attention across positions, then
    `down(activation(up(x)))` within each. Norms have weights, and all linear maps biases."""

    def __init__(self, width: int, heads: int, expansion: float, activation: Callable[[Tensor], Tensor] = F.gelu):
        super().__init__()
        self.activation = activation
        self.attn_norm, self.self_attn = LayerNorm(width), Attention(width, heads, bias=True)
        inner = round(expansion * width)
        self.mlp_norm = LayerNorm(width)
        self.up_proj, self.down_proj = Linear(width, inner, bias=True), Linear(inner, width, bias=True)

    def forward(self, x: Tensor, rotary: RotaryPositions | None, drop: Dropout | None = None,
                number: int | Tensor = 0) -> Tensor:
        """`drop`: dropout of what each part adds; `number`: of this block in its network, one or (B,)."""
        x = x + dropped(self.self_attn(self.attn_norm(x), rotary), drop, 2 * number)
        return x + dropped(self.down_proj(self.activation(self.up_proj(self.mlp_norm(x)))), drop, 2 * number + 1)


def matrices_of(network: nn.Module) -> list[Tensor]:
    """Weight matrices of the linear maps of a network between its embeddings and heads, as they are stored.

    Muon trains these alone, and weight decay may be restricted to them. Embeddings, heads, biases and short
    convolutions are not included.
    """
    return [module.weight for module in network.modules()
            if isinstance(module, (Linear, nn.Linear)) and not isinstance(module, OuterLinear)]
