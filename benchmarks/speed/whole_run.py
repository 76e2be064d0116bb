"""A whole run against its step: loader, optimizer, averaged weights and log, beside forward and backward alone.

Both are of one process, one network and one batch size, in turn.
"""
import utils.threads  # isort: skip  # noqa: F401  before PyTorch
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed import ours
from benchmarks.speed.data import write_random_data
from config.schema import PretrainConfig
from pretrain import build_run
from utils.distributed import World


def settings(sizes: dict, data: Path, run: Path, device: str) -> dict:
    """Of a training run of a workload, with the settings of the published recipes."""
    return {"arch": sizes["arch"], "data_paths": [str(data)], "evaluators": [], "epochs": 10_000, "use_wandb": False,
            "global_batch_size": sizes["rows"], "ema": True, "device": device, "checkpoint": {"path": str(run)},
            "log_dir": str(run), "skip_sanity_checks": True}


class Subject:
    """`spec`: workload, device."""

    def __init__(self, spec: dict):
        sizes, self.device = spec["workload"], torch.device(spec["device"])
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        data = write_random_data(path / "data", sizes["tokens"], sizes["vocabulary"], 8 * sizes["rows"])
        config = PretrainConfig.of(**settings(sizes, data, path / "run", spec["device"]))
        self.run = build_run(config, World(device=self.device), None)
        self.opened = self.run.opened(None)
        self.opened.__enter__()
        started = time.perf_counter()
        self._run(1)
        self.facts = {"first_step_s": time.perf_counter() - started, "threads": torch.get_num_threads()}

    def turn(self, steps: int) -> dict[str, float]:
        """Seconds of a step of the run, `run_s`, and of its forward and backward, `s`; each the mean of so many."""
        found = {}
        for name, work in (("s", self._step), ("run_s", self._run)):
            work(1)
            self._wait()
            started = time.perf_counter()
            work(steps)
            self._wait()
            found[name] = (time.perf_counter() - started) / steps
        return found

    def _run(self, steps: int) -> None:
        """As pretrain.py's loop between two evaluations."""
        run = self.run
        for _ in range(steps):
            run.step()
            if run.state.step % run.config.log_interval == 0:
                run.log_training()
            run.asked(run.checkpoints.due())

    def _step(self, steps: int) -> None:
        state = self.run.state
        for _ in range(steps):
            _, loss, *_ = state.head(carry=state.carry, batch=state.carry.current_data, return_keys=())
            (loss / state.data.local_batch_size).backward()
            ours.forget_gradients(state.head)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
