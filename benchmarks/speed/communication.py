"""What a second process adds to a step: a model from the bytes that a step exchanges, bandwidth and latency.

Two processes take real training steps of a network over Gloo here. Each collective operation is counted, with its
bytes. The same operations are then timed without the step between them; from operations of two sizes follow this
machine's latency and bandwidth. For links that are not here the model takes figures of their kind (LINKS), not
measured: seconds = operations · latency + 2·(n−1)/n · bytes / bandwidth, for n processes that reduce in a ring.
"""
import utils.threads  # isort: skip  # noqa: F401  before PyTorch
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from benchmarks.speed.data import write_random_data
from benchmarks.speed.whole_run import settings

LINKS = {"NVLink 4": (25e-6, 150e9), "PCIe 5 ×16": (30e-6, 25e9)}  # seconds a call, bytes a second at some 20 MB
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast")
STEPS, TRIES, SMALL, LARGE = 2, 9, 1024, 2**23  # floats


def modelled_seconds(calls: float, moved: float, latency: float, bandwidth: float, n: int = 2) -> float:
    return calls * latency + 2 * (n - 1) / n * moved / bandwidth


class Subject:
    """`spec`: workload, of few rows, since the gradient's bytes do not depend on them; and `rows`, those of the step
    that is meant: each adds its identifier and its gradient of the puzzle embedding."""

    def __init__(self, spec: dict):
        with tempfile.TemporaryDirectory() as folder:
            write_random_data(Path(folder, "data"), spec["workload"]["tokens"], spec["workload"]["vocabulary"],
                              4 * spec["workload"]["rows"])
            context = processes.get_context("spawn")
            answers = context.SimpleQueue()
            others = [context.Process(target=exchange, args=(rank, folder, spec, answers)) for rank in range(2)]
            for process in others:
                process.start()
            for process in others:
                process.join()
            if answers.empty():
                raise RuntimeError("the two processes ended without an answer; their errors are above")
            self.facts = answers.get()
        sizes = spec["workload"]
        self.facts["bytes"] += (spec["rows"] - sizes["rows"]) * (4 * sizes["arch"]["puzzle_emb_ndim"] + 8)
        self.facts["links_s"] = {link: modelled_seconds(self.facts["calls"], self.facts["bytes"], *figures)
                                 for link, figures in LINKS.items()}

    def turn(self) -> dict[str, float]:
        return {}


def exchange(rank: int, folder: str, spec: dict, answers) -> None:
    """One of the two processes."""
    from config.schema import PretrainConfig
    from pretrain import build_run
    from utils.distributed import World

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = PretrainConfig.of(**settings(spec["workload"], Path(folder, "data"), Path(folder, "run"), "cpu"))
    run = build_run(config, World(rank=rank, size=2), None)
    with run.opened(None):
        run.step()
        with counted() as moved:
            for _ in range(STEPS):
                run.step()
                run.asked(run.checkpoints.due())
        small, large = (seconds_of([size]) for size in (4 * SMALL, 4 * LARGE))
        measured = seconds_of([size for _, size in moved[:len(moved) // STEPS]])
    dist.barrier()
    if rank == 0:
        latency, bandwidth = small, 4 * LARGE / (large - small)
        calls, total = len(moved) / STEPS, sum(size for _, size in moved) / STEPS
        answers.put({"calls": calls, "bytes": total, "latency_s": latency, "bandwidth": bandwidth,
                     "measured_s": measured, "modelled_s": modelled_seconds(calls, total, latency, bandwidth)})
    dist.destroy_process_group()


class counted:
    """A context in which each collective operation is noted, with the bytes of this process's part."""

    def __enter__(self) -> list[tuple[str, int]]:
        self.moved: list[tuple[str, int]] = []
        self.originals = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, original in self.originals.items():
            setattr(dist, name, self._noting(name, original))
        return self.moved

    def __exit__(self, *error) -> None:
        for name, original in self.originals.items():
            setattr(dist, name, original)

    def _noting(self, name: str, original):
        def operation(*arguments, **keywords):
            tensor = next(a for a in arguments[::-1] if isinstance(a, torch.Tensor))
            self.moved.append((name, tensor.numel() * tensor.element_size()))
            return original(*arguments, **keywords)

        return operation


def seconds_of(sizes: list[int]) -> float:
    """Of one all-reduce for each size in bytes, one after the other; the fastest of some tries."""
    tensors = [torch.zeros(max(1, size // 4)) for size in sizes]
    times = []
    for _ in range(TRIES):
        dist.barrier()
        started = time.perf_counter()
        for tensor in tensors:
            dist.all_reduce(tensor)
        times.append(time.perf_counter() - started)
    return min(times)
