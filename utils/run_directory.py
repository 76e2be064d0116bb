"""The directory of a run: one run at a time, what an earlier one left, and the newest checkpoint that is whole.

Nothing is ever deleted here. What a resumed run writes anew, its later checkpoints and metric lines, is first moved to
<run>/superseded/<n>/; a run that begins anew in a used directory leaves the old one as <run>.old<n>.
"""
import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from utils.checkpoint import STEP_FILES, latest_name, read_checkpoint, step_file, write_atomically
from utils.strict_json import read_metrics

METRICS = "metrics.jsonl"
WANDB_ID = "wandb_run_id.txt"  # of the W&B run that has this run's points


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the directory, made if need be, against other runs; the kernel lets go of it when the process ends, however
    it ends. Raises ValueError where another run holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the run's directory {directory} cannot be made ({error.strerror}); "
                         "choose another checkpoint.path") from error
    files = [file for file in directory.iterdir() if file.suffix != ".ckpt"]
    refuse_links([*files, *directory.glob("evaluation*/**/*")], directory)
    with open(directory / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(f"{directory} is in use by "
                             f"{lock.read().strip() or 'another run'}; wait for it to end, or "
                             "choose another run_name or checkpoint.path") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        for unfinished in directory.glob(".*.tmp"):  # of a write that was killed
            unfinished.unlink()
        yield


def refuse_links(files: Iterable[Path], home: Path) -> None:
    """Raise ValueError where one of these files is a link that leads out of `home`. A folder that was unpacked or
    copied from elsewhere can hold such a link, and writing to it would replace a file of the user's."""
    for file in files:
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(home)):
            raise ValueError(f"{file} is a link to {file.readlink()}, outside of {home}, and would "
                             "be written to; replace it by the file itself, or remove it")


def holds_run(directory: Path) -> bool:
    return (directory / METRICS).exists() or any(directory.glob(STEP_FILES))


def set_aside_run(directory: Path, overwrite: bool) -> None:
    """Refuse to start in a directory that holds a run, or with `overwrite` give what it holds another name."""
    if not holds_run(directory):
        return
    if not overwrite:
        raise ValueError(f"{directory} holds a run already; go on with it by "
                         "checkpoint.resume=true, choose another run_name or checkpoint.path, or "
                         "set checkpoint.overwrite=true to move that run aside")
    number = next(n for n in range(1, 10_000) if not directory.with_name(f"{directory.name}.old{n}").exists())
    old = directory.with_name(f"{directory.name}.old{number}")
    old.mkdir()
    for file in directory.iterdir():
        if file.name != ".lock":
            file.rename(old / file.name)


def set_aside_after(directory: Path, step: int, keep_best: bool = True, repeats: bool = True,
                    known: Path | None = None) -> Path | None:
    """Move step files and metric lines later than `step` to superseded/<n>. Returns that folder, or None.

    A half-written line goes, too. So does best.ckpt where it is later, damaged or not to be kept; `known` is a file of
    this step that has been read, and so is not read again. So does the id of the W&B run, which takes no point twice:
    where the run goes back behind a checkpoint, or will make other points than those set aside (`repeats`: will it make
    the same?).

    Files go first, newest first: killed at any point, what stays is a run up to some earlier step.
    """
    later = [file for file in sorted(directory.glob(STEP_FILES), reverse=True)
             if int(file.stem.removeprefix("step_")) > step]
    best = directory / "best.ckpt"
    if best.exists() and not (keep_best and ((known and best.samefile(known)) or _step_of(best) <= step)):
        later.append(best)
    kept, superseded = _split_lines(directory / METRICS, step)
    if not later and not superseded:
        return None
    goes_back = any(file != best for file in later) or not repeats
    number = next(n for n in range(1, 1_000_000) if not (directory / "superseded" / str(n)).exists())
    folder = directory / "superseded" / str(number)
    folder.mkdir(parents=True)
    for file in later:
        file.rename(folder / file.name)
    if goes_back and (directory / WANDB_ID).exists():
        (directory / WANDB_ID).rename(folder / WANDB_ID)
    if superseded:
        (folder / METRICS).write_text("".join(superseded))
        write_atomically(directory / METRICS, lambda file: file.write_text("".join(kept)))
    return folder


def _step_of(checkpoint: Path) -> float:
    """The step of a checkpoint that is whole, by its checksums; infinity for one that is not."""
    try:
        return read_checkpoint(checkpoint, mapped=True)["step"]
    except ValueError:
        return float("inf")


def adopt(source: Path, directory: Path, step: int) -> None:
    """Make the checkpoint that a run goes on from the newest of its directory, to go on from it again later."""
    own = directory / step_file(step)
    if source.resolve() != own.resolve():  # of that name, there may be the damaged one that made the user choose
        write_atomically(own, lambda file: shutil.copyfile(source, file))
    write_atomically(directory / "latest.txt", lambda file: file.write_text(own.name + "\n"))


def restored_best(directory: Path, monitor: str | None, value: float | None) -> float | None:
    """The best value of the monitored metric so far, once best.ckpt is sure to hold its weights.

    Where best.ckpt is missing, the step file that had this value is copied to it. None where no file had it, and where
    the value is not finite (an older version could take that for the best).
    """
    if value is None or not math.isfinite(value):
        return None
    if (directory / "best.ckpt").exists():
        return value
    logged = dict(evaluations(directory))
    for file in sorted(directory.glob(STEP_FILES)):
        if logged.get(int(file.stem.removeprefix("step_")), {}).get(monitor) == value:
            write_atomically(directory / "best.ckpt", partial(shutil.copyfile, file))
            return value
    return None


def _split_lines(metrics: Path, step: float) -> tuple[list[str], list[str]]:
    """Lines up to a step, and the later ones."""
    kept, later = [], []
    for line in metrics.read_text().splitlines(keepends=True) if metrics.exists() else []:
        (kept if _is_whole(line) and json.loads(line)["step"] <= step else later).append(line)
    return kept, later


def _is_whole(line: str) -> bool:
    return line.endswith("\n") and line.startswith("{")


def evaluations(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of each evaluation in the log of a run. Lines of training, which are many, are not parsed."""
    found = []
    file = directory / METRICS
    for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
        if ('"val/' in line or '"eval/' in line) and _is_whole(line):
            entry = read_metrics(line)
            metrics = {name: value for name, value in entry.items() if name.startswith(("val/", "eval/"))}
            found.append((entry["step"], metrics))
    return found


def newest_checkpoint(directory: Path, say: Callable[[str], None]) -> tuple[Path, dict] | None:
    """The newest step file that is whole, and its payload; None where there is none. Damaged ones, and a latest.txt
    that names another, are said."""
    files = sorted(directory.glob(STEP_FILES), reverse=True)
    latest, named = directory / "latest.txt", latest_name(directory)
    if latest.exists() and (not files or files[0].name != named):
        say(f"warning: {latest} names {named or 'no file here'}, and the newest checkpoint is "
            f"{files[0].name if files else 'missing'}")
    for file in files:
        try:
            return file, read_checkpoint(file)
        except ValueError as error:
            say(f"warning: {error}; looking for the one before")
    return None


def runs_there_are(root: Path = Path("checkpoints")) -> str:
    """The runs below a folder that have a checkpoint, as the end of a sentence."""
    runs = sorted({str(file.parent) for depth in ("*", "*/*")
                   for file in root.glob(f"{depth}/{STEP_FILES}")})
    return f"runs there are: {', '.join(runs)}" if runs else f"there are no runs below {root}/"
