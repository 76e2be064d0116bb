"""Pictures of boards: a puzzle, the model's answer after each supervision step, and the right answer.

What a board looks like comes from its kind of puzzle (dataset/kinds/) as a `Look`. Matplotlib is imported when a
picture is drawn.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np

from utils.plots import plain, pyplot, save

CAPTION = "confidence: sigmoid(q_halt), how sure the model is that the whole puzzle is right"
OF_TEXT = "green: right, red: wrong"
OF_CLUES = "bold: given in the puzzle, "
WRONG, RIGHT, NOT_ASKED = "#d62728", "#2ca02c", "#7f7f7f"  # colours of cells that are text
FRAME_MS, LAST_FRAME_MS = 700, 2500  # how long an animation shows a step, and the last one
LARGER = 2  # times as large as in a picture of several boards
MOST_COLUMNS = 6  # boards beside one another


@dataclass(frozen=True)
class Look:
    """How the boards of a kind of puzzle are drawn. V is the number of tokens."""

    # rows and columns of cells
    shape: tuple[int, int]
    # (V,) name of each token; "" is an empty cell
    names: Sequence[str]
    # (V,) "#rrggbb" of each token
    colours: Sequence[str]
    # cells hold the names of their tokens; if not, they are filled with the colours, and a legend names them
    as_text: bool
    # rows and columns of the boxes that thick lines go around; None: no such lines
    box: tuple[int, int] | None = None
    # the answer repeats the cells that the question gives: these are drawn in bold
    keeps_clues: bool = False


def default_colours(count: int) -> list[str]:
    """So many colours as "#rrggbb", which come again after ten, or where there are more tokens after twenty."""
    from matplotlib.colors import to_hex

    colours = pyplot().get_cmap("tab10" if count <= 10 else "tab20")
    return [to_hex(colours(token % colours.N)) for token in range(count)]


def plot_solution_steps(question: np.ndarray, steps: np.ndarray, answer: np.ndarray,
                        confidence: Sequence[float],
                        picture: Path, look: Look) -> None:
    """Draw a puzzle (L,), the model's answer after each of S supervision steps (S, L), and the right answer (L,).

    `confidence` (S,) is from 0 to 1. A negative cell of `answer` is not asked for; if all cells are negative, no answer
    is known and none is drawn. Steps at the end that repeat the one before them are left out, and the caption says so.
    """
    asked, last = answer >= 0, last_change(steps)
    boards = _titled(question, steps[:last], answer, confidence)
    if asked.any():
        boards.append(("answer", answer))
    figure, axes = _axes(len(boards), look)
    for i, (axis, (title, board)) in enumerate(zip(axes, boards)):
        axis.set_title(title, fontsize=10)
        wrong = asked & (board != answer) & (i > 0)
        draw_board(axis, board, look, None if i == 0 else question, wrong, asked | (i == 0))
    caption = CAPTION + f"; {OF_CLUES * look.keeps_clues}{OF_TEXT}" * look.as_text
    if last < len(steps):
        left_out = f"step {last + 1} is" if last + 1 == len(steps) else f"steps {last + 1} to {len(steps)} are"
        caption = f"{left_out} the same as step {last} (confidence at the end {confidence[-1]:.2f})\n{caption}"
    width = int(13 * figure.get_size_inches()[0])  # characters that fit below
    figure.supxlabel("\n".join(fill(line, width) for line in caption.splitlines()), fontsize=9)
    if not look.as_text:
        _add_legend(figure, np.concatenate([board for _, board in boards]), look)
    save(figure, picture)


def animate_solution_steps(question: np.ndarray, steps: np.ndarray, answer: np.ndarray,
                           confidence: Sequence[float], file: Path, look: Look) -> None:
    """Write a GIF of the puzzle and the answer after each step, as `plot_solution_steps` draws them."""
    from PIL import Image

    boards = _titled(question, steps[:last_change(steps)], answer, confidence)
    asked, frames = answer >= 0, []
    for i, (title, board) in enumerate(boards):
        figure, (axis,) = _axes(1, look, larger=LARGER)
        axis.set_title(title if i else f"{title}\n ", fontsize=12)
        draw_board(axis, board, look, None if i == 0 else question, asked & (board != answer) & (i > 0),
                   asked | (i == 0))
        for text in axis.texts:
            text.set_fontsize(LARGER * text.get_fontsize())
        for mark in axis.lines:
            mark.set_markersize(LARGER * mark.get_markersize())
        figure.canvas.draw()
        frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).quantize(64))
        pyplot().close(figure)
    lasts = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    file.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=lasts, loop=0, optimize=False)


def _titled(question: np.ndarray, steps: np.ndarray, answer: np.ndarray,
            confidence: Sequence[float]) -> list[tuple[str, np.ndarray]]:
    """The boards of a puzzle and of its answers step by step, with what is said of each."""
    asked = answer >= 0
    boards = [("puzzle", question)]
    for number, (step, sure) in enumerate(zip(steps, confidence), start=1):
        wrong = int((asked & (step != answer)).sum())
        verdict = "no answer known" if not asked.any() else f"{wrong} wrong" if wrong else "solved"
        boards.append((f"step {number}: {verdict}\nconfidence {sure:.2f}", step))
    return boards


def last_change(steps: np.ndarray) -> int:
    """Number of the last step of (S, L) whose answer differs from that of the step before it; the first is number 1."""
    changed = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1))
    return int(changed[-1]) + 2 if len(changed) else 1


def draw_board(axis, board: np.ndarray, look: Look, question: np.ndarray | None, wrong: np.ndarray,
               asked: np.ndarray) -> None:
    """Draw tokens (L,) into axes. A negative token is an empty cell.

    `question` (L,): the puzzle that this is an answer to; None: it is the puzzle. `wrong` (L,): cells to mark as wrong.
    `asked` (L,): cells of which an answer is asked for.
    """
    rows, columns = look.shape
    axis.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    if look.as_text:
        _draw_text(axis, board, look, question, wrong, asked)
    else:
        _draw_colours(axis, board, look, wrong)
    if look.box:
        height, width = look.box
        lines = {"colors": "black", "linewidth": 1.6, "clip_on": False}
        axis.hlines(range(0, rows + 1, height), 0, columns, **lines)
        axis.vlines(range(0, columns + 1, width), 0, rows, **lines)


def _axes(count: int, look: Look, larger: float = 1):
    """A figure and its `count` axes, in rows. Long sequences that are text stand below one another."""
    rows, columns = look.shape
    wide = columns > 2 * rows
    cell = (0.4 if look.as_text else 0.1) if wide else 2.4 / max(rows, columns)  # inches
    beside = min(count, 1 if wide and look.as_text else MOST_COLUMNS)
    lines = -(-count // beside)
    size = larger * max(cell * columns, 2.4) * beside, (larger * cell * rows + 0.6) * lines
    figure, grid = pyplot().subplots(lines, beside, squeeze=False, figsize=size,
                                    layout="constrained")
    for axis in grid.flat:
        axis.axis("off")
    return figure, list(grid.flat)


def _draw_text(axis, board: np.ndarray, look: Look, question: np.ndarray | None, wrong: np.ndarray,
               asked: np.ndarray) -> None:
    """The names of tokens: black in the puzzle, bold where the puzzle gives them, else green, red where they are wrong,
    grey where no answer is asked for."""
    rows, columns = look.shape
    size = 9 if columns > 2 * rows else min(90 / max(rows, columns), 15)
    for cell, token in enumerate(board.tolist()):
        row, column = divmod(cell, columns)
        axis.add_patch(pyplot().Rectangle((column, row), 1, 1, fill=False, edgecolor="0.6", linewidth=0.8,
                                           clip_on=False))
        if token < 0 or not look.names[token]:
            continue
        given = look.keeps_clues and (question is None or token == question[cell])
        is_clue = look.keeps_clues and (question is None or bool(look.names[question[cell]]))
        colour = "black" if given or question is None else \
            WRONG if wrong[cell] else RIGHT if asked[cell] else NOT_ASKED
        axis.text(column + 0.5, row + 0.5, plain(look.names[token]), ha="center", va="center_baseline", color=colour,
                  fontsize=size, fontweight="bold" if given or is_clue else "normal")


def _draw_colours(axis, board: np.ndarray, look: Look, wrong: np.ndarray) -> None:
    """The colours of tokens, none where there is no token, and a red frame with a white edge around a wrong cell."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patheffects import Normal, withStroke

    rows, columns = look.shape
    cells = np.ma.masked_all(look.shape, int)
    cells.flat[:len(board)] = np.ma.masked_less(board, 0)
    axis.imshow(cells, cmap=ListedColormap(look.colours), vmin=-0.5, vmax=len(look.colours) - 0.5,
                interpolation="nearest", extent=(0, columns, rows, 0))
    axis.add_patch(pyplot().Rectangle((0, 0), columns, rows, fill=False, edgecolor="0.6", linewidth=0.8,
                                       clip_on=False))
    for cell in np.flatnonzero(wrong).tolist():
        row, column = divmod(cell, columns)
        axis.plot([column + 0.5], [row + 0.5], marker="s", markersize=min(125 / max(rows, columns), 14), color=WRONG,
                  fillstyle="none", markeredgewidth=0.8,
                  path_effects=[withStroke(linewidth=1.6, foreground="white"), Normal()])


def _add_legend(figure, tokens: np.ndarray, look: Look) -> None:
    """What the colours mean that occur in `tokens`, and the red frames, below the boards."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], linestyle="", marker="s", color=look.colours[token], markeredgecolor="0.6",
                    label=plain(look.names[token]) or "empty")
                    for token in np.unique(tokens).tolist() if token >= 0]
    wrong = Line2D([], [], linestyle="", marker="s", color=WRONG, fillstyle="none",
                   label="wrong cell")
    figure.legend(handles=[*marks, wrong], loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False,
                  ncols=max(6, int(1.2 * figure.get_size_inches()[0])))
