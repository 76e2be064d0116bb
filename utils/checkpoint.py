"""Checkpoints: how they are written, found to be whole, and read; which one is the best.

    <run>/step_%08d.ckpt   the payload at an evaluation step, written before the evaluation, which may fail
    <run>/latest.txt       name of the newest of them
    <run>/best.ckpt        the one whose evaluation gave the best `checkpoint.monitor`

The payload is a dict of tensors and plain values, read with `weights_only=True`: a stranger's checkpoint runs no code.
Training waits only while the payload is copied; another thread writes it. A write that fails costs no run: it is said,
the files before it stay, and it is tried again.
"""
import difflib
import json
import math
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from utils.foreign import plain_settings, read_settings
from utils.hub import downloaded, is_reference

# A version changes where an older program would misread a newer file, or the reverse; an added key changes nothing.
FORMAT_VERSION = 2  # 1: without random states, meters and the carries of all ranks; gives its weights, not its run
COMPILED_PREFIX = "_orig_mod."  # what torch.compile puts before every name in published checkpoints
PUZZLE_TABLE = "puzzle_emb.weights"
STEP_FILES = "step_????????.ckpt"
PUBLISHED_FILES = r"step_\d+"
SAFETENSORS = "model.safetensors"
CONFIG_NAMES = ("config.yaml", "all_config.yaml")  # beside a checkpoint: ours, and the published one
MOST_NAMED = 10  # of the runs in a folder, by a message
RETRY_S = 60.0  # after a write that failed


class CheckpointConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # the run's directory; null: checkpoints/<project>/<run>
    path: str | None
    # false: write no checkpoint (the run's directory still gets its config and metrics)
    enabled: bool
    # metric that best.ckpt follows; null: no best.ckpt
    monitor: str | None
    # is less of it better (min), or more (max)
    mode: Literal["min", "max"]
    # newest step files to keep, best.ckpt besides; null: all
    keep_last: int | None = Field(gt=0)
    # minutes after which to save between evaluations, too; null: only at evaluations
    every_minutes: float | None = Field(gt=0)
    # go on with the run in `path`: true from its newest checkpoint, auto likewise if there is one and anew if not
    resume: bool | Literal["auto"]
    # go on from this checkpoint: a file, or the name of one in `path`
    resume_from: str | None
    # begin anew in a directory that holds a run, whose files are moved aside
    overwrite: bool

    @model_validator(mode="after")
    def _check(self):
        if self.overwrite and (self.resume or self.resume_from):
            raise ValueError("overwrite=true begins anew and resume goes on; set one of them")
        return self


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary file path)`, and give the result its name only once it is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def improves(value: float, best: float | None, mode: str) -> bool:
    """Is a value better than the best so far? `best`: None where there is none yet; `mode`: min or max. A value that is
    not finite is never better."""
    sign = 1 if mode == "max" else -1
    return math.isfinite(value) and (best is None or sign * value > sign * best)


def snapshot(value):
    """A copy of a payload in main memory, which training no longer changes."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    return type(value)(map(snapshot, value)) if isinstance(value, (list, tuple)) else value


class Checkpoints:
    """The checkpoint files of one run. `writes=False` (a rank other than 0) writes none; `say` tells people."""

    def __init__(self, directory: Path, config: CheckpointConfig, writes: bool = True,
                 say: Callable[[str], None] = print, best: float | None = None):
        self.directory, self.config, self.say, self.best = directory, config, say, best
        self.writes = writes and config.enabled
        self.asked: int | None = None  # step of the last write that was asked for, and of the last that came to an end
        self.written: int | None = None
        self._writer, self._pending = ThreadPoolExecutor(max_workers=1), None
        self._save_at = self._next_save()

    def _next_save(self) -> float:
        return time.monotonic() + 60 * (self.config.every_minutes or float("inf"))

    def due(self) -> bool:
        """Is it time to save between evaluations, or to try again? The clock is that of the rank that writes."""
        if self._pending is not None and self._pending.done():
            self.wait()
        return self.writes and time.monotonic() >= self._save_at

    def save(self, payload: dict | None, step: int) -> None:
        """Write the payload of a step in the background, once the write before has ended."""
        if not self.writes:
            return
        self.wait()
        copy = snapshot({"format_version": FORMAT_VERSION, "best_val_metric": self.best, **payload})
        self._save_at, self.asked = self._next_save(), step
        self._pending = self._writer.submit(self._write, copy, step)

    def _write(self, payload: dict, step: int) -> int:
        path = self.directory / step_file(step)
        write_atomically(path, lambda file: _save(payload, file))
        write_atomically(self.directory / "latest.txt",
                         lambda file: file.write_text(path.name + "\n"))
        for old in sorted(self.directory.glob(STEP_FILES))[:-self.config.keep_last] if self.config.keep_last else []:
            old.unlink()
        return step

    def wait(self) -> None:
        """Wait for the write under way. Where it failed, that is said, and the next is due after `RETRY_S`."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                self.written = pending.result()
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own writer
            self._save_at = time.monotonic() + RETRY_S
            self.say(f"warning: the checkpoint could not be written to {self.directory} "
                     f"({error}); training goes on with the checkpoints before kept, and writes "
                     f"again in {RETRY_S:g} s")

    def holds(self, step: int) -> bool:
        """Has the state of this step been written? Waits until that is known."""
        self.wait()
        return self.written == step

    def refuse_unwritten(self) -> None:
        """Raise OSError where the last write that was asked for has failed."""
        self.wait()
        if self.asked != self.written:
            raise OSError(f"{step_file(self.asked)} was not written to {self.directory}, as said "
                          "above; the checkpoints before it are as they were: make room there, and "
                          "go on with checkpoint.resume=true")

    def keep_if_best(self, step: int, metrics: dict[str, float]) -> None:
        """Mirror the checkpoint of `step` to best.ckpt if its metrics improve. A monitored one that is missing or not
        finite is said, and is never the best; no metrics at all come of test data without answers."""
        monitor = self.config.monitor
        if not self.writes or monitor is None or not metrics:
            return
        value = metrics.get(monitor)
        if value is None:
            self.say(f"warning: the evaluation at step {step} has no {monitor}, so best.ckpt is as "
                     f"it was; choose a checkpoint.monitor among {', '.join(sorted(metrics))}")
            return
        if not math.isfinite(value):
            self.say(f"warning: {monitor} is {value} at step {step}, which is never the best; "
                     "best.ckpt is as it was")
        if not improves(value, self.best, self.config.mode):
            return
        self.wait()
        saved = self.directory / step_file(step)
        if not saved.is_file():
            self.say(f"warning: {monitor}={value:.6g} is the best so far, but "
                     f"{saved.name} was not written")
            return
        try:
            write_atomically(self.directory / "best.ckpt",
                             lambda file: shutil.copyfile(saved, file))
            self.best = value
        except OSError as error:
            self.say(f"warning: best.ckpt could not be written ({error}); the "
                     "one before is as it was")

    def close(self) -> None:
        self.wait()
        self._writer.shutdown()


def _save(payload: dict, file: Path) -> None:
    with open(file, "wb") as f:  # given a path, torch.save hides why a write failed
        torch.save(payload, f)


def step_file(step: int) -> str:
    return f"step_{step:08d}.ckpt"


def latest_name(directory: Path) -> str | None:
    """What latest.txt names; None where it is absent, or names no file of this directory."""
    file = directory / "latest.txt"
    name = file.read_bytes()[:256].decode(errors="replace").strip() if file.is_file() else ""
    return name if re.fullmatch(r"\w[\w.-]{0,99}", name) else None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path, or `hf://…` on the hub, means. A file means itself; of a folder it is the first
    that is there of best.ckpt, what latest.txt names, model.safetensors, the newest step_N, and HRM's `checkpoint`.
    Raises ValueError where there is none."""
    path = downloaded(path) if is_reference(path) else Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*")], n=1)
        meant = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ValueError(f"no checkpoint at {path}: there is no such file or directory{meant}")
    if (path / "best.ckpt").is_file():
        return path / "best.ckpt"
    latest = latest_name(path)
    if latest and (path / latest).is_file():
        return path / latest
    if (path / SAFETENSORS).is_file():
        return path / SAFETENSORS
    published = [file for file in path.glob("step_*") if re.fullmatch(PUBLISHED_FILES, file.name)]
    if published:
        return max(published, key=lambda file: int(file.name.removeprefix("step_")))
    if (path / "checkpoint").is_file():
        return path / "checkpoint"
    runs = sorted(str(file.parent) for depth in ("*", "*/*")
                  for file in path.glob(f"{depth}/latest.txt"))
    if runs:
        raise ValueError(f"{path} is a folder of runs; name one of them: "
                         f"{', '.join(runs[:MOST_NAMED])}")
    raise ValueError(f"{path} holds neither best.ckpt nor a latest.txt that names a checkpoint in "
                     f"it, nor {SAFETENSORS} or a published step_N or checkpoint")


def read_checkpoint(path: str | Path, mapped: bool = False) -> dict:
    """The payload, on the CPU. `mapped`: for a look at its plain values. Its tensors then stay in the file and must not
    be touched, since a file that shrinks meanwhile would kill the process.

    Raises ValueError for a file that is missing, damaged or no checkpoint, or needs a newer version of us. Our files
    (and published ones of today) are zip archives, whose checksums reveal every flipped bit of their contents.
    Pickles are read with `weights_only=True`, which refuses what is more than tensors and plain values.
    """
    try:
        if Path(path).suffix == Path(SAFETENSORS).suffix:
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            _check_archive(path)
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises nearly everything on damaged files; what it said is passed on
        advises_harm = "weights_only" in str(error)  # torch then says how to run the code in the file
        reason = "it holds more than tensors and plain values, or is no file of torch.save" if advises_harm else \
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason}); one of an "
                         "earlier step may be whole"
                         ) from error
    if not isinstance(payload, dict):
        raise ValueError(f"{path} holds a {type(payload).__name__}, not a checkpoint")
    if not isinstance(payload.get("format_version", FORMAT_VERSION), int):
        raise ValueError(f"{path} has format version "
                         f"{payload['format_version']!r}, which is no number")
    if payload.get("format_version", FORMAT_VERSION) > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {payload['format_version']}, newer than "
                         f"{FORMAT_VERSION}; update this program to read it")
    return payload


def _check_archive(path: str | Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("its parts are compressed, which torch.save never does: a few "
                             "MB could fill the memory")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"the checksum of its part {damaged} is wrong")


def _read_safetensors(path: str | Path) -> dict:
    """The payload of our own export; other people's files hold tensors only."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        payload = {"model_state": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118, it is no dict
    facts = json.loads(header.get("facts", "{}"))
    payload |= {key: facts[key]
                for key in ("step", "data_fingerprints", "data_metadata") if key in facts}
    return payload | ({"config": json.loads(header["config"])} if "config" in header else {})


def weights_of(payload: dict, use_ema: bool) -> dict[str, Tensor]:
    """State dict of the loss head in a payload of ours or a published checkpoint (a bare state dict, or `model_state`).

    `use_ema` lays the averages over the weights where the payload has them; published files hold one copy only. Raises
    ValueError where there is something else than tensors by name.
    """
    states = [payload.get("model_state", payload),
              payload.get("ema_state") or {} if use_ema else {}]
    for state in states:
        if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(value, Tensor)
                                                  for name, value in state.items()):
            raise ValueError("the weights in the checkpoint are not tensors by name; it is none of "
                             "this project's, nor a published one")
    return {name.removeprefix(COMPILED_PREFIX): value for state in states
            for name, value in state.items()}


def settings_of(checkpoint: Path, payload: dict) -> tuple[dict, Path] | None:
    """The config of the run that wrote a checkpoint, and the file that holds it: the checkpoint, or a YAML beside it.
    None where there is none. Raises ValueError where it holds more than plain values."""
    if "config" in payload:
        return plain_settings(payload["config"], checkpoint), checkpoint
    beside = [checkpoint.parent / name
              for name in CONFIG_NAMES if (checkpoint.parent / name).is_file()]
    if not beside:
        return None
    settings = read_settings(beside[0])
    if "data_path" in settings:  # of HRM's own repository
        settings["data_paths"] = [settings.pop("data_path")]
    return settings, beside[0]


def puzzle_table_rows(state: dict[str, Tensor]) -> int | None:
    """Rows of the puzzle table in a state dict; None where there are none."""
    return next((len(value) for name, value in state.items() if name.endswith(PUZZLE_TABLE) and value.numel()
                 and value.ndim), None)


def load_weights(module: torch.nn.Module, state: dict[str, Tensor], source: str | Path,
                 puzzle_rows: Tensor | None = None) -> None:
    """Load a state dict strictly. `puzzle_rows` (rows of the module's puzzle table,): the row of the state's table that
    each takes, -1 for the mean of all; None: each its own. Raises ValueError that says what does not fit."""
    own = module.state_dict()
    for name in state.keys() & own.keys():
        if puzzle_rows is not None and name.endswith(PUZZLE_TABLE) and state[name].shape[1:] == own[name].shape[1:]:
            taken = state[name][puzzle_rows.clamp(min=0)]
            taken[puzzle_rows < 0] = state[name].mean(0)
            state = state | {name: taken}
    refuse_misfit(own, state, source)
    module.load_state_dict(state)


def refuse_misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor],
                  source: str | Path) -> None:
    """Raise ValueError where a state has other names or shapes than a module's own, saying which."""
    problems = [f"{name} is missing" for name in own.keys() - state.keys()]
    problems += [f"{name} is unknown to this architecture" for name in state.keys() - own.keys()]
    problems += [f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
                 for name in own.keys() & state.keys() if state[name].shape != own[name].shape]
    if problems:
        raise ValueError(f"{source} does not fit this model: {'; '.join(sorted(problems)[:5])}"
                         + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
                         + ". Check arch=… and the data set against the run that wrote it")
