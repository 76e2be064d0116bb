"""What a run tells: metrics.jsonl always, and either Weights & Biases or a plain text log; one process writes.

    <run>/metrics.jsonl      {"step": 10, "epoch": 0, "time": …, "train/loss": …} a line for each log interval and
                             evaluation; time in seconds since 1970; null: a number that is not finite
    <log_dir>/<log_file>     the same as text, EPOCH_SUMMARY lines, and what else was said (use_wandb=false); runs share
                             it, so each line ends in run=<project>/<name>

A terminal has a bar; where output goes to a file, a short line each log interval tells the same.
"""
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from utils.foreign import printable
from utils.progress import Pace, duration
from utils.run_directory import WANDB_ID
from utils.strict_json import as_json

ROOT = Path(__file__).resolve().parent.parent
ON_BAR = ("loss", "exact_accuracy", "mse")
IN_LINE = ("loss", "accuracy", "exact_accuracy", "mse", "rmse")  # of an evaluation, beside all of the evaluators
SOURCE_FOLDERS = ("config", "dataset", "evaluators", "losses", "models", "utils")
SCRIPTS = ("pretrain.py", "evaluate.py")  # what else lies beside them may be of others, as in site-packages


class LogConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # log to Weights & Biases (offline without credentials), or to a text file
    use_wandb: bool
    # folder of runs, and project on Weights & Biases; null: from the first data set and the architecture
    project_name: str | None
    # folder of this run, and its name; null: a readable unique name
    run_name: str | None
    # steps between two lines of train metrics, which are means over those steps
    log_interval: int = Field(gt=0)
    # folder of the text log
    log_dir: str
    # its name there
    log_file: str

    @field_validator("project_name", "run_name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts):
            raise ValueError(f"{name!r} names a folder below checkpoints/, and cannot lead out of "
                             "it; use checkpoint.path for another place")
        return name


class RunLog:
    """Writes the lines of one run and shows its progress. With `writes=False`, on ranks other than 0, it does nothing.

    `last_step` is where the run will end.
    """

    def __init__(self, config: LogConfig, run_dir: Path, settings: dict, parameters: dict[str, int],
                 last_step: int,
                 writes: bool = True, first_step: int = 0):
        self.writes, self.wandb, self.text_file = writes, None, None
        self.metrics_file = run_dir / "metrics.jsonl"
        self.unwritten: list[str] = []  # lines that found the disk full
        if not writes:
            return
        self.name = f"{config.project_name}/{config.run_name}"
        if config.use_wandb:
            self.wandb = _start_wandb(config, run_dir, settings, parameters, first_step)
        else:
            self.text_file = Path(config.log_dir) / config.log_file
            self.text_file.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"run {config.project_name} / {config.run_name}: {parameters['network']:,} "
                 f"parameters in the network, {parameters['puzzle_embedding']:,} in the puzzle "
                 f"embedding{_of_directory(run_dir)}")
        self.pace = Pace(first_step, last_step)
        self.watched = sys.stdout.isatty() and sys.stderr.isatty()
        self.bar = tqdm(total=last_step, initial=first_step, unit="step", dynamic_ncols=True,
                        disable=None)  # where standard error is no terminal

    def advance(self, seconds: float) -> None:
        """Count a step that took so many seconds."""
        if not self.writes:
            return
        self.bar.update()
        self.pace.add(seconds)
        if outlook := self.pace.of_first_steps():
            self.say(outlook)

    def log(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """One line of flat metrics."""
        if not self.writes or not metrics:  # of an evaluation without answers
            return
        line = {"step": step, "epoch": epoch, "time": round(time.time(), 3), **metrics}
        self.unwritten.append(as_json(line) + "\n")
        self.flush()
        if self.wandb:
            self.wandb.log(metrics | {"epoch": epoch}, step=step)
        self._write_text(" ".join(f"{name}={value:.{14 if name == 'time' else 6}g}"
                                  for name, value in line.items()))
        self._show(step, epoch, metrics)

    @property
    def takes_pictures(self) -> bool:
        return self.wandb is not None

    def log_picture(self, step: int, name: str, file: Path) -> None:
        """Log a picture to Weights & Biases, which copies the file."""
        import wandb

        assert self.wandb is not None
        self.wandb.log({name: wandb.Image(str(file))}, step=step)

    def _show(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Show metrics: evaluations on a line, training beside the bar, or on a line too where there is no terminal."""
        trained = {name: metrics[f"train/{name}"] for name in ON_BAR if f"train/{name}" in metrics}
        if trained:
            self.bar.set_postfix({name: f"{value:.3f}" for name, value in trained.items()},
                                 refresh=False)
        told = [f"{name} {value:.4g}" for name, value in trained.items()] or [
            f"{name} {value:.4g}" for name, value in metrics.items()
            if name.startswith("eval/") or name in [f"{of}/{key}" for of in ("val", "val/held_out") for key in IN_LINE]]
        if trained:
            if "train/grad_norm" in metrics:
                told.append(f"gradient norm {metrics['train/grad_norm']:.3g}")
            told += [f"{self.pace.seconds_a_step:.3g} s a step", f"{duration(self.pace.left)} left"]
        if not (trained and self.watched):
            tqdm.write(f"{time.strftime('%H:%M:%S')} step {step}/{self.pace.last_step} epoch "
                       f"{epoch}: {', '.join(told)}")

    def flush(self) -> None:
        """Write the lines that wait. If the disk is full, say so and keep them for the next call."""
        try:
            append_lines(self.metrics_file, self.unwritten)
            self.unwritten = []
        except OSError as error:
            tqdm.write(f"warning: {self.metrics_file} could not be written ({error}); "
                       f"{len(self.unwritten)} lines wait")

    def epoch_summary(self, epoch: int, train_loss: float, val_loss: float | None) -> None:
        """A line about the epoch. `val_loss` is None where the test data have no answers."""
        told = "NA" if val_loss is None else f"{val_loss:.6f}"
        self.say(f"EPOCH_SUMMARY epoch={epoch} train_loss={train_loss:.6f} val_loss={told}")

    def say(self, line: str) -> None:
        """A line for people: on the terminal, above the bar, and in the text log."""
        if not self.writes:
            return
        line = printable(line)
        tqdm.write(line)
        self._write_text(line)

    def record(self, line: str) -> None:
        """A line in the text log only; the terminal hears of it in another way."""
        if self.writes:
            self._write_text(line)

    def _write_text(self, line: str) -> None:
        if self.text_file:
            try:
                append_lines(self.text_file, [f"{line} run={self.name}\n"])
            except OSError as error:  # it is on the terminal, and metrics.jsonl has the numbers
                tqdm.write(f"warning: {self.text_file} could not be written ({error})")

    def close_bar(self) -> None:
        """End the bar, so that later output has its own lines, and try once more to write the lines that wait."""
        if self.writes:
            if self.unwritten:
                self.flush()
            self.bar.close()

    def finish(self) -> None:
        if self.wandb:
            self.wandb.finish()


def _of_directory(run_dir: Path) -> str:
    """How the first line that a run logs ends."""
    return f"; directory {run_dir}"


def tells_of(text_log: Path, run_dir: Path | None) -> bool:
    """Did the run in that directory write this text log? The config of a stranger could name any file."""
    if run_dir is None or not text_log.is_file():
        return False
    end = _of_directory(run_dir)
    with open(text_log, errors="replace") as lines:
        return any(f"{end} run=" in line or line.rstrip("\n").endswith(end) for line in lines)  # and of older logs


def append_lines(file: Path, lines: list[str]) -> None:
    """Append all of the text, or nothing and raise OSError."""
    with open(file, "ab", buffering=0) as f:
        size = f.tell()
        try:
            rest = "".join(lines).encode()
            while rest:
                rest = rest[f.write(rest):]
            os.fsync(f.fileno())  # a checkpoint must not outlive a line before it
        except OSError:
            f.truncate(size)
            raise


def unique_run_name(stem: str) -> str:
    """A new name on each call, readable, and sorted by time."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _start_wandb(config: LogConfig, run_dir: Path, settings: dict, parameters: dict[str, int],
                 first_step: int):
    """A W&B run with config, parameter counts and code. Without credentials or connection it is offline, and says so.

    A run that is resumed keeps its id. One that goes back to an earlier step gets a new id, with a link to the run
    before, because W&B online drops points of steps that it has seen. The points of the run before stay.
    """
    import wandb  # here, since importing it takes a second that --help need not

    id_file = run_dir / WANDB_ID
    run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(4)
    before = None if id_file.exists() else _last_set_aside_id(run_dir)
    id_file.write_text(run_id + "\n")
    link: dict[str, Any] = {}
    if before:
        link = {"notes": f"goes on from step {first_step} of run {before}",
                "tags": [f"from-{before}"]}
        settings = settings | {"goes_on_from": {"run": before, "step": first_step}}
        tqdm.write(f"Weights & Biases: a new run, {run_id}, since it goes back to step "
                   f"{first_step} of run {before}, which keeps its points")

    def start(mode: Literal["offline"] | None):
        return wandb.init(project=config.project_name, name=config.run_name, config=settings, mode=mode, id=run_id,
                          resume="allow", dir=str(run_dir),
                          settings=wandb.Settings(silent=True), **link)

    def start_offline(reason: str):
        tqdm.write(f"Weights & Biases: {reason}; logging offline to {run_dir}/wandb, "
                   "for `wandb sync` later")
        return start("offline")

    if os.environ.get("WANDB_MODE"):
        run = start(None)
    elif not wandb.login(prompt=False, verify=False):
        run = start_offline("no credentials (`wandb login`)")
    else:
        try:
            run = start(None)
        except wandb.errors.Error as error:
            run = start_offline(str(error).splitlines()[0])
    if not run.offline:
        tqdm.write(f"Weights & Biases: {run.url}")
    run.summary.update({f"parameters/{part}": count for part, count in parameters.items()})
    run.log_code(str(ROOT), include_fn=_is_source)
    return run


def _last_set_aside_id(run_dir: Path) -> str | None:
    """Of the W&B run that this one goes back in; see `set_aside_after` in utils/run_directory.py."""
    folders = [file.parent for file in run_dir.glob(f"superseded/*/{WANDB_ID}")]
    if not folders:
        return None
    return (max(folders, key=lambda folder: int(folder.name)) / WANDB_ID).read_text().strip()


def _is_source(path: str) -> bool:
    """Whether a file is one of the project's own: a script, or Python and YAML in its folders."""
    file = Path(path).relative_to(ROOT)
    return str(file) in SCRIPTS or (file.suffix in (".py", ".yaml") and file.parts[0] in SOURCE_FOLDERS)
