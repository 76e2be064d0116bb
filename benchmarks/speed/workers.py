"""Processes that are built side by side and measured in turn.

To build is to load, to compile and to take a first step. Nothing is measured before all are built, so no compilation
disturbs a measurement. In a round each process takes its turn while the others wait, so that what disturbs the machine
disturbs all alike, and a ratio is the median of the ratios of the rounds.
"""
import contextlib
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
COMPILING = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}  # of each process, since some 30 may compile at one time


class Failed(Exception):
    """What went wrong in a process."""


class Worker:
    """A process of `worker.py`. It reports a failure once and takes no more turns.

    `patience_s`: the longest that it may take to be built, or for a turn.
    """

    def __init__(self, name: str, spec: dict, log: Path, patience_s: float = 300):
        self.name, self.spec, self.log, self.patience_s = name, spec, log, patience_s
        self.facts: dict = {}
        self.rounds: list[dict[str, float]] = []
        self.failed: str | None = None

    def build(self) -> None:
        environment = os.environ | COMPILING | self.spec.get("env", {})
        with open(self.log, "w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.speed.worker", json.dumps(self.spec)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment)
        assert process.stdin is not None and process.stdout is not None
        self.process, self.asks, self.answers = process, process.stdin, process.stdout
        self.received = b""
        with self._reported():
            self.facts = self._answer()

    def turn(self, **arguments: object) -> None:
        if self.failed is None:
            with self._reported():
                self.asks.write(json.dumps(arguments).encode() + b"\n")
                self.asks.flush()
                self.rounds.append(self._answer())

    def hang_up(self) -> None:
        """Let the process end, and remove its temporary files. `close` waits for it."""
        if hasattr(self, "asks"):
            with contextlib.suppress(BrokenPipeError):
                self.asks.close()

    def close(self) -> None:
        self.hang_up()
        if hasattr(self, "process"):
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def figure(self, key: str) -> float:
        """The median over the rounds. Raises Failed where the process failed."""
        self.refuse_failed()
        return median(found[key] for found in self.rounds)

    def refuse_failed(self) -> None:
        if self.failed is not None:
            raise Failed(f"{self.name}: {self.failed}")

    @contextlib.contextmanager
    def _reported(self):
        try:
            yield
        except (Failed, OSError) as error:
            self.failed = str(error)
            self.close()

    def _answer(self) -> dict:
        """The next line of the process. Raises Failed for a failure, for silence, and where the process has ended."""
        deadline = time.monotonic() + self.patience_s
        while b"\n" not in self.received:
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Failed(f"no answer in {self.patience_s:.0f} s ({self.log})")
            part = os.read(self.answers.fileno(), 2**16)
            if not part:
                raise Failed(f"ended with status {self.process.wait()} ({self.log})")
            self.received += part
        line, _, self.received = self.received.partition(b"\n")
        found = json.loads(line)
        if "failed" in found:
            raise Failed(found["failed"])
        return found


@contextlib.contextmanager
def built(group: str, specs: dict[str, dict], building: threading.Semaphore, logs: Path, patience_s: float = 300):
    """A context with a worker for each spec, by name. `building` limits how many are built at one time."""
    workers = {name: Worker(name, spec, logs / (re.sub(r"\W+", "-", f"{group} {name}") + ".log"), patience_s)
               for name, spec in specs.items()}

    def build(worker: Worker) -> None:
        with building:
            worker.build()

    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(build, workers.values()))
        yield workers
    finally:
        for worker in workers.values():
            worker.hang_up()
        for worker in workers.values():
            worker.close()


def take_turns(workers: Iterable[Worker], rounds: int, **arguments: object) -> None:
    workers = list(workers)
    for _ in range(rounds):
        for worker in workers:
            worker.turn(**arguments)


def ratio(above: Worker, below: Worker, key: str, key_below: str | None = None) -> float:
    """The median over the rounds of above / below. Raises Failed where either process failed."""
    above.refuse_failed()
    below.refuse_failed()
    return median(a[key] / b[key_below or key] for a, b in zip(above.rounds, below.rounds))
