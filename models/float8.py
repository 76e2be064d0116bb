"""Matrix products in float8 (e4m3), for the passes of training that have no gradient (`no_grad_dtype`).

    x ≈ scale · q,    q in e4m3 (3 bits of mantissa, at most 448),    scale (rows, 1) = largest |x| of the row / 448

Both x (rows, in) and the weight (out, in) are rounded so, row by row, and the product is summed in float32. A GPU of
the Hopper generation multiplies such numbers twice as fast as bfloat16. Weights are stored as ever. With T = 3, two
thirds of the passes have no gradient; they choose the state from which the others start. Evaluation computes as without
this.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
MULTIPLE = 16  # of which rows and columns of the weight must be


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """q (rows, in) in e4m3 and the scales (rows, 1) in float32 of x (rows, in)."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (wide / scale).to(E4M3), scale


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` in float8 on a GPU, in the dtype of x, for x (…, in) and weight (out, in)."""
    (rows, of_rows), (columns, of_columns) = quantised(x.reshape(-1, x.shape[-1])), quantised(weight)
    y = torch._scaled_mm(rows, columns.mT, scale_a=of_rows, scale_b=of_columns.mT, out_dtype=x.dtype)
    return y.view(*x.shape[:-1], -1)


def emulated(x: Tensor, weight: Tensor) -> Tensor:
    """The same numbers on any device, slowly: both are rounded to float8 and multiplied in float32."""
    (rows, of_rows), (columns, of_columns) = quantised(x), quantised(weight)
    return F.linear(rows.float() * of_rows, columns.float() * of_columns).to(x.dtype)


PRODUCTS = {"float8": product, "float8_emulated": emulated}


def refuse_without_float8(no_grad_dtype: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raise ValueError where training in float8 is asked for and cannot run."""
    if no_grad_dtype != "float8":
        return
    there = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    if not there or dtype != torch.bfloat16:
        raise ValueError(f"arch.no_grad_dtype=float8 needs a GPU of NVIDIA's Hopper generation or newer, and "
                         f"arch.forward_dtype=bfloat16; this is {device.type} and {str(dtype).removeprefix('torch.')}. "
                         "Use arch.no_grad_dtype=same, or float8_emulated to see what it does to learning, slowly")
