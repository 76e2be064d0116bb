"""Checkpoints: where they lie, how they are written and read, which one is the best.

    <run>/step_%08d.ckpt   the payload at an evaluation step, written before the evaluation, which may fail
    <run>/latest.txt       name of the newest of them
    <run>/best.ckpt        the one whose evaluation gave the best `checkpoint.monitor`

The payload is a dict of tensors and plain values, read with `weights_only=True`: a stranger's checkpoint runs no code.
"""
import os
import shutil
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

FORMAT_VERSION = 1
COMPILED_PREFIX = "_orig_mod."  # what torch.compile puts before every name in published checkpoints
PUZZLE_TABLE = "puzzle_emb.weights"


class CheckpointConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # the run's directory; null: checkpoints/<project>/<run>
    path: str | None
    # false: write no checkpoint (the run's directory still gets its config and metrics)
    enabled: bool
    # metric that best.ckpt follows, and its better direction; null: no best.ckpt
    monitor: str | None
    mode: Literal["min", "max"]
    # begin anew in a directory that holds a run, whose files are moved aside
    overwrite: bool


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary file path)`, and give the result its name only once it is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Checkpoints:
    """The checkpoint files of one run; `writes=False` (a rank other than 0) writes none."""

    def __init__(self, directory: Path, config: CheckpointConfig, writes: bool = True):
        self.directory, self.config, self.best = directory, config, None
        self.writes = writes and config.enabled

    def save(self, payload: dict, step: int) -> Path | None:
        """Write the payload of a step, and return its file."""
        if not self.writes:
            return None
        path = self.directory / f"step_{step:08d}.ckpt"
        payload = {"format_version": FORMAT_VERSION, "best_val_metric": self.best, **payload}
        write_atomically(path, lambda file: torch.save(payload, file))
        write_atomically(self.directory / "latest.txt", lambda file: file.write_text(path.name + "\n"))
        return path

    def keep_if_best(self, saved: Path | None, metrics: dict[str, float]) -> None:
        """Mirror `saved` to best.ckpt if its metrics improve. Raises ValueError if they lack the monitored one."""
        monitor = self.config.monitor
        if saved is None or monitor is None:
            return
        if monitor not in metrics:
            raise ValueError(f"checkpoint.monitor={monitor} is no metric of this evaluation; there are: "
                             f"{', '.join(sorted(metrics))}")
        sign = 1 if self.config.mode == "max" else -1
        if self.best is None or sign * metrics[monitor] > sign * self.best:
            self.best = metrics[monitor]
            write_atomically(self.directory / "best.ckpt", lambda file: shutil.copyfile(saved, file))


def set_aside_run(directory: Path, overwrite: bool) -> None:
    """Refuse to start in a directory that holds a run, or with `overwrite` give what it holds another name."""
    if not (directory / "metrics.jsonl").exists():
        return
    if not overwrite:
        raise ValueError(f"{directory} holds a run already; choose another run_name or checkpoint.path, or set "
                         "checkpoint.overwrite=true to move that run aside")
    number = next(n for n in range(1, 10_000) if not directory.with_name(f"{directory.name}.old{n}").exists())
    directory.rename(directory.with_name(f"{directory.name}.old{number}"))


def find_checkpoint(path: str | Path) -> Path:
    """The file that a path means: itself, or in a run's directory best.ckpt, else what latest.txt names."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"no checkpoint at {path}: there is no such file or directory")
    if (path / "best.ckpt").is_file():
        return path / "best.ckpt"
    latest = path / "latest.txt"
    if latest.is_file() and (path / latest.read_text().strip()).is_file():
        return path / latest.read_text().strip()
    raise ValueError(f"{path} holds neither best.ckpt nor a latest.txt that names a checkpoint in it")


def read_checkpoint(path: str | Path) -> dict:
    """The payload, on the CPU. Raises ValueError for a file that is no checkpoint, or needs a newer version of us."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly everything on damaged files; what it said is passed on
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason})") from error
    if not isinstance(payload, dict):
        raise ValueError(f"{path} holds a {type(payload).__name__}, not a checkpoint")
    if payload.get("format_version", FORMAT_VERSION) > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {payload['format_version']}, newer than {FORMAT_VERSION}; "
                         "update this program to read it")
    return payload


def weights_of(payload: dict, use_ema: bool) -> dict[str, Tensor]:
    """State dict of the loss head in a payload of ours or a published checkpoint (a bare state dict, or `model_state`).

    `use_ema` lays the averages over the weights where the payload has them; published files hold one copy only.
    """
    state = payload.get("model_state", payload)
    if use_ema:
        state = state | (payload.get("ema_state") or {})
    return {name.removeprefix(COMPILED_PREFIX): value for name, value in state.items()}


def load_weights(module: torch.nn.Module, state: dict[str, Tensor], source: str | Path,
                 resize_puzzle_table: bool) -> None:
    """Load a state dict strictly. `resize_puzzle_table`: a table of another size becomes its mean row, repeated: other
    puzzles, so no row has an owner. Raises ValueError that says what does not fit."""
    own = module.state_dict()
    for name in state.keys() & own.keys():
        if resize_puzzle_table and name.endswith(PUZZLE_TABLE) and state[name].shape[1:] == own[name].shape[1:] \
                and len(state[name]) != len(own[name]):
            state = state | {name: state[name].mean(0, keepdim=True).expand(own[name].shape)}
    problems = [f"{name} is missing" for name in own.keys() - state.keys()]
    problems += [f"{name} is unknown to this architecture" for name in state.keys() - own.keys()]
    problems += [f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
                 for name in own.keys() & state.keys() if state[name].shape != own[name].shape]
    if problems:
        raise ValueError(f"{source} does not fit this model: {'; '.join(sorted(problems)[:5])}"
                         + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
                         + ". Check arch=… and the data set against the run that wrote it")
    module.load_state_dict(state)
