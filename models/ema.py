"""Exponential moving average of a module's parameters; buffers, and with them the puzzle table, are not averaged."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Shadow ← rate · shadow + (1 − rate) · parameter, after every optimizer step."""

    def __init__(self, module: nn.Module, rate: float):
        self.rate = rate
        self.parameters = dict(module.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.shadow.values()), list(self.parameters.values()), 1 - self.rate)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module computes with the averages; its own values come back afterwards. Nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.shadow[name] = self.shadow[name], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, shadow in self.shadow.items():
            shadow.copy_(state[name])
