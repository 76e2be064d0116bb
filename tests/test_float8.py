"""Float8 for training's passes without gradient: its rounding, where it is used, and what it does to learning."""
import pytest
import torch

from helpers import tiny_batch, tiny_config
from losses.classification import ACTLossHead
from models.float8 import emulated, quantised, refuse_without_float8
from models.recursive_reasoning.trm import TRM


def head_of(**changes) -> ACTLossHead:
    torch.manual_seed(0)
    return ACTLossHead(TRM(tiny_config(hidden_size=16, **changes)), loss_type="softmax_cross_entropy")


def test_each_row_has_the_scale_at_which_its_largest_value_is_the_largest_of_float8():
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1e-3, 3e-3, -4e-3, 1e-4]])
    q, scale = quantised(x)
    assert q.float().abs().amax(1).tolist() == [448.0, 0.0, 448.0]
    off = (q.float() * scale - x).abs() / x.abs().clamp(min=1e-9)
    assert off.max() <= 2**-4  # three bits of mantissa: half of an eighth


def test_a_product_is_that_of_the_rounded_rows():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 5, 32, generator=generator), torch.randn(48, 32, generator=generator)
    exact, y = x @ weight.T, emulated(x, weight)
    assert y.shape == exact.shape and y.dtype == x.dtype
    assert 0.005 < ((y - exact).norm() / exact.norm()).item() < 0.05
    assert emulated(x.bfloat16(), weight).dtype == torch.bfloat16


def outputs(head: ACTLossHead) -> torch.Tensor:
    batch = tiny_batch()
    return head.model(head.initial_carry(batch), batch)[1]["logits"].detach()


def test_only_training_computes_in_float8_and_only_passes_without_gradient():
    exact, rounded = head_of(), head_of(no_grad_dtype="float8_emulated")
    off = (outputs(rounded.train()) - outputs(exact.train())).norm() / outputs(exact).norm()
    assert 1e-3 < off < 0.3
    assert torch.equal(outputs(rounded.eval()), outputs(exact.eval()))
    exact, rounded = head_of(H_cycles=1), head_of(H_cycles=1, no_grad_dtype="float8_emulated")
    assert torch.equal(outputs(rounded.train()), outputs(exact.train()))


def test_a_network_learns_as_in_full_precision():
    curves = {}
    for dtype in ("same", "float8_emulated"):
        head, batch = head_of(no_grad_dtype=dtype, batch_size=8).train(), tiny_batch(rows=8)
        batch["labels"] = batch["inputs"]
        optimizer, carry, curves[dtype] = torch.optim.AdamW(head.parameters(), 1e-2), head.initial_carry(batch), []
        for _ in range(80):
            carry, loss, *_ = head(carry=carry, batch=batch, return_keys=())
            optimizer.zero_grad()
            (loss / 8).backward()
            optimizer.step()
            curves[dtype].append(loss.item() / 8)
    # In between, the two curves part and meet, as those of two seeds do.
    assert [sum(curve[-5:]) / 5 < 0.5 * curve[0] for curve in curves.values()] == [True, True]


@pytest.mark.parametrize("device, dtype", [("cpu", torch.bfloat16), ("mps", torch.float32)])
def test_it_is_refused_where_no_device_multiplies_it(device, dtype):
    with pytest.raises(ValueError, match="needs a GPU of NVIDIA's Hopper generation or newer"):
        refuse_without_float8("float8", dtype, torch.device(device))
    refuse_without_float8("same", dtype, torch.device(device))


def test_a_width_that_float8_cannot_multiply_is_refused():
    with pytest.raises(ValueError, match="needs a hidden_size that is a multiple of 16, and it is 8"):
        TRM(tiny_config(no_grad_dtype="float8_emulated"))
