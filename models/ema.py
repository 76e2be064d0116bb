"""Exponential moving average of a module's parameters. Buffers are not averaged, so neither is the puzzle table."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages of parameters: `update`, after every optimizer step, is shadow ← rate·shadow + (1−rate)·parameter."""

    def __init__(self, module: nn.Module, rate: float):
        self.rate = rate
        self.parameters = dict(module.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.shadow.values()), list(self.parameters.values()),
                             1 - self.rate)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the module has the averaged parameters. The two are swapped, not copied."""
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
