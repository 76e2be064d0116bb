"""Run by test_kernels.py with TRITON_INTERPRET=1: prints as JSON by how much the kernels differ from the plain path."""
import json

import torch

from helpers import tiny_batch, tiny_config
from losses.classification import ACTLossHead
from models import kernels
from models.compiled import give_kernels
from models.layers import Block, SwiGLU
from models.recursive_reasoning.trm import TRM


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def off_by(got: list, want: list) -> float:
    """The largest difference, relative to the largest value of each tensor."""
    pairs = [(a.float(), b.float()) for a, b in zip(got, want, strict=True)]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def with_gradients(module: torch.nn.Module, x: torch.Tensor, apply) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = apply(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], random(*x.shape).to(y.dtype))]


def part(positions: int, width: int, dim: int, normed: bool, dtype: torch.dtype = torch.float32) -> float:
    """One residual part, its result and all gradients."""
    torch.manual_seed(0)
    module, x = SwiGLU(width if dim == 2 else positions, 2, normed), random(3, positions, width).to(dtype)
    plain = with_gradients(module, x, lambda own: module.part(own, dim))
    module.kernel = kernels.swiglu_part if dim == 2 else kernels.mlp_t_part
    fused = with_gradients(module, x, lambda own: module.part(own, dim))
    with torch.no_grad():
        assert torch.equal(module.part(x, dim), fused[0])
    return off_by(fused, plain)


def trained(**changes) -> float:
    """A whole supervision step of TRM: by how much its loss and gradients differ."""
    torch.manual_seed(0)
    head = ACTLossHead(TRM(tiny_config(**changes)), loss_type="stablemax_cross_entropy")
    names = list(head.state_dict())

    def loss_and_gradients() -> list[torch.Tensor]:
        batch = tiny_batch()
        head.zero_grad()
        _, loss, *_ = head(carry=head.initial_carry(batch), batch=batch, return_keys=())
        loss.backward()
        return [loss.detach(), *(p.grad for p in head.parameters() if p.grad is not None and p.grad.any())]

    plain = loss_and_gradients()
    give_kernels(head, kernels)
    assert list(head.state_dict()) == names
    return off_by(loss_and_gradients(), plain)


def compiled() -> float:
    """A block as one graph of torch.compile, its backward included."""
    torch.manual_seed(0)
    block, x = Block(width=16, positions=5, heads=2, expansion=2, mlp_t=True, glu_norm=True), random(2, 5, 16)
    give_kernels(block, kernels)
    plain = with_gradients(block, x, lambda own: block(own, None))
    whole = torch.compile(block, backend="aot_eager", fullgraph=True)
    return off_by(with_gradients(block, x, lambda own: whole(own, None)), plain)


def squares_of_used_memory() -> float:
    """The sums of squares, where their memory holds what another block size has left, as when kernels are tuned."""
    x, w = random(20, 16), random(512, 16)
    h, squares = torch.empty(20, 256), torch.full((4, 20), 1e9)
    kernels._swiglu_kernel[lambda m: (-(-20 // m["BM"]) * (256 // m["BN"]),)](x, w, h, squares, 20, 256, 16, True)
    gate, up = (x @ w.T).chunk(2, 1)
    return off_by([squares.sum(0)], [(gate * up).square().sum(1)])


def operators() -> None:
    """Each operator tells torch.compile the shapes that it returns, and changes none of its inputs."""
    x, w, scales = random(6, 8), random(512, 8), torch.ones(6)
    check = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.trm.swiglu, (x, w, True), **check)
    torch.library.opcheck(torch.ops.trm.swiglu_backward, (x, w, random(6, 256), scales, scales, True), **check)
    x, w, down, scales = random(2, 5, 8), random(512, 16), random(256, 16), torch.ones(2, 8)
    torch.library.opcheck(torch.ops.trm.mlp_t, (x, w, down, True), **check)
    torch.library.opcheck(torch.ops.trm.mlp_t_backward, (x, x, x, w, down, scales, scales, True), **check)


if __name__ == "__main__":
    operators()
    print(json.dumps({
        "parts": {f"{positions} positions, {width} wide, along {dim}, normed {normed}":
                  part(positions, width, dim, normed)
                  for positions, width in ((5, 24), (17, 40)) for dim in (1, 2) for normed in (False, True)},
        "float16": max(part(5, 24, dim, normed, torch.float16) for dim in (1, 2) for normed in (False, True)),
        "trained": {"mlp_t": trained(mlp_t=True, pos_encodings="none"), "attention": trained(glu_norm=True)},
        "squares": squares_of_used_memory(), "compiled": compiled()}))
