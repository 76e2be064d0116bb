"""Pictures: the curves of runs, puzzles and sequences being solved step by step, rollouts. Matplotlib is imported when
one is drawn."""
import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from utils.strict_json import read_metrics

MOST_COLUMNS = 30  # of cells of a sequence
MOST_FEATURES = 4  # of a sequence or latent that are drawn


def _pyplot():
    import matplotlib  # here: --help and training need neither it nor the second it takes to load
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot


def _save(figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    _pyplot().close(figure)


def plain(text: str) -> str:
    """Text that Matplotlib draws as it stands: between two dollar signs it would look for mathematics."""
    return text.replace("$", r"\$")


def plot_train_vs_val(metrics_file: Path, picture: Path) -> None:
    """Loss and, where it is measured, exact accuracy or squared error of training and validation over the steps of a
    whole run."""
    import pandas as pd

    history = pd.DataFrame([read_metrics(line) for line in metrics_file.read_text().splitlines()])
    panels = [name for name in ("loss", "exact_accuracy", "mse") if f"val/{name}" in history] or ["loss"]
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False)
    for axis, name in zip(axes[0], panels):
        for split, style in (("train", {"linewidth": 1}), ("val", {"marker": "o", "markersize": 3})):
            if f"{split}/{name}" in history:
                curve = history[["step", f"{split}/{name}"]].dropna()
                axis.plot(curve["step"], curve[f"{split}/{name}"], label=split, **style)
        axis.set(xlabel="step", ylabel=name.replace("_", " "), title=f"{name.replace('_', ' ')}, train and validation")
        axis.grid(alpha=0.3)
        axis.legend()
        if name == "exact_accuracy":
            axis.set_ylim(-0.03, 1.03)
        else:
            axis.set_yscale("log")
    _save(figure, picture)


def plot_solution_steps(question: np.ndarray, steps: np.ndarray, answer: np.ndarray, confidence: list[float],
                        picture: Path, token_names: Sequence[str] | None = None) -> None:
    """A puzzle (L,), its answer (L,), and the model's prediction after each supervision step (steps, L).

    A square number of cells is drawn as a square, any other as rows of cells. Up to nine rows hold the tokens by name
    (without names by number; an empty name is a blank), more rows or words for names are colours, with a legend.
    `confidence`: the model's belief, 0 to 1, that its answer is right. Wrong cells are red; of a cell whose answer is
    negative none is asked for; where that is so of all, no solution is known, and none is drawn.
    """
    shape = board_shape(len(question))
    drawn_as_text = shape[0] <= 9 and max(map(len, token_names or [""])) <= 2
    asked = answer >= 0
    grids = [("puzzle", question), *((f"step {i + 1}", step) for i, step in enumerate(steps)),
             *([("answer", answer)] if asked.any() else [])]
    tokens = [token for token in np.unique(np.concatenate([grid for _, grid in grids])).tolist() if token >= 0]
    colours = _pyplot().get_cmap("tab10" if max(tokens) < 10 else "tab20")  # beyond its number they come again
    square = shape[0] == shape[1]
    cell = 2.4 / shape[0] if square else 0.4 if drawn_as_text else 0.1  # inches
    columns = 1 if drawn_as_text and not square else min(len(grids), 6 if square else 4)
    rows = -(-len(grids) // columns)
    plt = _pyplot()
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=(
        max(cell * shape[1], 2.4) * columns, (cell * shape[0] + 0.5) * rows))
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, (title, grid)) in enumerate(zip(axes.flat, grids)):
        wrong = (grid != answer) & asked & (0 < i <= len(steps))
        if 0 < i <= len(steps):
            told = f"{wrong.sum()} wrong" if wrong.any() else "solved" if asked.any() else "no solution known"
            title += f": {told}\nbelief {confidence[i - 1]:.2f}"
        axis.set_title(title, fontsize=10)
        if drawn_as_text:
            _draw_text(axis, shape, grid, question, wrong, asked, token_names)
        else:
            _draw_colours(axis, shape, grid, wrong, colours)
    if not drawn_as_text:
        _add_legend(figure, {token: token_names[token] if token_names else f"token {token}" for token in tokens},
                    colours)
    _save(figure, picture)


def board_shape(cells: int) -> tuple[int, int]:
    """Rows and columns that so many cells are drawn in: a square or, if it is none, rows of MOST_COLUMNS at most."""
    side = math.isqrt(cells)
    rows = side if side**2 == cells else -(-cells // MOST_COLUMNS)
    return rows, -(-cells // rows)


def _draw_text(axis, shape: tuple[int, int], grid: np.ndarray, given: np.ndarray, wrong: np.ndarray,
               asked: np.ndarray, names: Sequence[str] | None) -> None:
    """Cells (L,) of a grid: black as given (bold where tokens have names, a clue), else green, red where wrong, grey
    where no answer is asked for."""
    axis.set(xlim=(0, shape[1]), ylim=(shape[0], 0), aspect="equal")
    for cell, token in enumerate(grid.tolist()):
        row, column = divmod(cell, shape[1])
        axis.add_patch(_pyplot().Rectangle((column, row), 1, 1, fill=False, edgecolor="0.6", linewidth=0.8,
                                            clip_on=False))
        text = "" if token < 0 else names[token] if names else str(token)
        clue = bool(names) and token == given[cell]
        colour = "black" if clue or grid is given else \
            "tab:red" if wrong[cell] else "tab:green" if asked[cell] else "0.5"
        if text:
            axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour,
                      fontsize=60 / shape[0] if shape[0] == shape[1] else 9, fontweight="bold" if clue else "normal")


def _draw_colours(axis, shape: tuple[int, int], grid: np.ndarray, wrong: np.ndarray, colours) -> None:
    """Tokens as colours, none where there is no token; a red frame around each wrong cell."""
    cells = np.ma.masked_all(shape, int)
    cells.flat[:len(grid)] = np.ma.masked_less(grid, 0)
    axis.imshow(cells % colours.N, cmap=colours, vmin=0, vmax=colours.N - 1, interpolation="nearest")
    for cell in np.flatnonzero(wrong).tolist():
        row, column = divmod(cell, shape[1])
        axis.plot([column], [row], marker="s", markersize=3, color="red", fillstyle="none", markeredgewidth=0.8)


def _add_legend(figure, names: dict[int, str], colours) -> None:
    """What the colours of `_draw_colours` and the red frames mean, below the grids."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], linestyle="", marker="s", color=colours(token % colours.N), label=name)
             for token, name in names.items()]
    wrong = Line2D([], [], linestyle="", marker="s", color="red", fillstyle="none", label="wrong cell")
    figure.legend(handles=[*marks, wrong], loc="upper center", bbox_to_anchor=(0.5, 0), ncols=6, frameon=False)


def plot_comparison(rows: Sequence[tuple[str, list[tuple[list[int], list[float]]]]], metric: str,
                    picture: Path) -> None:
    """Labelled rows of runs, each with its steps and values: where they end as bars with a dot a run and, but of
    evaluations, which have one value each, their curves."""
    plt = _pyplot()
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
        right.barh(middle, np.mean(ends) if ends else 0, height=0.8 * lines[i], color=colour, alpha=0.6)
        right.plot(ends, [middle] * len(ends), "k.", markersize=4)
    for axis in left:
        axis.set(xlabel="step", ylabel=plain(metric), title="each run")
    right.set(yticks=middles, yticklabels=labels, ylim=(lines.sum(), 0), xlabel=plain(metric),
              title="at the end: mean, and each run")
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    _save(figure, picture)


def plot_sequence_steps(inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray, steps: np.ndarray,
                        picture: Path) -> None:
    """A sequence: inputs (L, input_dim), targets (L, target_dim), which are observed, and the predictions after each
    supervision step (steps, L, target_dim), the later the darker."""
    features = min(targets.shape[1], MOST_FEATURES)
    plt = _pyplot()
    figure, axes = plt.subplots(1 + features, 1, figsize=(8, 2.4 * (1 + features)), sharex=True, squeeze=False)
    for feature in range(min(inputs.shape[1], MOST_FEATURES)):
        axes[0][0].plot(inputs[:, feature], ".-", linewidth=0.6, label=f"input {feature}")
    for feature, axis in enumerate(axes[1:, 0]):
        for i, step in enumerate(steps):
            axis.plot(step[:, feature], color=plt.get_cmap("Blues")((i + 2) / (len(steps) + 1)), label=f"step {i + 1}")
        seen = np.flatnonzero(mask[:, feature])
        axis.plot(seen, targets[seen, feature], "k.", markersize=5, label="target")
        axis.set_ylabel(f"target {feature}")
    for axis in axes[:, 0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel("position")
    _save(figure, picture)


def plot_predictions(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray, picture: Path) -> None:
    """Predictions against observed targets, (examples, target_dim) each: a panel a feature."""
    features = min(targets.shape[1], MOST_FEATURES)
    plt = _pyplot()
    figure, axes = plt.subplots(1, features, figsize=(4 * features, 4), squeeze=False)
    for feature, axis in enumerate(axes[0]):
        seen = mask[:, feature].astype(bool)
        truth = targets[seen, feature]
        axis.plot(truth, predictions[seen, feature], ".", markersize=4)
        ends = [truth.min(), truth.max()]
        axis.plot(ends, ends, "k--", linewidth=0.8)
        axis.set(xlabel=f"target {feature}", ylabel="prediction")
    _save(figure, picture)


def plot_rollouts(errors: dict[str, np.ndarray], truth: np.ndarray, shown: dict[str, np.ndarray],
                  picture: Path) -> None:
    """Root mean squared error of each predictor by horizon (steps,), and one rollout (steps, D) beside the truth."""
    features = min(truth.shape[1], MOST_FEATURES)
    plt = _pyplot()
    figure, axes = plt.subplots(1, 1 + features, figsize=(4 * (1 + features), 3.4), squeeze=False)
    horizon = np.arange(1, len(truth) + 1)
    _draw_errors(axes[0][0], errors, "horizon", first=1)
    for feature, axis in enumerate(axes[0][1:]):
        for who, rows in shown.items():
            axis.plot(horizon, rows[:, feature], label=who.replace("_", " "))
        axis.plot(horizon, truth[:, feature], "k--", linewidth=1, label="truth")
        low, high = np.nanmin(truth[:, feature]), np.nanmax(truth[:, feature])
        margin = 0.5 * (high - low) + 1e-6  # a prediction that leaves it is far off
        axis.set(xlabel="horizon", title=f"one rollout, feature {feature}", ylim=(low - margin, high + margin))
    axes[0][-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, picture)


def plot_errors(errors: dict[str, np.ndarray], along: str, picture: Path) -> None:
    """Root mean squared error of each predictor, (places,) along positions, say."""
    figure, axis = _pyplot().subplots(figsize=(6, 4))
    _draw_errors(axis, errors, along, first=0)
    _save(figure, picture)


def _draw_errors(axis, errors: dict[str, np.ndarray], along: str, first: int) -> None:
    for who, curve in errors.items():
        axis.plot(np.arange(first, first + len(curve)), curve, ".-", label=who.replace("_", " "))
    axis.set(xlabel=along, ylabel="rmse", yscale="log", title=f"error by {along}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
