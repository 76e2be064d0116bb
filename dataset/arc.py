"""ARC grids as tokens, and the names of augmentations. The builder and the evaluator share them.

Tokens: 0 pad, 1 end mark, colour + 2. A grid is placed in a square of 30×30 tokens, which are stored row by row. End
marks fill the row below the grid and the column to its right, inside of the square. All other cells are pad.

An augmentation first permutes the colours of a grid, then applies a dihedral transform (dataset/symmetry.py). The name
of an augmented puzzle is `<task>|||t<transform>|||<permutation>`, where the ten digits of the permutation are the new
colours of the colours 0 to 9. The name of the original puzzle is the name of its task.
"""
import re

import numpy as np

from dataset.symmetry import dihedral, inverse_dihedral

PAD, EOS, FIRST_COLOUR = 0, 1, 2  # tokens
COLOURS = 10
SIDE = 30  # side of the square, in tokens
VOCAB_SIZE = FIRST_COLOUR + COLOURS
SEPARATOR = "|||"


def augmentation_names(task: str, transforms: np.ndarray | list[int],
                       permutations: np.ndarray) -> list[str]:
    """The names of B augmented puzzles of a task. `permutations` (B, 10): the new colour of each colour."""
    digits = (np.asarray(permutations, np.uint8) + ord("0")).view(f"S{COLOURS}").astype(str).ravel()
    return [f"{task}{SEPARATOR}t{transform}{SEPARATOR}{permutation}" for transform, permutation in
            zip(np.asarray(transforms).tolist(), digits.tolist())]


def augmentation_name(task: str, transform: int, permutation: np.ndarray) -> str:
    """The name of one augmented puzzle. `permutation` (10,): the new colour of each colour."""
    return augmentation_names(task, [transform], np.array([permutation]))[0]


def parse_augmentation(name: str) -> tuple[str, int, np.ndarray]:
    """The task, the transform and the permutation (10,) uint8 in the name of a puzzle.

    The name of a task alone gives transform 0 and the permutation that changes nothing. Raises ValueError for a name
    that is of neither form.
    """
    task, separator, augmentation = name.partition(SEPARATOR)
    if not separator:
        return name, 0, np.arange(COLOURS, dtype=np.uint8)
    match = re.fullmatch(r"t([0-7])\|\|\|([0-9]{10})", augmentation)
    if not match or len(set(match[2])) < COLOURS:
        raise ValueError(f"{name!r} names no puzzle; expected a task id, or <task>|||t<0 to "
                         "7>|||<the digits 0 to 9 in any order>")
    return task, int(match[1]), np.array(list(match[2]), np.uint8)


def augment(grids: np.ndarray, transform: int, permutation: np.ndarray) -> np.ndarray:
    """Augment grids (..., H, W) of colours: replace each colour by that in `permutation` (10,), then transform."""
    return dihedral(np.asarray(permutation, np.uint8)[grids], transform)


def invert_augmentation(grids: np.ndarray, transform: int, permutation: np.ndarray) -> np.ndarray:
    """The grids (..., H, W) of colours, uint8, from which `augment` made these."""
    return np.argsort(permutation).astype(np.uint8)[inverse_dihedral(grids, transform)]


def encode_grid(grid: np.ndarray, top: int = 0, left: int = 0) -> np.ndarray:
    """Tokens (900,) uint8 of a grid (h, w) of colours. Its first cell is in row `top` and column `left` of the square.
    """
    return encode_recoloured(grid, np.arange(COLOURS)[None], np.array([top]), np.array([left]))[0].ravel()


def encode_recoloured(grid: np.ndarray, permutations: np.ndarray, tops: np.ndarray,
                      lefts: np.ndarray) -> np.ndarray:
    """Tokens (B, 30, 30) uint8 of one grid (h, w) of colours, with B recolourings and places.

    `permutations` (B, 10): the new colour of each colour. `tops` and `lefts` (B,): row and column of the first cell,
    such that the grid fits into the square.
    """
    framed = np.pad(grid + FIRST_COLOUR, (0, 1), constant_values=EOS)
    framed[-1, -1] = PAD
    tokens = np.empty((len(permutations), VOCAB_SIZE), np.uint8)  # the new token of each token
    tokens[:, :FIRST_COLOUR] = PAD, EOS
    tokens[:, FIRST_COLOUR:] = permutations
    tokens[:, FIRST_COLOUR:] += FIRST_COLOUR
    squares = np.zeros((len(permutations), SIDE + 1, SIDE + 1), np.uint8)  # one larger, for end marks outside
    places = np.lib.stride_tricks.sliding_window_view(squares, framed.shape, axis=(1, 2),
                                                      writeable=True)
    places[np.arange(len(permutations)), tops, lefts] = tokens[:, framed]
    return squares[:, :SIDE, :SIDE]


def crop_sizes(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of rows and columns, each (...), of the grids in tokens (..., 900).

    A grid is the largest rectangle that begins at the first cell and holds only colours. Of equally large rectangles it
    is the one with the fewest rows. If the first cell is not a colour, there is no grid, and both numbers are 0.
    """
    squares = tokens.reshape(*tokens.shape[:-1], SIDE, SIDE)
    coloured = np.zeros((*squares.shape[:-1], SIDE + 1), bool)  # a last column without colour ends every row
    coloured[..., :SIDE] = (squares >= FIRST_COLOUR) & (squares < VOCAB_SIZE)
    run_lengths = np.argmin(coloured, axis=-1)  # colours at the start of each row
    widths = np.minimum.accumulate(run_lengths, axis=-1)  # width of the widest rectangle from the first row to this one
    rows = np.argmax(widths * np.arange(1, SIDE + 1), axis=-1)
    columns = np.take_along_axis(widths, rows[..., None], axis=-1)[..., 0]
    return np.where(columns > 0, rows + 1, 0), columns


def decode_grid(tokens: np.ndarray) -> np.ndarray:
    """The grid (h, w) uint8 of colours in tokens (900,), which may be predicted. `crop_sizes` finds its size."""
    height, width = crop_sizes(tokens)
    return (tokens.reshape(SIDE, SIDE)[:height, :width] - FIRST_COLOUR).astype(np.uint8)
