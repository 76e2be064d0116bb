"""How fast this project is, beside the published code, and what limits it: one table and one JSON file.

    python -m benchmarks.speed cpu --reference CHECKOUT     # `make bench`: 12 minutes on two idle cores
    python -m benchmarks.speed gpu --reference CHECKOUT     # `make bench-gpu`: 6 minutes of one card
    python -m benchmarks.speed gpu --device cpu --tiny      # a rehearsal of that without a card
    python -m benchmarks.speed cpu --profile "D 64"         # where the time of a step goes

CHECKOUT is a folder with https://github.com/SamsungSAILMontreal/TinyRecursiveModels, which is only run. A process that
fails costs its own rows, which say why; its errors are in data/bench-logs/. What begins after `--minutes` is left out.
"""
import argparse
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.speed import sets
from benchmarks.speed.groups import KERNELS, OURS, OURS_EAGER, REFERENCE, REFERENCE_EAGER, Group
from benchmarks.speed.rows import Row, markdown, milliseconds, write
from benchmarks.speed.start_up import seconds_to_first_step, seconds_to_load_torch
from benchmarks.speed.workers import ROOT, Failed, Worker, built, take_turns

PROFILED = (OURS_EAGER, OURS, KERNELS, REFERENCE_EAGER, REFERENCE)
LOGS = ROOT / "data" / "bench-logs"


class Session:
    """The rows found so far. They are written after each group, so that a run cut short has what it measured."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.started = time.monotonic()
        self.facts: dict = {}
        self.rows: list[Row] = []
        self.details: dict = {}
        self.building = threading.Semaphore(args.jobs)

    @property
    def in_time(self) -> bool:
        return time.monotonic() - self.started < 60 * self.args.minutes

    def measure_limits(self) -> dict:
        """The machine's limits and the counted products. Raises Failed."""
        spec = {"subject": "limits", "device": self.args.device, "tiny": self.args.tiny,
                "workloads": sets.counted(self.args.set, self.args.tiny)}
        worker = Worker("limits", spec, LOGS / "limits.log")
        worker.build()
        worker.close()
        worker.refuse_failed()
        limits = worker.facts
        self.facts = {"device": limits["device"], "torch": limits["torch"], "cores": os.cpu_count(),
                      "matrix TFLOP/s": round(limits["matrix_flops"] / 1e12, 3),
                      "copy GB/s": round(limits["copy_bytes"] / 1e9, 1)}
        print(json.dumps(self.facts), flush=True)
        return limits

    def build(self, group: Group, stack: ExitStack) -> dict[str, Worker] | Failed:
        """The processes of a group. A failure of what prepares them is returned."""
        try:
            if group.prepare:
                group.prepare()
        except Failed as error:
            return error
        return stack.enter_context(built(group.name, group.specs, self.building, LOGS, self.args.patience))

    def measure(self, group: Group, workers: dict[str, Worker] | Failed, limits: dict) -> None:
        if isinstance(workers, Failed):
            self.add([Row(group.name, failed=str(workers))])
            return
        if not self.in_time:
            self.add([Row(group.name, failed=f"not begun after {self.args.minutes} minutes")])
            return
        take_turns(workers.values(), group.rounds, **group.turn)
        self.details[group.name] = {
            name: {"facts": worker.facts, "rounds": worker.rounds, "failed": worker.failed}
            for name, worker in workers.items()}
        self.add(group.rows(workers, limits))

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        write(self.args.output, self.facts, self.rows, self.details)
        for row in rows:
            print(f"[{time.monotonic() - self.started:4.0f} s] {' | '.join(row.cells())}", flush=True)


def one_after_the_other(session: Session, groups: list[Group], limits: dict) -> None:
    """Each group is built and measured before the next, as few cores need it."""
    for group in groups:
        with ExitStack() as stack:
            session.measure(group, session.build(group, stack) if session.in_time else Failed("out of time"), limits)


def side_by_side(session: Session, groups: list[Group], limits: dict) -> None:
    """All of a stage are built before the first is measured, so that compiling uses all cores and disturbs nobody."""
    with ExitStack() as stack, ThreadPoolExecutor(len(groups)) as pool:
        for group, workers in zip(groups, list(pool.map(lambda group: session.build(group, stack), groups))):
            session.measure(group, workers, limits)


def start_up_rows(session: Session, name: str, settings: list[str], targets: dict[str, float],
                  tries: int) -> list[Row]:
    """Seconds from the command to the first step, the median of `tries`, for each of `targets` in turn; compiled code
    is kept from one to the next. The ratio is that to loading PyTorch alone, since seconds are the machine's own."""
    cache = session.folder / "compiled"
    env = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    rows = []
    for kind, target in targets.items():
        row = Row(f"command to first step / loading PyTorch, {name}{kind}", at_least=False)
        try:
            runs = [session.folder / f"start{kind}{number}" for number in range(tries)]
            found = [(seconds_to_first_step(settings, run, env), seconds_to_load_torch()) for run in runs]
            seconds = median(first_step for first_step, _ in found)
            row.ours, row.ratio = f"{seconds:.1f} s", median(first_step / loaded for first_step, loaded in found)
            row.limit = f"target {target:g} s: {'met' if seconds <= target else 'not met'}"
        except RuntimeError as error:
            row.failed = str(error)
        rows.append(row)
    return rows


def communication_row(session: Session, step_s: float, told: str) -> Row:
    """The largest share of a paper-size step of `step_s` seconds that communication takes over the links of LINKS."""
    row = Row("communication / a paper-size step, 1 → 2 processes, by a model", target=0.05, at_least=False)
    sizes = sets.workload(2, 81, 11, 512, "mlp_t", T=1, n=1, prefix=16)
    worker = Worker("communication", {"subject": "communication", "workload": sizes, "rows": 384},
                    LOGS / "communication.log")
    worker.build()
    worker.close()
    try:
        worker.refuse_failed()
    except Failed as error:
        row.failed = str(error)
        return row
    facts, seconds = worker.facts, worker.facts["links_s"]
    session.details["communication"] = facts
    row.ours = f"{facts['bytes'] / 1e6:.1f} MB in {facts['calls']:.0f} operations: " + ", ".join(
        f"{milliseconds(value)} over {link}" for link, value in seconds.items())
    row.ratio = max(seconds.values()) / step_s
    row.limit = (f"step of {told}; here over Gloo {milliseconds(facts['measured_s'])}, by the model "
                 f"{milliseconds(facts['modelled_s'])}")
    return row


def run(session: Session) -> None:
    args = session.args
    limits = session.measure_limits()
    if args.set == "cpu":
        groups = chosen(sets.cpu_groups(args.reference, session.folder), args.only)
        one_after_the_other(session, groups, limits)
    else:
        groups = chosen(sets.gpu_groups(args.reference, session.folder, args.device, args.tiny), args.only)
        for stage in sorted({group.stage for group in groups}):
            if session.in_time:
                side_by_side(session, [group for group in groups if group.stage == stage], limits)
    if session.in_time and not args.only:
        start_up(session)
        session.add([communication_row(session, 0.045, "45 ms, the aim on an H100")])


def start_up(session: Session) -> None:
    from benchmarks.speed.data import write_random_data
    sizes = sets.DEMO if session.args.device == "cpu" else sets.PAPER[sets.LEVERED]
    data = write_random_data(session.folder / "random", sizes["tokens"], sizes["vocabulary"], 4 * sizes["rows"])
    if session.args.device == "cpu":
        settings = ["experiment=demo_sudoku4", f"data_paths=[{data}]", "device=cpu", "evaluators=[]"]
        session.add(start_up_rows(session, "the demo on a CPU", settings, {"": 3}, tries=3))
    else:
        settings = ["experiment=sudoku_mlp", f"data_paths=[{data}]", "global_batch_size=384", "evaluators=[]"]
        session.add(start_up_rows(session, "paper size", settings, {", cold cache": 30, ", warm cache": 15}, tries=1))


def chosen(groups: list[Group], only: str | None) -> list[Group]:
    found = [group for group in groups if only is None or only in group.name]
    if not found:
        raise SystemExit(f"--only {only} is in no name of {', '.join(group.name for group in groups)}")
    return found


def profile(session: Session) -> None:
    """Print where the time of a step goes, for each side and each group whose name holds `--profile`."""
    args = session.args
    groups = (sets.cpu_groups(args.reference, session.folder) if args.set == "cpu" else
              sets.gpu_groups(args.reference, session.folder, args.device, args.tiny))
    for group in chosen(groups, args.profile):
        kernels_told = {"env": {"TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE": "1"}}
        steps = {name: spec | kernels_told for name, spec in group.specs.items() if name in PROFILED}
        if not steps:
            continue
        with built(group.name, steps, session.building, LOGS) as workers:
            for name, worker in workers.items():
                worker.turn(steps=3, profiled=True)
                print(f"\n{group.name}, {name}: {worker.failed or worker.rounds[-1]['told']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("cpu", "gpu"))
    parser.add_argument("--reference", help="a checkout of the published code to compare with")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of the set gpu (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to rehearse")
    parser.add_argument("--only", help="only the groups whose name holds this")
    parser.add_argument("--profile", metavar="NAME", help="instead, profile the groups whose name holds this")
    parser.add_argument("--minutes", type=float, help="begin no group later than this (default: 13, on a GPU 5)")
    parser.add_argument("--patience", type=float, help="seconds that a process may take to build (default: 300, "
                                                       "on a GPU 170)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile at one time")
    parser.add_argument("--output", type=Path, help="file of the results (default: data/bench-cpu.json or -gpu)")
    args = parser.parse_args()
    args.device = args.device or ("cpu" if args.set == "cpu" else "cuda")
    args.minutes = args.minutes or (13 if args.set == "cpu" else 5)
    args.patience = args.patience or (300 if args.set == "cpu" else 170)
    args.output = args.output or ROOT / "data" / f"bench-{args.set}.json"
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(args, Path(folder))
        if args.profile:
            profile(session)
            return
        run(session)
    print(f"\n{markdown(session.rows)}\n\n{args.output}: the same, and what each process measured")


if __name__ == "__main__":
    main()
