"""Puzzles a second of a solver, beside what its matrix products alone would allow; and how long a first answer takes.

    python benchmarks/solve.py                        # CPU: the demo's network, D 128, D 512
    python benchmarks/solve.py --device cuda --batch 512 --rounds 5

A checkpoint of random weights is written and loaded by `load_solver`, as a user does it. The products of one
supervision step are noted and done again by themselves, in turns with the solver. Their share is the median over the
turns, the rate that of the fastest. On a CPU the time is that of the processor in one thread, so that other programs
disturb it less.
"""
import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluate import load_solver  # isort: skip  # before PyTorch
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed import ours
from benchmarks.speed.sets import DEMO
from benchmarks.speed.workload import fill, workload
from config.solver import Solver
from dataset.common import PuzzleDatasetMetadata

NETWORKS = {"demo: D 64, 16 cells": DEMO | {"rows": 64},
            "D 128, 81 cells": workload(16, 81, 11, 128, "mlp_t", T=2, n=2, prefix=1),
            "D 512, 81 cells": workload(4, 81, 11, 512, "mlp_t", T=3, n=6, prefix=16)}
FIRST_ANSWERS = 5


class Products(TorchDispatchMode):
    """Notes each matrix product: the function, and shapes and strides of its factors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function._overloadpacket in flop_registry:
            made = [("tensor", tuple(a.shape), a.stride(), a.dtype) if isinstance(a, Tensor) else ("value", a)
                    for a in arguments]
            self.found[function._overloadpacket, tuple(made)] += 1
        return function(*arguments, **(keywords or {}))


def again(products: Counter, device: torch.device) -> Callable[[], None]:
    """What does these products, each as often as it was noted, with factors of its own."""
    calls = []
    for (function, made), times in products.items():
        arguments = [torch.randn(1, device=device).to(part[3]).expand(part[1]).clone().as_strided(part[1], part[2])
                     if part[0] == "tensor" and 0 in part[2] else
                     torch.empty_strided(part[1], part[2], dtype=part[3], device=device).normal_()
                     if part[0] == "tensor" else part[1] for part in made]
        calls.append((function, arguments, times))

    def run() -> None:
        for function, arguments, times in calls:
            for _ in range(times):
                function(*arguments)

    return run


def written(sizes: dict, folder: Path) -> Path:
    """A checkpoint of random weights."""
    head = ours.build(sizes, torch.device("cpu"))
    fill(head)
    metadata = PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=sizes["vocabulary"], seq_len=sizes["tokens"],
        num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1, total_puzzles=1, sets=["all"], kind="sudoku")
    arch = sizes["arch"] | {"name": "recursive_reasoning.trm@TRM", "loss": {
        "name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}}
    config = {"arch": arch, "data_paths": ["none"], "global_batch_size": sizes["rows"]}
    torch.save({"model_state": head.state_dict(), "config": config, "data_metadata": metadata.facts()},
               folder / "best.ckpt")
    return folder


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds: of the processor on a CPU, by the clock elsewhere."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def products_of_a_step(solver: Solver, puzzles: np.ndarray) -> Counter:
    data = solver.data(solver.questions(puzzles))
    batch = {name: value.to(solver.world.device) for name, value in data.examples(range(len(puzzles))).items()}
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), Products() as noted:
        solver.head.step(solver.head.initial_carry(batch), batch)
    return noted.found


def measured(called: str, sizes: dict, args: argparse.Namespace, folder: Path) -> str:
    device, rows = torch.device(args.device), args.batch or sizes["rows"]
    solver = load_solver(written(sizes, folder), device=args.device, global_batch_size=rows,
                         halt_max_steps=args.steps)
    puzzles = np.random.default_rng(0).integers(1, sizes["vocabulary"], (rows, sizes["tokens"]))
    products = again(products_of_a_step(solver, puzzles), device)
    alone = [timed(lambda: solver.solve(puzzles[:1]), device) for _ in range(FIRST_ANSWERS)]
    solver.solve(puzzles)
    times: dict[str, list[float]] = {"solver": [], "products": []}
    for _ in range(args.rounds):
        times["solver"].append(timed(lambda: solver.solve(puzzles), device))
        times["products"].append(timed(lambda: [products() for _ in range(args.steps)], device))
    share = median(products / solver for products, solver in zip(times["products"], times["solver"]))
    steps = sizes["arch"]["halt_max_steps"]
    rate = rows * args.steps / min(times["solver"]) / steps
    first, one = (1000 * seconds * steps / args.steps for seconds in (alone[0], median(alone)))
    return f"{called:22} {rate:10.1f} {share:8.0%} {first:10.0f} {one:10.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="puzzles at a time; default: 64, 16, 4")
    parser.add_argument("--steps", type=int, default=2, help="supervision steps that are timed; figures are for all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    print(f"{'network':22} {'puzzles/s':>10} {'of limit':>8} {'first, ms':>10} {'one, ms':>10}")
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            print(measured(name, NETWORKS[name], args, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
