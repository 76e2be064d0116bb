"""Whether to compile a model, and how: the same for training and for evaluation."""
import os

import torch
from torch import nn

GRAPHS_A_DEPTH = 8  # training, evaluation, the target of the continue logit, and some to spare; PyTorch's default limit


def should_compile(asked: bool | None, device: torch.device) -> bool:
    """Whether the recursion is to be compiled. `asked`: the setting `compile`; None means on CUDA only.

    DISABLE_COMPILE in the environment, whatever its value, overrules both.
    """
    if os.environ.get("DISABLE_COMPILE"):
        return False
    return device.type == "cuda" if asked is None else asked


def compile_recursion(head: nn.Module, depths: int = 1) -> None:
    """Compile the recursion of a head, in place. `depths`: how many different depths of recursion it will run at.

    PyTorch keeps the graphs of a whole process, and past a limit it goes on uncompiled. So the graphs of earlier models
    are dropped here, and the limit grows with the depths.
    """
    torch.compiler.reset()
    settings = torch._dynamo.config
    settings.recompile_limit = GRAPHS_A_DEPTH * depths
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, settings.recompile_limit)
    head.compile_recursion()
