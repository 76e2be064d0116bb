"""What a run tells: metrics.jsonl always, and either Weights & Biases or a plain text log; one process writes.

    <run>/metrics.jsonl      {"step": 10, "epoch": 0, "train/loss": …} a line for each log interval and evaluation;
                             null: a number that is not finite
    <log_dir>/<log_file>     the same as text, and EPOCH_SUMMARY lines (use_wandb=false)
"""
import os
import secrets
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from utils.foreign import printable
from utils.strict_json import as_json

ROOT = Path(__file__).resolve().parent.parent
ON_BAR = ("loss", "exact_accuracy", "mse")
SOURCE_FOLDERS = ("config", "dataset", "evaluators", "losses", "models", "utils")


class LogConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # log to Weights & Biases (offline without credentials), or to a text file
    use_wandb: bool
    # null: from the first data set and the architecture
    project_name: str | None
    # null: a readable unique name
    run_name: str | None
    # steps between two lines of train metrics, which are means over those steps
    log_interval: int = Field(gt=0)
    # the text log
    log_dir: str
    log_file: str

    @field_validator("project_name", "run_name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts):
            raise ValueError(f"{name!r} names a folder below checkpoints/, and cannot lead out of it; use "
                             "checkpoint.path for another place")
        return name


class RunLog:
    """Writes the lines of one run and moves its progress bar; `writes=False` (a rank other than 0) does neither."""

    def __init__(self, config: LogConfig, run_dir: Path, settings: dict, parameters: dict[str, int], total_steps: int,
                 writes: bool = True, first_step: int = 0):
        self.writes, self.wandb, self.text_file = writes, None, None
        self.metrics_file = run_dir / "metrics.jsonl"
        self.unwritten: list[str] = []  # lines that found the disk full
        if not writes:
            return
        if config.use_wandb:
            self.wandb = _start_wandb(config, run_dir, settings, parameters)
        else:
            self.text_file = Path(config.log_dir) / config.log_file
            self.text_file.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"run {config.project_name} / {config.run_name}: {parameters['network']:,} parameters in the network, "
                 f"{parameters['puzzle_embedding']:,} in the puzzle embedding{_of_directory(run_dir)}")
        self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step further on the bar."""
        if self.writes:
            self.bar.update()

    def log(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """One line of flat metrics; loss and accuracy or error of training go beside the bar."""
        if not self.writes or not metrics:  # of an evaluation without answers
            return
        line = {"step": step, "epoch": epoch, **metrics}
        self.unwritten.append(as_json(line) + "\n")
        self.flush()
        if self.wandb:
            self.wandb.log(metrics | {"epoch": epoch}, step=step)
        else:
            self.say(" ".join(f"{name}={value:.6g}" for name, value in line.items()))
        beside_bar = {name: f"{metrics[f'train/{name}']:.3f}" for name in ON_BAR if f"train/{name}" in metrics}
        if beside_bar:
            self.bar.set_postfix(beside_bar, refresh=False)

    def flush(self) -> None:
        """Write the lines that are still to be written; where the disk is full, say so and keep them for later."""
        try:
            append_lines(self.metrics_file, self.unwritten)
            self.unwritten = []
        except OSError as error:
            tqdm.write(f"warning: {self.metrics_file} could not be written ({error}); {len(self.unwritten)} lines wait")

    def epoch_summary(self, epoch: int, train_loss: float, val_loss: float | None) -> None:
        """`val_loss` None: the test data have no answers."""
        told = "NA" if val_loss is None else f"{val_loss:.6f}"
        self.say(f"EPOCH_SUMMARY epoch={epoch} train_loss={train_loss:.6f} val_loss={told}")

    def say(self, line: str) -> None:
        """A line for people: on the terminal, above the progress bar, and in the text log."""
        if not self.writes:
            return
        line = printable(line)
        tqdm.write(line)
        if self.text_file:
            try:
                append_lines(self.text_file, [line + "\n"])
            except OSError as error:  # it is on the terminal, and metrics.jsonl has the numbers
                tqdm.write(f"warning: {self.text_file} could not be written ({error})")

    def close_bar(self) -> None:
        """What is printed from now on has a line of its own. Metric lines that still wait are tried once more."""
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
    """Is this the text log of the run in that directory, begun here? A config from elsewhere could name any file."""
    if run_dir is None or not text_log.is_file():
        return False
    end = _of_directory(run_dir)
    with open(text_log, errors="replace") as lines:
        return any(line.rstrip("\n").endswith(end) for line in lines)


def append_lines(file: Path, lines: list[str]) -> None:
    """Append whole lines, or, raising OSError, nothing."""
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
    """Readable, sorted by time, and another each time it is asked for."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _start_wandb(config: LogConfig, run_dir: Path, settings: dict, parameters: dict[str, int]):
    """A W&B run with config, parameter counts and code; offline, saying so, without credentials or connection. A run
    that goes on keeps its id."""
    import wandb  # here, since importing it takes a second that --help need not

    id_file = run_dir / "wandb_run_id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(4)
    id_file.write_text(run_id + "\n")

    def start(mode: str | None):
        return wandb.init(project=config.project_name, name=config.run_name, config=settings, mode=mode, id=run_id,
                          resume="allow", dir=str(run_dir),
                          settings=wandb.Settings(silent=True))

    def start_offline(reason: str):
        tqdm.write(f"Weights & Biases: {reason}; logging offline to {run_dir}/wandb, for `wandb sync` later")
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


def _is_source(path: str) -> bool:
    """Is a file one of the project's own: a script, or Python and YAML in its folders?"""
    file = Path(path).relative_to(ROOT)
    return file.suffix in (".py", ".yaml") and (len(file.parts) == 1 or file.parts[0] in SOURCE_FOLDERS)
