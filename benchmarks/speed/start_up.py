"""Seconds from the command to the end of the first training step: a real `pretrain.py`, ended after its first line of
metrics."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLL_S, GIVE_UP_S = 0.005, 240


def seconds_to_first_step(settings: list[str], folder: Path, env: dict[str, str] | None = None) -> float:
    """`folder`: an empty or missing one, for the run. Raises RuntimeError with the end of its errors if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics, errors = folder / "run" / "metrics.jsonl", folder / "errors.txt"
    command = [sys.executable, "pretrain.py", *settings, f"checkpoint.path={folder / 'run'}", "log_interval=1",
               "use_wandb=false", f"log_dir={folder}"]
    started = time.perf_counter()
    with open(errors, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file,
                                   env=os.environ | (env or {}))
    try:
        while not has_step(metrics):
            if process.poll() is not None or time.perf_counter() - started > GIVE_UP_S:
                raise RuntimeError(f"no first step: {errors.read_text().strip()[-300:]}")
            time.sleep(POLL_S)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


def has_step(metrics: Path) -> bool:
    """Whether the file has a whole line with a training metric."""
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return any("train/loss" in json.loads(line) for line in lines)


def seconds_to_load_torch() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started
