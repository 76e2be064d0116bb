"""ARC grids as tokens and augmentations by name: what the builder and the evaluator share.

Tokens: 0 pad, 1 end of grid, colour + 2. A grid stands in a square of 30×30 tokens, row by row, with an end mark in
each cell right below and right of it, as far as the square reaches; everything else is pad.

An augmentation is a dihedral transform, numbered as in `symmetry.py`, of a grid whose colours were permuted before.
Its puzzle is named `<task>|||t<transform>|||<permutation>`; the ten digits of the permutation are the new colours of 0
to 9. The original puzzle bears the bare name of its task. Check: `pytest tests/test_arc.py`.
"""
import re

import numpy as np

from dataset.symmetry import dihedral, inverse_dihedral

PAD, EOS, FIRST_COLOUR = 0, 1, 2  # tokens
COLOURS = 10
SIDE = 30  # of the square, in tokens
VOCAB_SIZE = FIRST_COLOUR + COLOURS
SEPARATOR = "|||"


def augmentation_names(task: str, transforms: np.ndarray | list[int], permutations: np.ndarray) -> list[str]:
    """Names of B augmented puzzles; each of `permutations` (B, 10) holds the new colour of each old one."""
    digits = (np.asarray(permutations, np.uint8) + ord("0")).view(f"S{COLOURS}").astype(str).ravel()
    return [f"{task}{SEPARATOR}t{transform}{SEPARATOR}{permutation}" for transform, permutation in
            zip(np.asarray(transforms).tolist(), digits.tolist())]


def augmentation_name(task: str, transform: int, permutation: np.ndarray) -> str:
    """Name of one augmented puzzle; `permutation` (10,) holds the new colour of each old one."""
    return augmentation_names(task, [transform], np.array([permutation]))[0]


def parse_augmentation(name: str) -> tuple[str, int, np.ndarray]:
    """Task, transform and permutation (10,) uint8 of a puzzle's name; a bare task id is its own original.

    Raises ValueError for a name that is neither.
    """
    task, separator, augmentation = name.partition(SEPARATOR)
    if not separator:
        return name, 0, np.arange(COLOURS, dtype=np.uint8)
    match = re.fullmatch(r"t([0-7])\|\|\|([0-9]{10})", augmentation)
    if not match or len(set(match[2])) < COLOURS:
        raise ValueError(f"{name!r} names no puzzle; expected a task id, or <task>|||t<0 to 7>|||<the digits 0 to 9 in "
                         "any order>")
    return task, int(match[1]), np.array(list(match[2]), np.uint8)


def augment(grids: np.ndarray, transform: int, permutation: np.ndarray) -> np.ndarray:
    """(..., H, W) colours with each replaced by permutation (10,), then under the transform."""
    return dihedral(np.asarray(permutation, np.uint8)[grids], transform)


def invert_augmentation(grids: np.ndarray, transform: int, permutation: np.ndarray) -> np.ndarray:
    """The (..., H, W) colours that `augment` made these from, uint8."""
    return np.argsort(permutation).astype(np.uint8)[inverse_dihedral(grids, transform)]


def encode_grid(grid: np.ndarray, top: int = 0, left: int = 0) -> np.ndarray:
    """(900,) uint8 tokens of (h, w) colours whose first cell stands in row `top`, column `left` of the square."""
    return encode_recoloured(grid, np.arange(COLOURS)[None], np.array([top]), np.array([left]))[0].ravel()


def encode_recoloured(grid: np.ndarray, permutations: np.ndarray, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """(B, 30, 30) uint8 tokens of one grid (h, w) of colours: each time recoloured and placed anew.

    `permutations` (B, 10) are new colours of old ones; `tops` and `lefts` (B,) leave room for the grid.
    """
    framed = np.pad(grid + FIRST_COLOUR, (0, 1), constant_values=EOS)
    framed[-1, -1] = PAD
    tokens = np.empty((len(permutations), VOCAB_SIZE), np.uint8)  # of each token, the new one
    tokens[:, :FIRST_COLOUR] = PAD, EOS
    tokens[:, FIRST_COLOUR:] = permutations
    tokens[:, FIRST_COLOUR:] += FIRST_COLOUR
    squares = np.zeros((len(permutations), SIDE + 1, SIDE + 1), np.uint8)  # end marks may stand outside
    places = np.lib.stride_tricks.sliding_window_view(squares, framed.shape, axis=(1, 2), writeable=True)
    places[np.arange(len(permutations)), tops, lefts] = tokens[:, framed]
    return squares[:, :SIDE, :SIDE]


def crop_sizes(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, each (...), of the grids in (..., 900) tokens.

    A grid is the largest rectangle from the first cell on that holds colours only; of equally large ones, the one with
    the fewest rows. Without a colour in the first cell there is none: 0 rows, 0 columns.
    """
    squares = tokens.reshape(*tokens.shape[:-1], SIDE, SIDE)
    coloured = np.zeros((*squares.shape[:-1], SIDE + 1), bool)  # no row goes on for ever
    coloured[..., :SIDE] = (squares >= FIRST_COLOUR) & (squares < VOCAB_SIZE)
    run_lengths = np.argmin(coloured, axis=-1)  # of each row
    widths = np.minimum.accumulate(run_lengths, axis=-1)  # of a rectangle down to this row
    rows = np.argmax(widths * np.arange(1, SIDE + 1), axis=-1)
    columns = np.take_along_axis(widths, rows[..., None], axis=-1)[..., 0]
    return np.where(columns > 0, rows + 1, 0), columns


def decode_grid(tokens: np.ndarray) -> np.ndarray:
    """(h, w) uint8 colours of (900,) tokens, true or predicted, by `crop_sizes`."""
    height, width = crop_sizes(tokens)
    return (tokens.reshape(SIDE, SIDE)[:height, :width] - FIRST_COLOUR).astype(np.uint8)
