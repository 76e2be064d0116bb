"""Sums of metrics on the device, summed over ranks and read by the host only when somebody asks for means."""
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from utils.distributed import all_reduce_sum_


# Sums over all observed targets of a set, by feature, from which `means` makes rmse and r2.
OVER_SET = ("observed", "squared_error", "target_sum", "target_square")


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


class MetricSums:
    """Adds up dictionaries of tensors, scalars or those of `OVER_SET`, that always have the same names and shapes.
    Nothing here waits for the GPU until `read`."""

    def __init__(self, device: torch.device):
        self.dtype, self.device = widest_float(device), device
        self.names: tuple[str, ...] = ()
        self.sizes: tuple[int, ...] = ()
        self.sums: Tensor | None = None

    def add(self, metrics: dict[str, Tensor]) -> None:
        row = torch.cat([value.to(self.dtype).view(-1) for value in metrics.values()])
        if self.sums is None:
            self.names, self.sums = tuple(metrics), row
            self.sizes = tuple(value.numel() for value in metrics.values())
        else:
            self.sums += row

    def read(self) -> dict[str, float | np.ndarray]:
        """Sums over all ranks, by name, as numbers. Every rank must call it, with the same names or none."""
        names = self.names
        sums = self.sums.clone() if names else torch.zeros(0, dtype=self.dtype, device=self.device)
        all_reduce_sum_([sums])
        parts = sums.cpu().split(self.sizes)
        return {name: part.numpy() if name in OVER_SET else part.item() for name, part in zip(names, parts)}

    def state_dict(self) -> dict[str, float]:
        """This rank's own sums."""
        return dict(zip(self.names, self.sums.tolist())) if self.names else {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.names, self.sizes = tuple(state), (1,) * len(state)
        self.sums = torch.tensor(list(state.values()), dtype=self.dtype, device=self.device) if state else None

    def clear(self) -> None:
        self.sums = None if self.sums is None else torch.zeros_like(self.sums)


def means(sums: dict[str, float]) -> dict[str, float]:
    """Means of a loss head's sums: a loss over the `rows` it saw, the others over the `count` rows that halted.

    A metric without rows is left out, never NaN.
    """
    divisors = {name: sums["rows" if name.endswith("loss") else "count"]
                for name in sums.keys() - {"rows", "count", *OVER_SET}}
    return {name: sums[name] / divisors[name] for name in sums if divisors.get(name)} | _over_set(sums)


def _over_set(sums: dict[str, float | np.ndarray]) -> dict[str, float]:
    """Root of the mean squared error, and the share of the targets' variance, each feature about its own mean, that
    the predictions explain; each left out where it has no meaning."""
    if not np.any(sums.get("observed", 0)):
        return {}
    observed, squared_error, target_sum, target_square = (sums[name] for name in OVER_SET)
    error = float(squared_error.sum())
    variance = float((target_square - target_sum ** 2 / np.maximum(observed, 1)).sum())
    varies = variance > 1e-12 * target_square.sum()
    return {"rmse": math.sqrt(error / observed.sum())} | ({"r2": 1 - error / variance} if varies else {})


class TrainMeter:
    """Train metrics since the last line of the log, and the loss since the last evaluation. Every rank reads it."""

    def __init__(self, device: torch.device):
        self.window, self.since_evaluation = MetricSums(device), MetricSums(device)
        self.restart_clock()

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.window.add(metrics)
        self.since_evaluation.add(metrics)

    def read_window(self) -> dict[str, float]:
        """Means since the last call by flat name, and `train/examples_per_s`, which leaves evaluations out."""
        sums = self.window.read()
        self.window.clear()
        seconds = self.seconds + time.perf_counter() - self.started
        self.restart_clock()
        return {f"train/{name}": value for name, value in means(sums).items()} | {
            "train/examples_per_s": sums.get("rows", 0) / seconds}

    def read_loss_since_evaluation(self) -> float:
        loss = means(self.since_evaluation.read()).get("loss", float("nan"))
        self.since_evaluation.clear()
        return loss

    def state_dict(self) -> dict[str, dict[str, float]]:
        """This rank's sums of the line and of the evaluation that are still to come."""
        return {"window": self.window.state_dict(), "since_evaluation": self.since_evaluation.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self.window.load_state_dict(state["window"])
        self.since_evaluation.load_state_dict(state["since_evaluation"])

    @staticmethod
    def added(states: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
        """One rank's state that has the sums of several."""
        return {part: {name: sum(state[part][name] for state in states) for name in states[0][part]}
                for part in states[0]}

    def restart_clock(self) -> None:
        self.seconds, self.started = 0.0, time.perf_counter()

    @contextmanager
    def paused_clock(self) -> Iterator[None]:
        """Time spent inside is none of training."""
        self.seconds += time.perf_counter() - self.started
        yield
        self.started = time.perf_counter()
