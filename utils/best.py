"""Which evaluation of a run is its best: by the metric that `checkpoint.monitor` names, and by others."""
import re
from collections.abc import Sequence
from pathlib import Path

from utils.checkpoint import STEP_FILES, CheckpointConfig, improves, step_file
from utils.run_directory import evaluations

# Metrics that say how good answers are, which a loss need not, and their better direction.
SCORES = {r"val/exact_accuracy|eval/.+/(accuracy|solved)": "max", r"val/rmse": "min"}


Logged = Sequence[tuple[int, dict[str, float]]]  # step and metrics of each evaluation


def best_of(logged: Logged, metric: str | None, mode: str) -> tuple[int, float] | None:
    """Step and value of the best evaluation by a metric; of equal ones, the first.

    None where no evaluation has a finite value of it.
    """
    best = None
    for step, metrics in logged:
        if metric in metrics and improves(metrics[metric], best and best[1], mode):
            best = step, metrics[metric]
    return best


def out_of_patience(run: Path, config: CheckpointConfig, patience: int) -> str | None:
    """What to say where the last `patience` evaluations of a run did not improve the monitored metric; else None."""
    logged = evaluations(run)
    steps = [step for step, metrics in logged if config.monitor in metrics]
    best = best_of(logged, config.monitor, config.mode)
    waited = len([step for step in steps if best is None or step > best[0]])
    if waited < patience:
        return None
    since = f"since step {best[0]} ({best[1]:.6g})" if best else "at all"
    return (f"notice: the run ends at step {steps[-1]}: {config.monitor} has not improved "
            f"{since}, for {waited} evaluations (early_stop_patience={patience}); resume it "
            "with a larger one to go on")


def unscored_since(run: Path, step: int) -> list[str]:
    """A line to print if the run has a newer checkpoint than that of `step` which no evaluation has scored."""
    newest = max((int(file.stem.partition("_")[2]) for file in run.glob(STEP_FILES)), default=step)
    if newest <= step or newest in dict(evaluations(run)):
        return []
    file = run / step_file(newest)
    return [f"notice: best.ckpt is of step {step}; {file.name} is newer, and the run ended before an evaluation scored "
            f"it: checkpoint={file} does"]


def best_in_doubt(run: Path, monitor: str | None, step: int | None = None,
                  value: float | None = None) -> list[str]:
    """A line to print if another step than that of best.ckpt has better scores; an empty list if not.

    best.ckpt is of `step`; or else of the first step at which the monitored metric had this `value`.

    The cause is most often the halting loss in val/loss: it grows as puzzles get solved, since q starts at a bias of
    −5, and each solved puzzle that q does not expect costs 5.
    """
    logged = evaluations(run)
    if value is not None:
        step = next((at for at, metrics in logged if monitor and metrics.get(monitor) == value), None)
    of_best = dict(logged).get(step, {}) if step is not None else {}
    others = []
    for metric, value in of_best.items():
        mode = next((mode for pattern, mode in SCORES.items() if re.fullmatch(pattern, metric)), None)
        best = best_of(logged, metric, mode) if mode and metric != monitor else None
        if best and best[1] != value:
            others.append((metric, mode, *best))
    if not others:
        return []
    told = ", ".join(f"{metric} is {of_best[metric]:.4g} there and {found:.4g} at step {at}"
                     for metric, _, at, found in others)
    metric, mode, at, _ = others[0]
    file = run / step_file(at)
    score = f"score that step with evaluate.py checkpoint={file}, and " if file.is_file() else ""
    return [f"notice: best.ckpt is of step {step}, the best by checkpoint.monitor={monitor}, but "
            f"{told}; {score}choose by that metric with checkpoint.monitor={metric} "
            f"checkpoint.mode={mode}"]
