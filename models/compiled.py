"""Whether and how to compile a model, for training and evaluation alike."""
import os

import torch
from torch import nn

GRAPHS_A_DEPTH = 8  # PyTorch's default limit; training, evaluation and the target of q_continue need a graph each


def should_compile(asked: bool | None, device: torch.device) -> bool:
    """Whether to compile the recursion. `asked` is the setting `compile`, where None means on CUDA only.

    DISABLE_COMPILE in the environment, with any value that is not empty, switches compilation off.
    """
    if os.environ.get("DISABLE_COMPILE"):
        return False
    return device.type == "cuda" if asked is None else asked


def compile_recursion(head: nn.Module, depths: int = 1) -> None:
    """Compile the recursion of the model in a head, in place. `depths`: at how many depths of recursion it will run.

    PyTorch counts the graphs of a whole process and, past a limit, runs uncompiled. So this drops the graphs of earlier
    models and raises the limit with the number of depths.
    """
    torch.compiler.reset()
    settings = torch._dynamo.config
    settings.recompile_limit = GRAPHS_A_DEPTH * depths
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit,
                                               settings.recompile_limit)
    head.compile_recursion()
