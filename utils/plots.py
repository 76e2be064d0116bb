"""Pictures: the curves of a run, and one puzzle being solved step by step. Matplotlib is imported when one is drawn."""
import json
from pathlib import Path

import numpy as np


def _pyplot():
    import matplotlib  # here: --help and training need neither it nor the second it takes to load
    matplotlib.use("Agg")
    import matplotlib.pyplot
    return matplotlib.pyplot


def plot_train_vs_val(metrics_file: Path, picture: Path) -> None:
    """Loss and, where it is measured, exact accuracy or squared error of training and validation over the steps of a
    whole run."""
    import pandas as pd

    history = pd.DataFrame([json.loads(line) for line in metrics_file.read_text().splitlines()])
    panels = [name for name in ("loss", "exact_accuracy", "mse") if f"val/{name}" in history]
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
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def plot_solution_steps(question: np.ndarray, steps: np.ndarray, answer: np.ndarray, confidence: list[float],
                        picture: Path) -> None:
    """A square puzzle (L,), its answer (L,), and the model's prediction after each supervision step (steps, L).

    Grids up to 9×9 are drawn as digits (token − 1), larger ones as colours. `confidence`: the model's belief, 0 to
    1, that its answer is right. Wrong cells are red.
    """
    side = round(len(question) ** 0.5)
    grids = [("puzzle", question), *((f"step {i + 1}", step) for i, step in enumerate(steps)), ("answer", answer)]
    columns = min(len(grids), 6)
    rows = -(-len(grids) // columns)
    plt = _pyplot()
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, (title, grid)) in enumerate(zip(axes.flat, grids)):
        if 0 < i <= len(steps):
            wrong = int((grid != answer).sum())
            title += f": {f'{wrong} wrong' if wrong else 'solved'}\nbelief {confidence[i - 1]:.2f}"
        axis.set_title(title, fontsize=10)
        shape = (side, side)
        (_draw_digits if side <= 9 else _draw_colours)(axis, grid.reshape(shape), question.reshape(shape),
                                                       answer.reshape(shape))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _draw_digits(axis, grid: np.ndarray, question: np.ndarray, answer: np.ndarray) -> None:
    """Clues black and bold, the model's cells green where right and red where wrong."""
    side = len(grid)
    axis.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
    for line in range(side + 1):
        axis.plot([0, side], [line, line], color="0.6", linewidth=0.8)
        axis.plot([line, line], [0, side], color="0.6", linewidth=0.8)
    for (row, column), token in np.ndenumerate(grid):
        if token <= 1:  # padding and blank
            continue
        clue = question[row, column] > 1
        colour = "black" if clue and token == question[row, column] else \
            "tab:green" if token == answer[row, column] else "tab:red"
        axis.text(column + 0.5, row + 0.5, str(token - 1), ha="center", va="center", color=colour,
                  fontsize=60 / side, fontweight="bold" if clue else "normal")


def _draw_colours(axis, grid: np.ndarray, question: np.ndarray, answer: np.ndarray) -> None:
    """Tokens as colours; a red frame around each wrong cell, in all but the question itself."""
    axis.imshow(grid, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
    if not np.array_equal(grid, question):
        for row, column in np.argwhere(grid != answer):
            axis.plot([column], [row], marker="s", markersize=3, color="red", fillstyle="none", markeredgewidth=0.8)
