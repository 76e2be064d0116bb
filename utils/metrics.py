"""Sums of metrics on the device, summed over ranks and read by the host only when somebody asks for means."""
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.distributed import all_gather_objects

# Sums over all observed targets of a set, by feature, from which `means` makes rmse and r2.
OVER_SET = ("observed", "squared_error", "target_sum", "target_square")
# Of a sum that is divided by neither rows nor count: the name of the sum that divides it.
DIVIDED_BY = {"unsound_deductions": "deductions"}
Sums = dict[str, Any]  # by name: a float, or for the names in OVER_SET an array of one value a feature


def widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


class Later:
    """Numbers on their way from the device to the host, which waits for them only when it reads them."""

    def __init__(self, values: Tensor):
        self.values = values.detach().to("cpu", non_blocking=values.is_cuda)
        self.arrived = None
        if values.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def read(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


Layout = tuple[tuple[str, int], ...]  # names of metrics in order, each with its number of values


class MetricSums:
    """Adds up dictionaries of tensors, scalars or those of `OVER_SET`, by name. Nothing here waits for the GPU until
    the sums are read. All sums of a dictionary lie in one tensor, so that adding takes few kernels."""

    def __init__(self, device: torch.device):
        self.dtype, self.device = widest_float(device), device
        self.flat: dict[Layout, Tensor] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.add_flat(*self.flattened(metrics))

    def flattened(self, metrics: dict[str, Tensor]) -> tuple[Layout, Tensor]:
        """The metrics as one tensor, which the sums of several meters can take."""
        layout = tuple((name, value.numel()) for name, value in metrics.items())
        return layout, torch.cat([value.reshape(-1).to(self.dtype) for value in metrics.values()])

    def add_flat(self, layout: Layout, values: Tensor) -> None:
        self.flat[layout] = self.flat[layout] + values if layout in self.flat else values

    def read(self) -> Sums:
        """Sums over all ranks, by name, as numbers. Every rank must call it.

        Ranks may hold different names: after a resume on more ranks, only rank 0 has the sums of the checkpoint.
        """
        return added(all_gather_objects(self.state_dict()))

    def state_dict(self) -> Sums:
        """This rank's own sums; arrays are those of `OVER_SET`."""
        if not self.flat:
            return {}
        values = torch.cat(list(self.flat.values())).cpu()  # at once: each copy is a wait
        return added([self._by_name(layout, part) for layout, part in
                      zip(self.flat, values.split([len(value) for value in self.flat.values()]))])

    @staticmethod
    def _by_name(layout: Layout, values: Tensor) -> Sums:
        parts = values.split([size for _, size in layout])
        return {name: part.numpy() if name in OVER_SET else part.item() for (name, _), part in zip(layout, parts)}

    def load_state_dict(self, state: Sums) -> None:
        self.flat = {}
        if state:
            self.add({name: torch.tensor(value, dtype=self.dtype, device=self.device) for name, value in state.items()})

    def clear(self) -> None:
        self.flat = {layout: torch.zeros_like(values) for layout, values in self.flat.items()}


def added(parts: Sequence[Sums]) -> Sums:
    """Add the sums of several ranks or sets, by name. A name may be missing in some of them."""
    together: Sums = {}
    for part in parts:
        for name, value in part.items():
            together[name] = together.get(name, 0) + value
    return together


def means(sums: Sums) -> dict[str, float]:
    """Means of a loss head's sums: a loss over the `rows` it saw, the others over the `count` rows that halted.

    A metric without rows is left out, never NaN.
    """
    divisors = {name: sums[DIVIDED_BY.get(name, "rows" if name.endswith("loss") else "count")]
                for name in sums.keys() - {"rows", "count", *OVER_SET}}
    return {name: sums[name] / divisors[name] for name in sums if divisors.get(name)} | _over_set(sums)


def mean_names(names: Iterable[str]) -> set[str]:
    """Names of all that `means` makes of sums with these names."""
    return {*names} - {"rows", "count", *OVER_SET} | ({"rmse", "r2"} if OVER_SET[0] in names else set())


def _over_set(sums: Sums) -> dict[str, float]:
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
        self.rows_before = 0.0  # rows of the window from before the clock began, which a checkpoint may bring
        self.restart_clock()

    def add(self, metrics: dict[str, Tensor]) -> None:
        layout, values = self.window.flattened(metrics)
        self.window.add_flat(layout, values)
        self.since_evaluation.add_flat(layout, values)

    def read_window(self) -> dict[str, float]:
        """Means since the last call by flat name, and `train/examples_per_s`, which leaves evaluations out."""
        sums = added(all_gather_objects(self.window.state_dict() | {"rows_before": self.rows_before}))
        self.window.clear()
        rows = sums.get("rows", 0) - sums.pop("rows_before")
        seconds = self.seconds + time.perf_counter() - self.started
        self.restart_clock()
        return {f"train/{name}": value for name, value in means(sums).items()} | {
            "train/examples_per_s": rows / seconds}

    def read_loss_since_evaluation(self) -> float:
        loss = means(self.since_evaluation.read()).get("loss", float("nan"))
        self.since_evaluation.clear()
        return loss

    def state_dict(self) -> dict[str, Sums]:
        """This rank's sums of the line and of the evaluation that are still to come."""
        return {"window": self.window.state_dict(),
                "since_evaluation": self.since_evaluation.state_dict()}

    def load_state_dict(self, state: dict[str, Sums]) -> None:
        self.window.load_state_dict(state["window"])
        self.since_evaluation.load_state_dict(state["since_evaluation"])
        self.rows_before = state["window"].get("rows", 0.0)

    @staticmethod
    def added(states: Sequence[dict[str, Sums]]) -> dict[str, Sums]:
        """One rank's state that has the sums of several."""
        return {part: added([state[part] for state in states]) for part in states[0]}

    def restart_clock(self) -> None:
        self.rows_before = 0.0
        self.seconds, self.started = 0.0, time.perf_counter()

    @contextmanager
    def paused_clock(self) -> Iterator[None]:
        """Time spent inside is none of training."""
        self.seconds += time.perf_counter() - self.started
        yield
        self.started = time.perf_counter()
