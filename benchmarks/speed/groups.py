"""Groups of processes that are measured together, and the rows that follow from their figures."""
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.counts import least_seconds, total_flops
from benchmarks.speed.rows import Row, milliseconds
from benchmarks.speed.workers import ROOT, Failed, Worker, ratio

Workers = dict[str, Worker]
SAME_LOSS = {"torch.float32": 1e-3, "torch.bfloat16": 3e-2}  # relative difference of the first losses, by our dtype
OURS_EAGER, OURS, REFERENCE_EAGER, REFERENCE = "ours eager", "ours compiled", "reference eager", "reference compiled"

OURS_SHORT, KERNELS = "ours compiled in bfloat16", "ours with kernels"
LEVERS: dict[str, dict] = {  # by name, what of the spec of `OURS` is changed
    "kernels=true": {"compute": {"kernels": True}},
    "compile_scope=stack": {"compute": {"compile_scope": "stack"}},
    "compile_scope=head": {"compute": {"compile_scope": "head"}},
    "cuda_graphs=true": {"compute": {"cuda_graphs": True}},
    "kernels=true cuda_graphs=true": {"compute": {"kernels": True, "cuda_graphs": True}},
    "kernels=true compile_scope=stack": {"compute": {"kernels": True, "compile_scope": "stack"}},
    "arch.no_grad_dtype=float8": {"arch": {"no_grad_dtype": "float8"}},
    "arch.checkpoint_passes=true": {"arch": {"checkpoint_passes": True}},
    "no rows of zeros for tensor cores": {"constants": {"models.layers.ALIGNED_ROWS": 1}}}


@dataclass
class Group:
    """`specs` by the name of the process; `rows` turns the measured processes and the machine's limits into rows. Where
    groups are built side by side, those of a later `stage` are built when the others are measured."""

    name: str
    specs: dict[str, dict]
    rows: Callable[[Workers, dict], list[Row]]
    rounds: int = 5
    turn: dict = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    stage: int = 0


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
    if abs(a - b) > SAME_LOSS[ours.facts["dtype"]] * abs(b):
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


def cpu_step(name: str, workload: dict, reference: str | None, steps: int, eager: float | None, compiled: float,
             with_amx: float | None = None, rounds: int = 5) -> Group:
    """Rows against the reference eager and compiled, with these targets. `eager=None` leaves the eager ones out;
    `with_amx` is that of the compiled one where the processor has AMX."""

    def rows(workers: Workers, limits: dict) -> list[Row]:
        pairs = [(OURS, REFERENCE_EAGER, eager), (OURS_EAGER, REFERENCE_EAGER, None)] if eager else []
        target = with_amx if with_amx and limits["amx"] else compiled
        pairs.append((OURS, REFERENCE, target))
        if OURS_SHORT in workers:
            pairs.append((OURS_SHORT, REFERENCE, None))
        return [compared(f"{name}, {ours} / {theirs}", workers, ours, theirs, target, of_peak(limits, name))
                for ours, theirs, target in pairs]

    specs = variants(workload, "cpu", reference, eager is not None)
    if multiplies_bfloat16():
        specs[OURS_SHORT] = specs[OURS] | {"arch": {"forward_dtype": "bfloat16"}}
    return Group(name, specs, rows, rounds, {"steps": steps})


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, without AMX, which takes them by default."""
    file = Path("/proc/cpuinfo")
    flags = file.read_text() if file.exists() else ""
    return "avx512_bf16" in flags and "amx_bf16" not in flags


def gpu_step(name: str, workload: dict, reference: str | None, target: float, steps: int, device: str) -> Group:
    """Rows of the step's time, its share of the matrix peak, and its memory, by the default settings and by
    `kernels=true`."""
    specs = variants(workload, device, reference, eager=False)
    specs[KERNELS] = specs[OURS] | {"compute": {"kernels": True}}

    def rows(workers: Workers, limits: dict) -> list[Row]:
        found = []
        for ours in (OURS, KERNELS):
            step = compared(f"{name}, {ours} / {REFERENCE}", workers, ours, REFERENCE, target, of_peak(limits, name))
            found += [step,
                      share_of_peak(f"{name}, {ours}, share of the matrix peak", workers[ours], limits, name),
                      memory(f"{name}, {ours}, peak memory", workers, ours)]
        return found

    return Group(name, specs, rows, 5, {"steps": steps})


def share_of_peak(measure: str, worker: Worker, limits: dict, name: str) -> Row:
    row = Row(measure, target=0.5)
    try:
        row.ours = milliseconds(worker.figure("s"))
        row.ratio = total_flops(limits["counted"][name]) / worker.figure("s") / limits["matrix_flops"]
    except Failed as error:
        row.failed = str(error)
    return row


def memory(measure: str, workers: Workers, ours: str) -> Row:
    """Ours / the reference's. A CPU does not tell it."""
    row = Row(measure, target=0.7, at_least=False)
    try:
        if workers[ours].spec["device"] == "cuda":
            row.ours = f"{workers[ours].figure('gib'):.1f} GiB"
            if REFERENCE in workers:
                row.reference = f"{workers[REFERENCE].figure('gib'):.1f} GiB"
                row.ratio = ratio(workers[ours], workers[REFERENCE], "gib")
    except Failed as error:
        row.failed = str(error)
    return row


def levers(name: str, workload: dict, steps: int, device: str, tried: Sequence[str]) -> Group:
    """Rows of what each of LEVERS that is tried gains over the default settings."""
    default = variants(workload, device, None, eager=False)
    specs = default | {lever: default[OURS] | LEVERS[lever] for lever in tried}

    def rows(workers: Workers, limits: dict) -> list[Row]:
        return [gain(f"{name}: {lever}, default / with it", workers, lever) for lever in tried]

    return Group(f"levers, {name}", specs, rows, 5, {"steps": steps}, stage=1)


def gain(measure: str, workers: Workers, lever: str) -> Row:
    """The time with the default settings / the time with a lever; a loss is below 1."""
    row = Row(measure)
    try:
        before, after = (milliseconds(workers[key].figure("s")) for key in (OURS, lever))
        row.ours, row.ratio = f"{after} from {before}", ratio(workers[OURS], workers[lever], "s")
        row.limit = f"first step after {workers[lever].facts['first_step_s']:.0f} s"
        if workers[OURS].spec["device"] == "cuda":
            row.limit += f"; {workers[lever].figure('gib'):.1f} GiB"
    except Failed as error:
        row.failed = str(error)
    return row


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


def evaluation(name: str, workload: dict, device: str, reference: str | None, folder: Path, compiled: bool,
               training_steps: int = 0) -> Group:
    """Evaluation against the published loop. With `training_steps`, of 4×4 Sudokus by a network trained for so many,
    without and with early exit. Else of random cells by random weights, which never halt."""
    trained = training_steps > 0
    data, weights = folder / ("sudoku4" if trained else "random-cells"), folder / "sudoku4-weights.pt"
    base = {"subject": "evaluation", "workload": workload, "device": device, "compiled": compiled, "data": str(data),
            "weights": str(weights) if trained else None, "reference": reference}
    specs = {"ours": base | {"side": "ours"}}
    if trained:
        specs["ours, early exit"] = base | {"side": "ours", "strategy": {"early_exit": True}}
    if reference:
        specs["reference"] = base | {"side": "reference"}

    def prepare() -> None:
        if trained:
            make_sudoku(data, weights, training_steps)
        else:
            from benchmarks.speed.data import write_random_data
            write_random_data(data, workload["tokens"], workload["vocabulary"], 2 * workload["rows"])

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

    return Group(f"evaluation, {name}", specs, rows, 5, {}, prepare)


def make_sudoku(data: Path, weights: Path, steps: int) -> None:
    """4×4 Sudokus, and the weights of a small network after so many training steps.

    It is trained on the CPU, uncompiled, which takes as long whatever else the machine has.
    """
    def python(*arguments: str) -> None:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{arguments[0]}: {done.stderr.strip()[-200:]}")

    run = weights.with_suffix("")
    python("-m", "dataset.generate_sudoku", "--size", "4", "--train", str(128 * steps), "--test", "512",
           "--output-dir", f"{data}-csv")
    python("-m", "dataset.build_sudoku_dataset", "--source-dir", f"{data}-csv", "--output-dir", str(data))
    python("pretrain.py", "experiment=demo_sudoku4", f"data_paths=[{data}]", "epochs=1", f"checkpoint.path={run}",
           "device=cpu", "ema_rate=0.9", "evaluators=[]")
    python("-c", "import torch; from config.restored import Restored; "
                 f"torch.save(Restored.read({str(run)!r}).weights(), {str(weights)!r})")
