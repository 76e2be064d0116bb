"""The published code's side, from a checkout that `--reference` names. It is run as it is, and nothing of it is copied.

Its layers need einops, of which they use one function to swap axes; where it is not installed, a stand-in does that.
"""
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]


def take_up(checkout: str) -> None:
    """Put the checkout on Python's path in place of this project, whose folders have the same names.

    Raises FileNotFoundError where it has no model.
    """
    if not (Path(checkout) / "models" / "recursive_reasoning" / "trm.py").is_file():
        raise FileNotFoundError(f"--reference {checkout} has no models/recursive_reasoning/trm.py; give the folder of "
                                "a checkout of the published code")
    sys.path[:] = [str(Path(checkout).resolve()), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    if importlib.util.find_spec("einops") is None:
        stand_in = types.ModuleType("einops")
        stand_in.rearrange = swap_axes  # type: ignore[attr-defined]
        sys.modules["einops"] = stand_in


def swap_axes(x: Tensor, pattern: str) -> Tensor:
    """einops.rearrange where it only permutes: 'B S H D -> B H S D'."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(axis) for axis in after])


def build(sizes: dict, device: torch.device, spec: dict) -> Any:
    take_up(spec["reference"])
    model = importlib.import_module("models.recursive_reasoning.trm").TinyRecursiveReasoningModel_ACTV1
    head = importlib.import_module("models.losses").ACTLossHead
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    with torch.device(device):
        built = model({"batch_size": sizes["rows"], "seq_len": sizes["tokens"], "vocab_size": sizes["vocabulary"],
                       "num_puzzle_identifiers": 1, "H_layers": 0, "forward_dtype": dtype} | sizes["arch"])
        return head(built, loss_type="stablemax_cross_entropy").train()


def prepared(head: Any, sizes: dict, spec: dict) -> Any:
    """Compiled as its training script does, the head as a whole."""
    return torch.compile(head) if spec["compiled"] else head


def dtype_of(head: Any) -> str:
    """Of the activations."""
    return str(head.model.inner.forward_dtype)


def forget_gradients(head: nn.Module) -> None:
    head.zero_grad(set_to_none=True)
    for buffer in head.buffers():
        buffer.grad = None
