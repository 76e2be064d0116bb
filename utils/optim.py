"""Optimizers of the network's weights, and the learning-rate schedule. The optimizer of the puzzle table is in
models/sparse_embedding.py."""
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class OptimConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # optimizer of the network; TRM's and HRM's published scores are of adam_atan2, with updates about half of lion's
    optimizer: Literal["lion", "adamw", "adam_atan2", "muon"]
    # peak learning rate
    lr: float = Field(gt=0)
    # the rate at the end of the cosine, as a part of the peak rate; 1.0: the rate stays constant
    lr_min_ratio: float = Field(ge=0, le=1)
    # steps of linear warm-up
    lr_warmup_steps: int = Field(ge=0)
    # muon only: peak rate of AdamW, which trains all but the matrices between embeddings and heads
    adamw_lr: float | None = Field(gt=0)
    # muon only: a matrix's rate by its shape: √max(1, rows / columns), or 0.2·√max(rows, columns) (arXiv 2502.16982)
    muon_scale: Literal["original", "match_rms_adamw"]
    # muon only: momentum of the matrices (Nesterov's)
    muon_momentum: float = Field(ge=0, lt=1)
    # muon only: Newton–Schulz steps that make an update orthogonal
    muon_ns_steps: int = Field(gt=0)
    # muon only: decoupled weight decay of the weights that AdamW trains; null: set by weight_decay and weight_decay_on
    adamw_weight_decay: float | None = Field(ge=0)
    # decay of the first moment (Lion: of the update; Muon: for the weights that AdamW trains)
    beta1: float = Field(ge=0, lt=1)
    # decay of the second moment (Lion: of the momentum; Muon: for the weights that AdamW trains)
    beta2: float = Field(ge=0, lt=1)
    # decoupled weight decay, multiplied by the learning rate
    weight_decay: float = Field(ge=0)
    # which weights decay: all, or only the matrices between embeddings and heads
    weight_decay_on: Literal["all", "matrices"]
    # largest norm of the network's gradient over the global batch; a larger one is scaled down to it; null: no limit
    grad_clip: float | None = Field(gt=0)
    # peak rate of the puzzle-embedding table
    puzzle_emb_lr: float = Field(ge=0)
    # decoupled weight decay of the puzzle-embedding table, multiplied by the rate of the table
    puzzle_emb_weight_decay: float = Field(ge=0)
    # train the puzzle embeddings alone
    freeze_weights: bool
    # evaluate and keep an exponential moving average of the weights
    ema: bool
    # part of the old average that remains after a step
    ema_rate: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _check_rates(self):
        if self.optimizer == "muon" and self.adamw_lr is None:
            raise ValueError("optimizer=muon trains embeddings, heads and biases by AdamW; "
                             "set its rate, adamw_lr")
        for name in ("lr", "weight_decay"):
            value = getattr(self, f"adamw_{name}")
            if self.optimizer != "muon" and value is not None:
                raise ValueError(f"adamw_{name}={value} has no effect with "
                                 f"optimizer={self.optimizer}; set {name}")
        for name, default in (("muon_scale", "original"), ("muon_momentum", 0.95),
                              ("muon_ns_steps", 5)):
            if self.optimizer != "muon" and getattr(self, name) != default:
                raise ValueError(f"{name}={getattr(self, name)} has no effect with "
                                 f"optimizer={self.optimizer}; remove it")
        return self


def build_optimizers(parameters: Iterable[Tensor], matrices: Iterable[Tensor], config: OptimConfig
                     ) -> list[torch.optim.Optimizer]:
    """The optimizers of a network's `parameters`: one, or Muon's and AdamW's. `matrices`: those of the parameters that
    are matrices between embeddings and heads; Muon trains them, and decay may be theirs alone."""
    parameters = list(parameters)
    inner = {id(matrix) for matrix in matrices}
    matrices, others = ([p for p in parameters if (id(p) in inner) == chosen]
                        for chosen in (True, False))
    settings: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2),
                                "weight_decay": config.weight_decay}
    decay_of_others = config.weight_decay if config.weight_decay_on == "all" else 0.0
    if config.optimizer == "muon":
        if config.adamw_weight_decay is not None:
            decay_of_others = config.adamw_weight_decay
        return [Muon(matrices, config.lr, config.weight_decay, momentum=config.muon_momentum,
                     ns_steps=config.muon_ns_steps, adjust_lr_fn=config.muon_scale),
                AdamW(others, **settings | {"lr": config.adamw_lr, "weight_decay": decay_of_others})]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if config.weight_decay_on == "matrices":
        groups = [{"params": matrices}, {"params": others, "weight_decay": decay_of_others}]
    chosen = {"lion": Lion, "adamw": AdamW, "adam_atan2": AdamATan2}[config.optimizer]
    return [chosen(groups, **settings)]


def remember_peak_rates(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Keep the rate that each group of parameters was built with as its `initial_lr`, as PyTorch's schedulers do."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, total_steps: int,
                       config: OptimConfig) -> None:
    """Give each group its rate of a step. Its peak is its `initial_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, group["initial_lr"], total_steps, config)


def learning_rate(step: int, peak: float, total_steps: int, config: OptimConfig) -> float:
    """Rate of step 1, 2, …, `total_steps`: linear warm-up to `peak`, then a cosine to `lr_min_ratio · peak`."""
    warmup = config.lr_warmup_steps
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (config.lr_min_ratio + (1 - config.lr_min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def remembered(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Copy tensors. Returns a function that gives them these values again."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.detach())  # alike, so that few kernels copy them
    copies = {device: [torch.empty_like(t) for t in group] for device, group in by_device.items()}
    for device, group in by_device.items():
        torch._foreach_copy_(copies[device], group)

    def bring_back() -> None:
        for device, group in by_device.items():
            torch._foreach_copy_(group, copies[device])

    return bring_back


def remembered_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Remember what the next step of an optimizer will change. Returns a function that takes that step back."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    states = {p: dict(optimizer.state[p]) for p in parameters if p in optimizer.state}
    bring_back = remembered([*parameters, *(value for state in states.values() for value in state.values()
                                            if isinstance(value, Tensor))])

    def take_back() -> None:
        bring_back()
        for parameter in parameters:  # numbers, and states that the step made
            optimizer.state.pop(parameter, None)
            if parameter in states:
                optimizer.state[parameter] = states[parameter]

    return take_back


class PlainOptimizer(torch.optim.Optimizer):
    """The base of all optimizers here: PyTorch's, without `torch._dynamo`, the front end of torch.compile.

    PyTorch wraps these methods so that a compiled program leaves them alone, and the wrapper imports that front end. Of
    all that happens between `import torch` and the first step, the import took the longest, and nothing compiles an
    optimizer here. So the methods are taken without their wrapper.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Muon(PlainOptimizer, torch.optim.Muon):
    """PyTorch's Muon."""


class AdamW(PlainOptimizer, torch.optim.AdamW):
    """PyTorch's AdamW, whose count of steps stays on the host."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class DenseOptimizer(PlainOptimizer):
    """Updates all parameters of a group together, by few kernels: `_update`, which a subclass writes."""

    def __init__(self, parameters: Iterable[Any], lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, [p.grad for p in parameters], group)

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict) -> None:
        raise NotImplementedError

    def _averages(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """The moving averages of this name, one of each parameter. They start from 0."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


class Lion(DenseOptimizer):
    """Lion: p ← (1 − lr·decay)·p − lr·sign(β₁m + (1−β₁)g), then m ← β₂m + (1−β₂)g (arXiv 2302.06675)."""

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict) -> None:
        momenta, (beta1, beta2) = self._averages("exp_avg", parameters), group["betas"]
        directions = torch._foreach_mul(momenta, beta1)
        torch._foreach_add_(directions, gradients, alpha=1 - beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])
        torch._foreach_mul_(momenta, beta2)
        torch._foreach_add_(momenta, gradients, alpha=1 - beta2)


class AdamATan2(DenseOptimizer):
    """Adam with atan2(m, √v) in place of m / (√v + ε): no ε, blind to the gradient's scale (arXiv 2407.05872)."""

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict) -> None:
        means, squares = (self._averages(name, parameters) for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        steps = [self.state[parameter]["step"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_div(squares, [1 - beta2 ** step for step in steps])
        torch._foreach_sqrt_(roots)
        unbiased = torch._foreach_div(means, [1 - beta1 ** step for step in steps])
        directions = [torch.atan2(mean, root) for mean, root in zip(unbiased, roots)]  # there is no foreach of it
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])
