"""How a model is computed, for training and evaluation alike: compiled or not, what as one graph, by which kernels.

These settings change how long a step takes and how much memory, and its numbers only by rounding.
"""
import os
from typing import Any, Literal

import torch
from pydantic import BaseModel, model_validator
from torch import nn

from models.layers import Block, SwiGLU

GRAPHS_A_DEPTH = 8  # PyTorch's default limit; training, evaluation and the target of q_continue need a graph each


class ComputeConfig(BaseModel):
    """The settings of it."""

    # compile the recursion; null: on CUDA. DISABLE_COMPILE=1 in the environment overrules it
    compile: bool | None
    # what is compiled as one: recursion: all passes of a step; stack: one pass, which compiles in half the time; head:
    # the recursion and, in graphs of their own, the reset of rows, halting and the losses
    compile_scope: Literal["recursion", "stack", "head"]
    # CUDA only: launch the compiled code as recorded CUDA graphs, so that the processor need not keep up with the GPU
    cuda_graphs: bool
    # CUDA only: compute each SwiGLU by the Triton kernels of models/kernels.py, in less memory
    kernels: bool

    @model_validator(mode="after")
    def _check_compile(self):
        for name, plain in (("compile_scope", "recursion"), ("cuda_graphs", False)):
            if self.compile is False and getattr(self, name) != plain:
                raise ValueError(f"{name}={getattr(self, name)} has no effect with compile=False; "
                                 "use compile=True, or leave it out")
        if self.cuda_graphs and self.compile_scope == "head":
            raise ValueError("cuda_graphs=True with compile_scope=head: the next step would overwrite the carry and "
                             "the metrics; use compile_scope=recursion or stack")
        return self


def should_compile(asked: bool | None, device: torch.device) -> bool:
    """Whether to compile the recursion. `asked` is the setting `compile`, where None means on CUDA only.

    DISABLE_COMPILE in the environment, with any value that is not empty, switches compilation off.
    """
    if os.environ.get("DISABLE_COMPILE"):
        return False
    return device.type == "cuda" if asked is None else asked


def speed_up(head: Any, config: ComputeConfig, device: torch.device, depths: int = 1) -> None:
    """Prepare the model in a head, in place, to be computed as `config` says. State-dict names stay as they are.

    `depths`: at how many depths of recursion it will run. Raises ValueError for what the device does not have.
    """
    if config.kernels:
        use_kernels(head, device)
    if config.cuda_graphs and device.type != "cuda":
        raise ValueError(f"cuda_graphs=True needs device=cuda, and this is {device.type}; leave it out")
    if should_compile(config.compile, device):
        compile_recursion(head, depths, config.compile_scope, config.cuda_graphs)
    elif config.compile is None and config.compile_scope != "recursion" and not os.environ.get("DISABLE_COMPILE"):
        raise ValueError(f"compile_scope={config.compile_scope} has no effect on {device.type}, where "
                         "compile=null does not compile; add compile=True, or leave it out")


def compile_recursion(head: Any, depths: int = 1, scope: str = "recursion",
                      cuda_graphs: bool = False) -> None:
    """Compile the model in a head, in place. `depths`, `scope`: see `speed_up` and `ComputeConfig`.

    PyTorch counts the graphs of a whole process and, past a limit, runs uncompiled. So this drops the graphs of earlier
    models and raises the limit with the number of depths.
    """
    torch.compiler.reset()
    settings = torch._dynamo.config
    settings.recompile_limit = GRAPHS_A_DEPTH * depths
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit,
                                               settings.recompile_limit)
    head.compile_recursion(scope, cuda_graphs)


def use_kernels(head: Any, device: torch.device) -> None:
    """Let each SwiGLU for which there is a kernel be computed by it. Raises ValueError where there is none."""
    dtype, config = head.model.inner.dtype, head.model.config
    if config.no_grad_dtype != "same":
        raise ValueError(f"kernels=True computes in bfloat16 what arch.no_grad_dtype={config.no_grad_dtype} asks "
                         "for in float8; leave one of them out")
    if config.dropout or config.eval_dropout:
        raise ValueError("kernels=True has no effect with arch.dropout or arch.eval_dropout, which come between what "
                         "the kernels compute as one; leave one of them out")
    if device.type != "cuda" or dtype != torch.bfloat16:
        raise ValueError(f"kernels=True needs an NVIDIA GPU and bfloat16, and this is {device.type} and "
                         f"{str(dtype).removeprefix('torch.')}; leave it out")
    try:
        import models.kernels  # here, since Triton is there for GPUs only, and takes a second to load
    except ModuleNotFoundError as error:
        raise ValueError(f"kernels=True needs Triton, which is not installed ({error}); pip install triton, "
                         "or leave it out") from error
    give_kernels(head, models.kernels)


def give_kernels(model: nn.Module, kernels) -> None:
    """Set the kernel of each SwiGLU for which the module `kernels` has one."""
    blocks = [block for block in model.modules() if isinstance(block, Block)]
    given = [part for block in blocks for part in _kernels_of(block, kernels)]
    if not given:
        raise ValueError("kernels=True has no effect: there is a kernel for a SwiGLU without a short "
                         "convolution only; leave it out")


def _kernels_of(block: Block, kernels) -> list[SwiGLU]:
    """The parts of a block that have got a kernel."""
    given = []
    if block.mixes_by_mlp and block.mlp_t.gate_up_proj.weight.shape[1] <= kernels.MOST_POSITIONS:
        block.mlp_t.kernel = kernels.mlp_t_part
        given.append(block.mlp_t)
    if type(block.mlp) is SwiGLU:
        block.mlp.kernel = kernels.swiglu_part
        given.append(block.mlp)
    return given
