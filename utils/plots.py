"""Pictures: the curves of runs, runs side by side, sequences of floats, rollouts. Boards are drawn by utils/boards.py.

Matplotlib is imported when a picture is drawn.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np

from utils.strict_json import read_metrics

TIME_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
CURVE_STYLES: dict[str, dict] = {"train": {"linestyle": "-", "alpha": 0.7}, "test": {"linestyle": "--", "marker": "o",
                                                                                     "markersize": 3.5}}
MOST_FEATURES = 4  # of a sequence or latent that are drawn


def pyplot():
    import matplotlib  # here: --help and training need neither it nor the second it takes to load
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot


def save(figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    pyplot().close(figure)


def plain(text: str) -> str:
    """Text that Matplotlib draws as it stands: between two dollar signs it would look for mathematics."""
    return text.replace("$", r"\$")


def plot_train_vs_val(metrics_file: Path, picture: Path, averaged: bool = False) -> None:
    """Loss and, where it is measured, exact accuracy or squared error of training and validation over the steps of a
    whole run. `averaged`: validation is of the averaged weights, which the legend says."""
    import pandas as pd

    history = pd.DataFrame([read_metrics(line) for line in metrics_file.read_text().splitlines()])
    panels = [name for name in ("loss", "exact_accuracy", "mse") if f"val/{name}" in history] or ["loss"]
    plt = pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False)
    for axis, name in zip(axes[0], panels):
        for split, style in (("train", {"linewidth": 1}),
                             ("val", {"marker": "o", "markersize": 3})):
            if f"{split}/{name}" in history:
                curve = history[["step", f"{split}/{name}"]].dropna()
                label = f"{split}, averaged weights" if averaged and split == "val" else split
                axis.plot(curve["step"], curve[f"{split}/{name}"], label=label, **style)
        axis.set(xlabel="step", ylabel=name.replace("_", " "),
                 title=f"{name.replace('_', ' ')}, train and validation")
        axis.grid(alpha=0.3)
        axis.legend()
        if name == "exact_accuracy":
            axis.set_ylim(-0.03, 1.03)
        else:
            axis.set_yscale("log")
    save(figure, picture)


def plot_comparison(rows: Sequence[tuple[str, list[tuple[list[int], list[float]]]]], metric: str,
                    picture: Path) -> None:
    """Labelled rows of runs, each with its steps and values: where they end as bars with a dot a run and, but of
    evaluations, which have one value each, their curves."""
    plt = pyplot()
    labels = [plain(fill(label, 60)) for label, _ in rows]
    lines = np.array([1.6 + label.count("\n") for label in labels])  # of text, which a label is high
    middles = np.cumsum(lines) - lines / 2
    curved = any(len(steps) > 1 for _, runs in rows for steps, _ in runs)
    figure, axes = plt.subplots(1, 1 + curved, figsize=(6.5 * (1 + curved), 1 + max(0.2 * lines.sum(), 3)),
                                squeeze=False)
    *left, right = axes[0]
    for i, (middle, (_, runs)) in enumerate(zip(middles, rows)):
        colour = plt.get_cmap("tab20")(i % 20)
        ends = [values[-1] for _, values in runs if values]
        for axis in left:
            for steps, values in runs:
                axis.plot(steps, values, color=colour, marker="o", markersize=3, linewidth=1)
        right.barh(middle, np.mean(ends) if ends else 0, height=0.8 * lines[i],
                   color=colour, alpha=0.6)
        right.plot(ends, [middle] * len(ends), "k.", markersize=4)
    for axis in left:
        axis.set(xlabel="step", ylabel=plain(metric), title="each run")
    right.set(yticks=middles, yticklabels=labels, ylim=(lines.sum(), 0), xlabel=plain(metric),
              title="at the end: mean, and each run")
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    save(figure, picture)


@dataclass(frozen=True)
class Curves:
    """A panel of `plot_curves`, for each row of runs the curves of its runs."""

    title: str
    # by row, its label first; of a curve its style, and steps, seconds since the run's first line, and values
    rows: Sequence[tuple[str, Sequence[tuple[str, Sequence[int], Sequence[float], Sequence[float]]]]]

    @property
    def is_log(self) -> bool:
        """Losses fall by factors."""
        values = [value for _, curves in self.rows for *_, curve in curves for value in curve]
        return "loss" in self.title and min(values) > 0


def plot_curves(panels: Sequence[Curves], picture: Path) -> None:
    """Curves of several runs, each by step and by time; runs of a row share a colour. Legends tell style and colour."""
    plt = pyplot()
    figure, axes = plt.subplots(len(panels), 2, figsize=(13, 3.4 * len(panels)), squeeze=False, sharey="row",
                                layout="constrained")
    longest = max(seconds[-1] for panel in panels for _, curves in panel.rows for _, _, seconds, _ in curves if seconds)
    unit, size = next(entry for entry in TIME_UNITS if longest >= 2 * entry[1] or entry[1] == 1)
    labels = {label: plt.get_cmap("tab10" if len(panels[0].rows) <= 10 else "tab20")(i % 20)
              for i, (label, _) in enumerate(panels[0].rows)}
    for panel, (by_step, by_time) in zip(panels, axes):
        for label, curves in panel.rows:
            for style, steps, seconds, values in curves:
                look = {"color": labels[label], "linewidth": 1.2} | CURVE_STYLES[style]
                by_step.plot(steps, values, **look)
                by_time.plot(np.array(seconds) / size, values, **look)
        by_step.set(xlabel="step", ylabel=panel.title, **{"yscale": "log"} if panel.is_log else {"ylim": (0, None)})
        by_time.set(xlabel=f"{unit} since the first line of the log")
        for axis in (by_step, by_time):
            axis.grid(alpha=0.3)
        styles = dict.fromkeys(style for _, curves in panel.rows for style, *_ in curves)
        by_step.legend(handles=[plt.Line2D([], [], color="0.3", label=style, **CURVE_STYLES[style])
                                for style in styles], fontsize=8)
    figure.legend(handles=[plt.Line2D([], [], color=colour, linewidth=3, label=plain(fill(label, 120)))
                           for label, colour in labels.items()], loc="outside lower center", fontsize=9)
    save(figure, picture)


def plot_sequence_steps(inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray,
                        steps: np.ndarray,
                        picture: Path) -> None:
    """A sequence: inputs (L, input_dim), targets (L, target_dim), which are observed, and the predictions after each
    supervision step (steps, L, target_dim), the later the darker."""
    features = min(targets.shape[1], MOST_FEATURES)
    plt = pyplot()
    figure, axes = plt.subplots(1 + features, 1, figsize=(8, 2.4 * (1 + features)), sharex=True,
                                squeeze=False)
    for feature in range(min(inputs.shape[1], MOST_FEATURES)):
        axes[0][0].plot(inputs[:, feature], ".-", linewidth=0.6, label=f"input {feature}")
    for feature, axis in enumerate(axes[1:, 0]):
        for i, step in enumerate(steps):
            axis.plot(step[:, feature], color=plt.get_cmap("Blues")((i + 2) / (len(steps) + 1)),
                      label=f"step {i + 1}")
        seen = np.flatnonzero(mask[:, feature])
        axis.plot(seen, targets[seen, feature], "k.", markersize=5, label="target")
        axis.set_ylabel(f"target {feature}")
    for axis in axes[:, 0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel("position")
    save(figure, picture)


def plot_predictions(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray,
                     picture: Path) -> None:
    """Predictions against observed targets, (examples, target_dim) each: a panel a feature."""
    features = min(targets.shape[1], MOST_FEATURES)
    plt = pyplot()
    figure, axes = plt.subplots(1, features, figsize=(4 * features, 4), squeeze=False)
    for feature, axis in enumerate(axes[0]):
        seen = mask[:, feature].astype(bool)
        truth = targets[seen, feature]
        axis.plot(truth, predictions[seen, feature], ".", markersize=4)
        ends = [truth.min(), truth.max()]
        axis.plot(ends, ends, "k--", linewidth=0.8)
        axis.set(xlabel=f"target {feature}", ylabel="prediction")
    save(figure, picture)


def plot_rollouts(errors: dict[str, np.ndarray], truth: np.ndarray, shown: dict[str, np.ndarray],
                  picture: Path) -> None:
    """Root mean squared error of each predictor by horizon (steps,), and one rollout (steps, D) beside the truth."""
    features = min(truth.shape[1], MOST_FEATURES)
    plt = pyplot()
    figure, axes = plt.subplots(1, 1 + features, figsize=(4 * (1 + features), 3.4), squeeze=False)
    horizon = np.arange(1, len(truth) + 1)
    _draw_errors(axes[0][0], errors, "horizon", first=1)
    for feature, axis in enumerate(axes[0][1:]):
        for who, rows in shown.items():
            axis.plot(horizon, rows[:, feature], label=who.replace("_", " "))
        axis.plot(horizon, truth[:, feature], "k--", linewidth=1, label="truth")
        low, high = np.nanmin(truth[:, feature]), np.nanmax(truth[:, feature])
        margin = 0.5 * (high - low) + 1e-6  # a prediction that leaves it is far off
        axis.set(xlabel="horizon", title=f"one rollout, feature {feature}",
                 ylim=(low - margin, high + margin))
    axes[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, picture)


def plot_errors(errors: dict[str, np.ndarray], along: str, picture: Path) -> None:
    """Root mean squared error of each predictor, (places,) along positions, say."""
    figure, axis = pyplot().subplots(figsize=(6, 4))
    _draw_errors(axis, errors, along, first=0)
    save(figure, picture)


def _draw_errors(axis, errors: dict[str, np.ndarray], along: str, first: int) -> None:
    for who, curve in errors.items():
        axis.plot(np.arange(first, first + len(curve)), curve, ".-", label=who.replace("_", " "))
    axis.set(xlabel=along, ylabel="rmse", yscale="log", title=f"error by {along}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
