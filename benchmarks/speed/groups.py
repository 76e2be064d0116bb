"""Groups of processes that are measured together, and the rows that follow from their figures."""
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.counts import least_seconds, total_flops
from benchmarks.speed.rows import Row, milliseconds
from benchmarks.speed.workers import ROOT, Failed, Worker, ratio

Workers = dict[str, Worker]
SAME_LOSS = {"cpu": 1e-3, "cuda": 3e-2}  # relative difference of the first losses; bfloat16 on a GPU
OURS_EAGER, OURS, REFERENCE_EAGER, REFERENCE = "ours eager", "ours compiled", "reference eager", "reference compiled"

AS_IT_IS = "as it is"
LEVERS: dict[str, dict] = {  # by what is changed; keys of a spec: arch, compiled, constants, env
    "no rows of zeros for tensor cores": {"constants": {"models.layers.ALIGNED_ROWS": 1}}}


@dataclass
class Group:
    """`specs` by the name of the process; `rows` turns the measured processes and the machine's limits into rows."""

    name: str
    specs: dict[str, dict]
    rows: Callable[[Workers, dict], list[Row]]
    rounds: int = 5
    turn: dict = field(default_factory=dict)
    prepare: Callable[[], None] | None = None


def variants(workload: dict, device: str, reference: str | None, eager: bool = True) -> dict[str, dict]:
    """Specs of a step: eager and compiled, of this project and, where its checkout is given, of the published code."""
    sides = ["ours", "reference"] if reference else ["ours"]
    return {f"{side} {'compiled' if compiled else 'eager'}": {
                "subject": "step", "side": side, "workload": workload, "device": device, "compiled": compiled,
                "reference": reference}
            for side in sides for compiled in ([False, True] if eager else [True])}


def refuse_other_loss(ours: Worker, theirs: Worker) -> None:
    """Raise Failed unless both computed the same loss from the same weights and batch."""
    ours.refuse_failed()
    theirs.refuse_failed()
    a, b = ours.facts["loss"], theirs.facts["loss"]
    if abs(a - b) > SAME_LOSS[ours.spec["device"]] * abs(b):
        raise Failed(f"{ours.name} has loss {a:.5f} and {theirs.name} {b:.5f} on the same weights and batch")


def compared(measure: str, workers: Workers, ours: str, theirs: str, target: float | None,
             limit: Callable[[float], str]) -> Row:
    """How many times faster ours steps. `limit` tells what our seconds are compared with."""
    row = Row(measure, target=target)
    try:
        row.ours, row.limit = milliseconds(workers[ours].figure("s")), limit(workers[ours].figure("s"))
        if theirs in workers:
            refuse_other_loss(workers[ours], workers[theirs])
            row.reference = milliseconds(workers[theirs].figure("s"))
            row.ratio = ratio(workers[theirs], workers[ours], "s")
    except Failed as error:
        row.failed = str(error)
    return row


def of_peak(limits: dict, name: str) -> Callable[[float], str]:
    """Tells seconds as a share of the matrix peak and, on a GPU, beside the least that the products can take."""
    products = limits["counted"][name]

    def told(seconds: float) -> str:
        share = total_flops(products) / seconds / limits["matrix_flops"]
        reached = f"{share:.0%} of {limits['matrix_flops'] / 1e12:.3g} TFLOP/s"
        least = least_seconds(products, limits["matrix_flops"], limits["copy_bytes"])
        return reached if limits["device"].startswith("CPU") else f"{reached}; products alone {milliseconds(least)}"

    return told


def cpu_step(name: str, workload: dict, reference: str | None, targets: tuple[float | None, float | None],
             steps: int, rounds: int = 5) -> Group:
    """Rows against the reference eager and compiled. `targets` of the two; None for eager leaves the eager ones out."""
    eager = targets[0] is not None

    def rows(workers: Workers, limits: dict) -> list[Row]:
        pairs = [(OURS, REFERENCE_EAGER, targets[0]), (OURS_EAGER, REFERENCE_EAGER, None)] if eager else []
        return [compared(f"{name}, {ours} / {theirs}", workers, ours, theirs, target, of_peak(limits, name))
                for ours, theirs, target in [*pairs, (OURS, REFERENCE, targets[1])]]

    return Group(name, variants(workload, "cpu", reference, eager), rows, rounds, {"steps": steps})


def gpu_step(name: str, workload: dict, reference: str | None, target: float, steps: int, device: str) -> Group:
    """Rows of the step's time, its share of the matrix peak, and its memory."""
    def rows(workers: Workers, limits: dict) -> list[Row]:
        step = compared(f"{name}, {OURS} / {REFERENCE}", workers, OURS, REFERENCE, target, of_peak(limits, name))
        share = Row(f"{name}, share of the matrix peak", target=0.5)
        memory = Row(f"{name}, peak memory", target=0.7, at_least=False)
        try:
            seconds = workers[OURS].figure("s")
            share.ours = milliseconds(seconds)
            share.ratio = total_flops(limits["counted"][name]) / seconds / limits["matrix_flops"]
            if device == "cuda":
                memory.ours = f"{workers[OURS].figure('gib'):.1f} GiB"
            if device == "cuda" and REFERENCE in workers:
                memory.reference = f"{workers[REFERENCE].figure('gib'):.1f} GiB"
                memory.ratio = ratio(workers[OURS], workers[REFERENCE], "gib")
        except Failed as error:
            share.failed = memory.failed = str(error)
        return [step, share, memory]

    return Group(name, variants(workload, device, reference, eager=False), rows, 5, {"steps": steps})


def whole_run(name: str, workload: dict, device: str, steps: int, rounds: int = 5) -> Group:
    def rows(workers: Workers, limits: dict) -> list[Row]:
        row, worker = Row(f"whole run / its step, {name}", target=1.03, at_least=False), workers["run"]
        try:
            whole, step = (milliseconds(worker.figure(key)) for key in ("run_s", "s"))
            row.ours = f"{whole} a step, forward and backward {step}"
            row.ratio = ratio(worker, worker, "run_s", "s")
        except Failed as error:
            row.failed = str(error)
        return [row]

    return Group(f"whole run, {name}", {"run": {"subject": "whole_run", "workload": workload, "device": device}}, rows,
                 rounds, {"steps": steps})


def evaluation(name: str, workload: dict, device: str, reference: str | None, folder: Path, steps: int,
               compiled: bool, trained: bool) -> Group:
    """Evaluation without and with early exit against the published loop. `trained`: train the network first; else its
    weights are random, and only the rows without early exit are measured."""
    data, weights = folder / "sudoku4", folder / "sudoku4-weights.pt"
    base = {"subject": "evaluation", "workload": workload, "device": device, "compiled": compiled, "data": str(data),
            "weights": str(weights) if trained else None, "reference": reference}
    specs = {"ours": base | {"side": "ours"}}
    if trained:
        specs["ours, early exit"] = base | {"side": "ours", "strategy": {"early_exit": True}}
    if reference:
        specs["reference"] = base | {"side": "reference"}

    def rows(workers: Workers, limits: dict) -> list[Row]:
        targets = {"ours": ("no early exit", 1.5), "ours, early exit": ("early exit", 4.0)}
        found = []
        for ours, (kind, target) in targets.items():
            if ours not in workers:
                continue
            row = Row(f"evaluation, {name}, {kind}", target=target)
            try:
                row.ours = f"{milliseconds(workers[ours].figure('s'))}, {workers[ours].facts['exact']:.1%} exact"
                if "reference" in workers:
                    theirs = workers["reference"]
                    row.reference = f"{milliseconds(theirs.figure('s'))}, {theirs.facts['exact']:.1%} exact"
                    row.ratio = ratio(theirs, workers[ours], "s")
            except Failed as error:
                row.failed = str(error)
            found.append(row)
        return found

    return Group(f"evaluation, {name}", specs, rows, 5, {}, lambda: make_sudoku(data, weights, workload, steps))


def make_sudoku(data: Path, weights: Path, workload: dict, steps: int) -> None:
    """4×4 Sudokus and, after so many training steps (none where it is 0), the weights of a small network.

    It is trained on the CPU, uncompiled, which takes as long whatever the machine has else.
    """
    def python(*arguments: str) -> None:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{arguments[0]}: {done.stderr.strip()[-200:]}")

    if not data.exists():
        python("-m", "dataset.generate_sudoku", "--size", "4", "--train", "16000", "--test", "512", "--output-dir",
               f"{data}-csv", "--overwrite")
        python("-m", "dataset.build_sudoku_dataset", "--source-dir", f"{data}-csv", "--output-dir", str(data))
    if steps and not weights.exists():
        run = weights.with_suffix("")
        python("pretrain.py", "experiment=demo_sudoku4", f"data_paths=[{data}]", f"epochs={-(-steps // 125)}",
               "eval_interval=null", f"checkpoint.path={run}", "checkpoint.overwrite=true", "device=cpu",
               "ema_rate=0.9")
        python("-c", "import torch; from config.restored import Restored; "
                     f"torch.save(Restored.read({str(run)!r}).weights(), {str(weights)!r})")


def levers(workload: dict, device: str) -> list[Group]:
    """What each change of the step as it is costs: the time with the change / the time as it is."""
    base = variants(workload, device, None, eager=False)[OURS]
    specs = {AS_IT_IS: base} | {name: base | change for name, change in LEVERS.items()}

    def rows(workers: Workers, limits: dict) -> list[Row]:
        found = []
        for name in LEVERS:
            row = Row(f"lever: {name}")
            try:
                now, changed = (milliseconds(workers[key].figure("s")) for key in (AS_IT_IS, name))
                row.ours = f"{now}, and so {changed}"
                row.ratio = ratio(workers[name], workers[AS_IT_IS], "s")
            except Failed as error:
                row.failed = str(error)
            found.append(row)
        return found

    return [Group("levers", specs, rows, 5, {"steps": 8})]
