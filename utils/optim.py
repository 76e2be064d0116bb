"""Optimizers of the network's weights and the learning-rate schedule. (The puzzle table has its own, beside it.)"""
import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class OptimConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # optimizer of the network: the paper's results need none that runs on CUDA only
    optimizer: Literal["lion", "adamw", "adam_atan2"]
    # peak learning rate, and what is left of it at the end of the cosine (1.0: constant)
    lr: float = Field(gt=0)
    lr_min_ratio: float = Field(ge=0, le=1)
    # steps of linear warm-up
    lr_warmup_steps: int = Field(ge=0)
    # decay of the first and the second moment (Lion: of the update and of the momentum)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    # decoupled weight decay, multiplied by the learning rate
    weight_decay: float = Field(ge=0)
    # the same two for the puzzle-embedding table
    puzzle_emb_lr: float = Field(ge=0)
    puzzle_emb_weight_decay: float = Field(ge=0)
    # train the puzzle embeddings alone
    freeze_weights: bool
    # evaluate and keep an exponential moving average of the weights, and its rate
    ema: bool
    ema_rate: float = Field(gt=0, lt=1)


def build_optimizer(parameters: Iterable[Tensor], config: OptimConfig) -> torch.optim.Optimizer:
    settings = {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    if config.optimizer == "lion":
        from lion_pytorch import Lion
        return Lion(parameters, **settings)
    if config.optimizer == "adam_atan2":
        return AdamATan2(parameters, **settings)
    return torch.optim.AdamW(parameters, **settings)


def learning_rate(step: int, peak: float, total_steps: int, config: OptimConfig) -> float:
    """Rate of step 1, 2, …, `total_steps`: linear warm-up to `peak`, then a cosine to `lr_min_ratio · peak`."""
    warmup = config.lr_warmup_steps
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (config.lr_min_ratio + (1 - config.lr_min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class AdamATan2(torch.optim.Optimizer):
    """Adam with atan2(m, √v) in place of m / (√v + ε): no ε, blind to the gradient's scale (arXiv 2407.05872)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        direction = torch.atan2(mean / (1 - beta1 ** state["step"]), (square / (1 - beta2 ** state["step"])).sqrt_())
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
