"""A board as an HTML element for notebooks and pages: an SVG with its text as labels, in the colours of the page."""
import numpy as np

from utils.boards import Look
from utils.html import Html, tag

CELL = 20  # units of a cell's side
LARGEST = 300  # pixels of the longer side of a board
WRITTEN = "#2a8a3e"  # of what an answer adds to its question, legible on light and on dark ground


def board_html(board: np.ndarray, look: Look, called: str, question: np.ndarray | None = None) -> Html:
    """Draw tokens (L,). `called`: what it is, for screen readers.

    `question` (L,): the puzzle that this is an answer to; what it does not give is drawn green.
    """
    rows, columns = look.shape
    pixels = min(LARGEST / max(rows, columns), 1.3 * CELL)
    lines = [_line(x * CELL, 0, x * CELL, rows * CELL, look.box and x % look.box[1] == 0) for x in range(columns + 1)]
    lines += [_line(0, y * CELL, columns * CELL, y * CELL, look.box and y % look.box[0] == 0) for y in range(rows + 1)]
    draw = _names if look.as_text else _colours
    names = [look.names[token] or "empty" for token in board.tolist()]
    spoken = "; ".join(" ".join(names[row * columns:(row + 1) * columns]) for row in range(rows))
    return tag("svg", tag("title", f"{called}: {spoken}"), *draw(board, look, question),
               *(lines if look.as_text else []), xmlns="http://www.w3.org/2000/svg",
               role="img", width=f"{columns * pixels:.0f}", height=f"{rows * pixels:.0f}",
               viewBox=f"-1 -1 {columns * CELL + 2} {rows * CELL + 2}")


def _line(x1: int, y1: int, x2: int, y2: int, thick: object) -> Html:
    return tag("line", x1=str(x1), y1=str(y1), x2=str(x2), y2=str(y2), stroke="currentColor",
               stroke_width="1.6" if thick else "0.4")


def _names(board: np.ndarray, look: Look, question: np.ndarray | None) -> list[Html]:
    return [tag("text", look.names[token], x=str(column * CELL + CELL / 2), y=str(row * CELL + 0.72 * CELL),
                font_size=str(0.7 * CELL if len(look.names[token]) < 3 else 0.4 * CELL),
                text_anchor="middle", font_family="sans-serif",
                fill="currentColor" if question is None or question[cell] == token else WRITTEN)
            for cell, token in enumerate(board.tolist()) for row, column in [divmod(cell, look.shape[1])]
            if look.names[token]]


def _colours(board: np.ndarray, look: Look, question: np.ndarray | None) -> list[Html]:
    columns = look.shape[1]
    return [tag("path", fill=look.colours[token],
                d="".join(f"M{CELL * (cell % columns)} {CELL * (cell // columns)}h{CELL}v{CELL}h-{CELL}z"
                          for cell in np.flatnonzero(board == token).tolist()))
            for token in np.unique(board).tolist()]
