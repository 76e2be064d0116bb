"""Kernels for GPUs, in Triton: the residual parts of a block that hold a SwiGLU, with little traffic to memory.

    out = rms_norm(x + down @ (silu(gate) · up)),   gate, up = the two halves of gate_up @ x

`swiglu_part` computes it along the last dimension of x (B, P+L, D), and `mlp_t_part` along the second. PyTorch writes
gate and up, which are 2·N wide (N: inner width), reads them, writes their product, and reads that. With batch 384, 97
positions, D 512 and bfloat16, what a part moves to and from memory beside its input and output (38 MB each):

| | plain | here | saved for the gradient: plain | here |
| --- | --- | --- | --- | --- |
| `swiglu_part`, N 1536 | 690 MB | 230 MB: the product, once out, once in | 380 MB | 38 MB |
| `mlp_t_part`, N 512 | 1,240 MB | 0: the product stays on the chip | 640 MB | 38 MB |

- `swiglu_part`: one kernel multiplies by gate and up at once, and writes their product. The rest is PyTorch's.
- `mlp_t_part`: each program holds all positions of some channels of one puzzle, and goes over N in chunks.
- Backward computes gate and up again from x. What is saved is x and the output, which the next part saves as its x.
- With `normed` (`glu_norm`) the product is sigmoid(gate)·rms_norm(gate·up) = r·silu(gate)·up, where the scale r is one
  number for all of N. So r is multiplied after the product with `down`, which need not wait for it.

Inputs are in the dtype of the activations, sums in float32. Each kernel is a custom operator of PyTorch, so that
torch.compile takes it as one node. Without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1), slowly: that is
how tests/test_kernels.py compares them with the plain path. Import this file only where kernels are asked for.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

EPS = tl.constexpr(1e-5)  # models.layers.NORM_EPS
INTERPRETED = triton.knobs.runtime.interpret
MOST_POSITIONS = 128  # of `mlp_t_part`, whose programs hold all positions in registers


def _tuned(configs: list[tuple[dict[str, int], int, int]], small: dict[str, int], key: list[str]) -> Callable:
    """Times these (block sizes, warps, stages) once for each `key`, and keeps the best in Triton's cache on disk."""
    choices = [(small, 1, 1)] if INTERPRETED else configs
    return triton.autotune([triton.Config(blocks, num_warps=warps, num_stages=stages)
                            for blocks, warps, stages in choices], key=key, cache_results=True)


@triton.jit
def _gate_and_up(x_ptr, w_ptr, rows, columns, M, N: tl.constexpr, K: tl.constexpr,
                 BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """gate and up (BM, BN) in float32, of some rows of x (M, K) and some columns of N; w is (2·N, K)."""
    depth = tl.arange(0, BK)
    inside = rows < M
    x_ptrs = x_ptr + rows[:, None].to(tl.int64) * K + depth[None, :]
    w_ptrs = w_ptr + columns[None, :] * K + depth[:, None]
    gate = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        if K % BK == 0:
            x = tl.load(x_ptrs + k, mask=inside[:, None], other=0.0)
            w_gate = tl.load(w_ptrs + k)
            w_up = tl.load(w_ptrs + N * K + k)
        else:
            left = depth < K - k
            x = tl.load(x_ptrs + k, mask=inside[:, None] & left[None, :], other=0.0)
            w_gate = tl.load(w_ptrs + k, mask=left[:, None], other=0.0)
            w_up = tl.load(w_ptrs + N * K + k, mask=left[:, None], other=0.0)
        gate = tl.dot(x, w_gate, gate)
        up = tl.dot(x, w_up, up)
    return gate, up


@triton.jit
def _product_gradients(gate, up, grad, norm_factor, NORMED: tl.constexpr):
    """Gradients of gate and up, from `grad` of h = silu(gate)·up. `norm_factor`: what gate·up is multiplied by to give
    its gradient through the norm."""
    sigmoid = tl.sigmoid(gate)
    grad_up = grad * gate * sigmoid
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    if NORMED:
        grad_product = norm_factor * gate * up
        grad_gate += grad_product * up
        grad_up += grad_product * gate
    return grad_gate, grad_up


@_tuned([({"BM": 128, "BN": 128, "BK": 64}, 8, 3), ({"BM": 128, "BN": 64, "BK": 64}, 4, 3),
         ({"BM": 128, "BN": 64, "BK": 64}, 8, 4)],
        small={"BM": 16, "BN": 128, "BK": 16}, key=["M", "N", "K"])
@triton.jit
def _swiglu_kernel(x_ptr, w_ptr, h_ptr, squares_ptr, M, N: tl.constexpr, K: tl.constexpr, NORMED: tl.constexpr,
                   BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """h (M, N), and with NORMED the squares of gate·up, (N / 64, M), summed over each BN columns: no atomic sums, whose
    order and so whose rounding would change from run to run. Neighbours in the grid share rows of x."""
    rows = tl.program_id(0) // (N // BN) * BM + tl.arange(0, BM)
    columns = tl.program_id(0) % (N // BN) * BN + tl.arange(0, BN)
    gate, up = _gate_and_up(x_ptr, w_ptr, rows, columns, M, N, K, BM, BN, BK)
    product = gate * up
    inside = rows < M
    if NORMED:
        part = tl.program_id(0) % (N // BN) * (BN // 64)
        sums = tl.sum(product * product, 1)
        for place in tl.static_range(BN // 64):  # all N / 64 rows: several BN are tuned on one piece of memory
            of_place = squares_ptr + (part + place).to(tl.int64) * M + rows
            tl.store(of_place, sums if place == 0 else tl.zeros_like(sums), mask=inside)
    h = product * tl.sigmoid(gate)
    at = rows[:, None].to(tl.int64) * N + columns[None, :]
    tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=inside[:, None])


@_tuned([({"BM": 128, "BN": 64, "BK": 64}, 8, 3), ({"BM": 64, "BN": 64, "BK": 64}, 4, 3)],
        small={"BM": 16, "BN": 128, "BK": 16}, key=["M", "N", "K"])
@triton.jit
def _swiglu_backward_kernel(x_ptr, w_ptr, grad_ptr, scale_ptr, factor_ptr, h_ptr, grads_ptr, M, N: tl.constexpr,
                            K: tl.constexpr, NORMED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                            BK: tl.constexpr):
    """h (M, N) again, and the gradients (M, 2·N) of gate and up, from `grad` (M, N) of h."""
    rows = tl.program_id(0) // (N // BN) * BM + tl.arange(0, BM)
    columns = tl.program_id(0) % (N // BN) * BN + tl.arange(0, BN)
    gate, up = _gate_and_up(x_ptr, w_ptr, rows, columns, M, N, K, BM, BN, BK)
    inside = rows < M
    at = rows[:, None].to(tl.int64) * N + columns[None, :]
    grad = tl.load(grad_ptr + at, mask=inside[:, None], other=0.0).to(tl.float32)
    h = gate * tl.sigmoid(gate) * up
    factor = 0.0
    if NORMED:
        scale = tl.load(scale_ptr + rows, mask=inside, other=0.0)[:, None]
        factor = tl.load(factor_ptr + rows, mask=inside, other=0.0)[:, None]
        h *= scale
        grad *= scale
    grad_gate, grad_up = _product_gradients(gate, up, grad, factor, NORMED)
    tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=inside[:, None])
    both = grads_ptr + rows[:, None].to(tl.int64) * 2 * N + columns[None, :]
    tl.store(both, grad_gate.to(grads_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(both + N, grad_up.to(grads_ptr.dtype.element_ty), mask=inside[:, None])


@torch.library.custom_op("trm::swiglu", mutates_args=())
def _swiglu(x: Tensor, w: Tensor, normed: bool) -> tuple[Tensor, Tensor]:
    """silu(gate)·up (M, N) of x (M, K) and w (2·N, K), and the squares of gate·up summed over N, (M,) float32 (zeros
    unless `normed`)."""
    (M, K), N = x.shape, len(w) // 2
    h, squares = x.new_empty(M, N), x.new_zeros(N // 64, M, dtype=torch.float32)
    _swiglu_kernel[lambda m: (triton.cdiv(M, m["BM"]) * (N // m["BN"]),)](x, w, h, squares, M, N, K, normed)
    return h, squares.sum(0)


@_swiglu.register_fake
def _(x, w, normed):
    return x.new_empty(len(x), len(w) // 2), x.new_empty(len(x), dtype=torch.float32)


@torch.library.custom_op("trm::swiglu_backward", mutates_args=())
def _swiglu_backward(x: Tensor, w: Tensor, grad: Tensor, scale: Tensor, factor: Tensor,
                     normed: bool) -> tuple[Tensor, Tensor]:
    """h (M, N) and the gradients (M, 2·N) of gate and up. `scale`, `factor` (M,): see `_norm_factor`."""
    (M, K), N = x.shape, len(w) // 2
    h, grads = x.new_empty(M, N), x.new_empty(M, 2 * N)
    _swiglu_backward_kernel[lambda m: (triton.cdiv(M, m["BM"]) * (N // m["BN"]),)](
        x, w, grad, scale, factor, h, grads, M, N, K, normed)
    return h, grads


@_swiglu_backward.register_fake
def _(x, w, grad, scale, factor, normed):
    return x.new_empty(len(x), len(w) // 2), x.new_empty(len(x), len(w))


class _SwiGLUPart(torch.autograd.Function):
    """`swiglu_part` of x (M, D)."""

    @staticmethod
    def forward(ctx, x: Tensor, gate_up: Tensor, down: Tensor, normed: bool) -> Tensor:
        h, squares = _swiglu(x, gate_up, normed)
        y = F.linear(h, down).float()
        scale = torch.rsqrt(squares / h.shape[1] + EPS.value)
        z = x.float() + (y * scale[:, None] if normed else y)
        out_scale = torch.rsqrt(z.square().mean(1) + EPS.value)
        # A copy, since compiled by PyTorch 2.11 a result that is also saved as it was computed has no gradient.
        out = (z * out_scale[:, None]).to(x.dtype, copy=True)
        ctx.save_for_backward(x, gate_up, down, out, out_scale, scale)
        ctx.normed = normed
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        x, gate_up, down, out, out_scale, scale = ctx.saved_tensors
        wide, along = grad_out.float(), (grad_out.float() * out.float()).sum(1)
        grad_z = out_scale[:, None] * (wide - out.float() * (along / x.shape[1])[:, None])
        factor = _norm_factor(along * EPS.value * out_scale**2 - (grad_z * x.float()).sum(1), scale, down.shape[1])
        grad_y = grad_z.to(x.dtype)
        h, grads = _swiglu_backward(x, gate_up, grad_y @ down, scale, factor, ctx.normed)
        grad_x = grad_z.to(x.dtype) + grads @ gate_up
        return grad_x, grads.mT @ x, grad_y.mT @ h, None


def _norm_factor(grad_times_y: Tensor, scale: Tensor, inner: int) -> Tensor:
    """What gate·up =: p is multiplied by to give its gradient through the norm of `glu_norm`.

    That norm is the scale r = (mean p² + ε)^-½ of y = r·y₀. So dL/dp = dL/dr · (−r³/N)·p, with dL/dr = Σ dL/dy · y / r.
    `grad_times_y` is that sum. It needs no y: y = z − x, and since z is normalised next, its gradient is orthogonal to
    z but for ε: Σ dL/dz · z = ε·s²·Σ dL/dout · out, for the norm's scale s.
    """
    return -grad_times_y * scale**2 / inner


@_tuned([({"BD": 128, "BN": 64}, 8, 2), ({"BD": 128, "BN": 32}, 8, 3), ({"BD": 64, "BN": 32}, 4, 3)],
        small={"BD": 16, "BN": 64}, key=["B", "D", "N", "PB"])
@triton.jit
def _mlp_t_kernel(x_ptr, gate_up_ptr, down_ptr, out_ptr, out_scale_ptr, scale_ptr, B, D, P: tl.constexpr,
                  PB: tl.constexpr, N: tl.constexpr, NORMED: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """One puzzle, BD channels, all positions. Weights are (2·N, PB) and (N, PB), zero beyond P: so positions beyond P,
    which are zero in x, stay zero. Channels are the rows of all products, so that h is an operand as it is."""
    row, channels, positions = tl.program_id(1), tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, PB)
    at = row.to(tl.int64) * P * D + positions[:, None] * D + channels[None, :]
    inside = (positions < P)[:, None] & (channels < D)[None, :]
    x = tl.trans(tl.load(x_ptr + at, mask=inside, other=0.0))  # (BD, PB)
    y = tl.zeros((BD, PB), tl.float32)
    squares = tl.zeros((BD,), tl.float32)
    for i in range(0, N, BN):
        chunk = (i + tl.arange(0, BN))[:, None] * PB + positions[None, :]
        gate = tl.dot(x, tl.trans(tl.load(gate_up_ptr + chunk)))
        up = tl.dot(x, tl.trans(tl.load(gate_up_ptr + N * PB + chunk)))
        product = gate * up
        if NORMED:
            squares += tl.sum(product * product, 1)
        h = product * tl.sigmoid(gate)
        y = tl.dot(h.to(x.dtype), tl.load(down_ptr + chunk), y)
    of_channels = row * D + channels
    if NORMED:
        scale = tl.rsqrt(squares / N + EPS)
        y *= scale[:, None]
        tl.store(scale_ptr + of_channels, scale, mask=channels < D)
    z = x.to(tl.float32) + y
    out_scale = tl.rsqrt(tl.sum(z * z, 1) / P + EPS)
    tl.store(out_scale_ptr + of_channels, out_scale, mask=channels < D)
    tl.store(out_ptr + at, tl.trans((z * out_scale[:, None]).to(x.dtype)), mask=inside)


@_tuned([({"BD": 128, "BN": 32}, 8, 2), ({"BD": 64, "BN": 32}, 4, 2)],
        small={"BD": 16, "BN": 64}, key=["B", "D", "N", "PB"])
@triton.jit
def _mlp_t_backward_kernel(x_ptr, out_ptr, grad_ptr, gate_up_ptr, down_ptr, out_scale_ptr, scale_ptr, grad_x_ptr,
                           grad_z_ptr, h_ptr, grads_ptr, B, D, P: tl.constexpr, PB: tl.constexpr, N: tl.constexpr,
                           NORMED: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Gradients of x and of z = x + y, both (B, P, D); h (B, N, D) again, and the gradients (B, 2·N, D) of gate and up:
    from them PyTorch computes the gradients of the weights."""
    row, channels, positions = tl.program_id(1), tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, PB)
    at = row.to(tl.int64) * P * D + positions[:, None] * D + channels[None, :]
    inside = (positions < P)[:, None] & (channels < D)[None, :]
    x = tl.trans(tl.load(x_ptr + at, mask=inside, other=0.0))  # (BD, PB)
    out = tl.load(out_ptr + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    of_channels = row * D + channels
    out_scale = tl.load(out_scale_ptr + of_channels, mask=channels < D, other=0.0)
    along = tl.sum(grad * out, 0)
    wide = tl.trans(out_scale[None, :] * (grad - out * (along / P)[None, :]))  # (BD, PB), gradient of z
    grad_z = wide.to(x.dtype)
    tl.store(grad_z_ptr + at, tl.trans(grad_z), mask=inside)
    scale = 1.0
    factor = 0.0
    if NORMED:  # see _norm_factor
        own = tl.load(scale_ptr + of_channels, mask=channels < D, other=0.0)
        times_y = along * EPS * out_scale * out_scale - tl.sum(wide * x.to(tl.float32), 1)
        scale = own[:, None]
        factor = (-times_y * own * own / N)[:, None]
    grad_x = wide
    for i in range(0, N, BN):
        inner = i + tl.arange(0, BN)
        chunk = inner[:, None] * PB + positions[None, :]
        w_gate = tl.load(gate_up_ptr + chunk)
        w_up = tl.load(gate_up_ptr + N * PB + chunk)
        gate = tl.dot(x, tl.trans(w_gate))
        up = tl.dot(x, tl.trans(w_up))
        grad_h = tl.dot(grad_z, tl.trans(tl.load(down_ptr + chunk))) * scale
        h = gate * tl.sigmoid(gate) * up * scale
        grad_gate, grad_up = _product_gradients(gate, up, grad_h, factor, NORMED)
        grad_gate, grad_up = grad_gate.to(x.dtype), grad_up.to(x.dtype)
        grad_x = tl.dot(grad_gate, w_gate, grad_x)
        grad_x = tl.dot(grad_up, w_up, grad_x)
        there = inner[:, None] * D + channels[None, :]
        stored = (channels < D)[None, :]
        both = grads_ptr + row.to(tl.int64) * 2 * N * D + there
        tl.store(h_ptr + row.to(tl.int64) * N * D + there, tl.trans(h.to(x.dtype)), mask=stored)
        tl.store(both, tl.trans(grad_gate), mask=stored)
        tl.store(both + N * D, tl.trans(grad_up), mask=stored)
    tl.store(grad_x_ptr + at, tl.trans(grad_x.to(x.dtype)), mask=inside)


@torch.library.custom_op("trm::mlp_t", mutates_args=())
def _mlp_t(x: Tensor, gate_up: Tensor, down: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The part of x (B, P, D), and the scales (B, D) in float32 of the norm after the sum and of that inside (ones
    unless `normed`). Weights: (2·N, PB) and (N, PB), zero beyond P."""
    (B, P, D), (N, PB) = x.shape, down.shape
    out, out_scale = torch.empty_like(x), x.new_empty(B, D, dtype=torch.float32)
    scale = x.new_ones(B, D, dtype=torch.float32)
    _mlp_t_kernel[lambda m: (triton.cdiv(D, m["BD"]), B)](x, gate_up, down, out, out_scale, scale, B, D, P, PB, N,
                                                          normed)
    return out, out_scale, scale


@_mlp_t.register_fake
def _(x, gate_up, down, normed):
    scales = x.new_empty(len(x), x.shape[2], dtype=torch.float32)
    return torch.empty_like(x), scales, torch.empty_like(scales)


@torch.library.custom_op("trm::mlp_t_backward", mutates_args=())
def _mlp_t_backward(x: Tensor, out: Tensor, grad: Tensor, gate_up: Tensor, down: Tensor, out_scale: Tensor,
                    scale: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, P, D), (N, PB) = x.shape, down.shape
    grad_x, grad_z, h, grads = torch.empty_like(x), torch.empty_like(x), x.new_empty(B, N, D), x.new_empty(B, 2 * N, D)
    _mlp_t_backward_kernel[lambda m: (triton.cdiv(D, m["BD"]), B)](
        x, out, grad, gate_up, down, out_scale, scale, grad_x, grad_z, h, grads, B, D, P, PB, N, normed)
    return grad_x, grad_z, h, grads


@_mlp_t_backward.register_fake
def _(x, out, grad, gate_up, down, out_scale, scale, normed):
    B, D, N = len(x), x.shape[2], len(down)
    return torch.empty_like(x), torch.empty_like(x), x.new_empty(B, N, D), x.new_empty(B, 2 * N, D)


class _MlpTPart(torch.autograd.Function):
    """`mlp_t_part` of weights with zeros up to PB positions."""

    @staticmethod
    def forward(ctx, x: Tensor, gate_up: Tensor, down: Tensor, normed: bool) -> Tensor:
        out, out_scale, scale = _mlp_t(x, gate_up, down, normed)
        ctx.save_for_backward(x, gate_up, down, out, out_scale, scale)
        ctx.normed = normed
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        x, gate_up, down, out, out_scale, scale = ctx.saved_tensors
        grad_x, grad_z, h, grads = _mlp_t_backward(x, out, grad_out.contiguous(), gate_up, down, out_scale, scale,
                                                   ctx.normed)
        more = (0, 0, 0, down.shape[1] - x.shape[1])
        # (P, 2·N) and (P, N), so that the results' rows are aligned, then turned and filled up: small matrices
        grad_gate_up = F.pad(torch.bmm(x, grads.mT).sum(0), more).mT
        grad_down = F.pad(torch.bmm(grad_z, h.mT).sum(0), more).mT
        return grad_x, grad_gate_up, grad_down, None


def swiglu_part(x: Tensor, gate_up: Tensor, down: Tensor, normed: bool) -> Tensor:
    """rms_norm(x + SwiGLU(x)) over the last dimension of x (B, P+L, D), with weights (2·N, D) and (D, N), where N is a
    multiple of 256. `normed`: as in `models.layers.SwiGLU`."""
    return _SwiGLUPart.apply(x.reshape(-1, x.shape[-1]), gate_up.contiguous(), down.contiguous(), normed).view(x.shape)


def mlp_t_part(x: Tensor, gate_up: Tensor, down: Tensor, normed: bool) -> Tensor:
    """The same over the second dimension of x (B, P+L, D), with weights (2·N, P+L) and (P+L, N). At most
    `MOST_POSITIONS` positions."""
    zeros = (0, max(16, triton.next_power_of_2(x.shape[1])) - x.shape[1])
    return _MlpTPart.apply(x.contiguous(), F.pad(gate_up, zeros), F.pad(down.mT, zeros).contiguous(), normed)
