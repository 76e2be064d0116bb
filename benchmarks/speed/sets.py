"""The groups of `make bench` and `make bench-gpu`: which sizes, and which targets."""
from pathlib import Path

from benchmarks.speed.groups import LEVERS, Group, cpu_step, evaluation, gpu_step, levers, whole_run
from benchmarks.speed.workload import workload

DEMO = workload(128, 16, 6, 64, "mlp_t", T=2, n=2, prefix=1, halt_max_steps=8)
SMALL = {"CPU step, D 64, 16 tokens, mlp_t, batch 128": DEMO,
         "CPU step, D 128, 16 tokens, mlp_t, batch 64": workload(64, 16, 6, 128, "mlp_t", T=2, n=2, prefix=1),
         "CPU step, D 128, 81 tokens, attention, batch 16": workload(16, 81, 11, 128, "attention", T=2, n=2, prefix=1)}
PAPER_CPU = {"CPU step, paper size, mlp_t, batch 4": workload(4, 81, 11, 512, "mlp_t", T=3, n=6, prefix=16)}
PAPER = {f"H100 step, paper size, {mix}, batch {rows}": workload(rows, 81, 11, 512, mix, T=3, n=6, prefix=16)
         for mix in ("mlp_t", "attention") for rows in (384, 768)}
MAZE = {"H100 step, maze of 900 cells, attention, batch 128": workload(128, 900, 6, 512, "attention", T=3, n=4,
                                                                       prefix=16)}
LEVERED = "H100 step, paper size, mlp_t, batch 384"  # the step at which each lever is tried
SUDOKU4 = workload(128, 16, 6, 64, "mlp_t", T=2, n=2, prefix=1, halt_max_steps=16)
SUDOKU4_STEPS = 250  # of training, before it is evaluated
TINY = dict(rows=8, tokens=16, vocabulary=6, width=32, T=2, n=1, prefix=1, halt_max_steps=4)


def cpu_groups(reference: str | None, folder: Path) -> list[Group]:
    groups = [cpu_step(name, sizes, reference, 3, eager=2.5, compiled=1.7) for name, sizes in SMALL.items()]
    groups += [whole_run("the demo on a CPU", DEMO, "cpu", 10),
               evaluation("4×4 Sudoku on a CPU, 512 puzzles", SUDOKU4, "cpu", reference, folder, compiled=True,
                          training_steps=SUDOKU4_STEPS)]
    return groups + [cpu_step(name, sizes, reference, 1, eager=None, compiled=1.15, with_amx=4.0, rounds=3)
                     for name, sizes in PAPER_CPU.items()]


def sized(sizes: dict, tiny: bool) -> dict:
    """A workload, or where `tiny` one of the same kind that a CPU rehearses in minutes."""
    return workload(mix="mlp_t" if sizes["arch"]["mlp_t"] else "attention", **TINY) if tiny else sizes


def gpu_groups(reference: str | None, folder: Path, device: str, tiny: bool) -> list[Group]:
    steps = [gpu_step(name, sized(sizes, tiny), reference, 1.7, 3000 // sizes["rows"], device)
             for name, sizes in PAPER.items()]
    steps += [gpu_step(name, sized(sizes, tiny), reference, 1.5, 3, device) for name, sizes in MAZE.items()]
    tried = [levers(LEVERED, sized(PAPER[LEVERED], tiny), 8, device, list(LEVERS)),
             *(levers(name, sized(sizes, tiny), 3, device, ["arch.checkpoint_passes=true"])
               for name, sizes in MAZE.items())]
    first = sized(PAPER[LEVERED], tiny)
    return [*steps, *tried, whole_run("paper size", first, device, 20, rounds=3),
            evaluation("paper size, random weights", first, device, reference, folder, compiled=True),
            evaluation("4×4 Sudoku, 512 puzzles", SUDOKU4, device, reference, folder, compiled=False,
                       training_steps=4 if tiny else SUDOKU4_STEPS)]


def counted(which: str, tiny: bool) -> dict[str, dict]:
    """Workloads whose products are counted, by the name of their group, of the set `which`."""
    workloads = SMALL | PAPER_CPU if which == "cpu" else PAPER | MAZE
    return {name: sized(sizes, tiny) for name, sizes in workloads.items()}
