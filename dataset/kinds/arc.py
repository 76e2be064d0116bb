"""ARC: grids of ten colours, at most 30×30, in a square of 30×30 tokens (dataset/arc.py says how).

Tokens: 0 padding, 1 end of the grid, colour + 2. Text: JSON, a list of rows of colours 0 to 9.
"""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.arc import (
    COLOURS,
    EOS,
    FIRST_COLOUR,
    PAD,
    SEPARATOR,
    SIDE,
    VOCAB_SIZE,
    augment,
    crop_sizes,
    decode_grid,
    encode_grid,
    invert_augmentation,
    parse_augmentation,
)
from dataset.arc_tasks import checked_grid, read_test_puzzles
from dataset.common import IGNORE_LABEL_ID
from dataset.example_set import ExampleSet
from dataset.kinds.kind import Kind, puzzle_metadata

TRANSPOSING = (1, 3, 6, 7)  # dihedral transforms that swap height and width
SIZES = SIDE * SIDE, VOCAB_SIZE  # cells and tokens


@dataclass(frozen=True)
class ARCSymmetries:
    """B augmentations, one for each row: a grid is recoloured, then rotated or reflected.

    A grid in the upper left corner of the square stays there. One that begins in another row r and column c, as some of
    a training split do, begins there again or, where height and width change places, in row c and column r. So it
    always fits, and a question and an answer that began in one place do so still.
    """

    # (B,) dihedral transforms, numbered as in dataset/symmetry.py
    transforms: np.ndarray
    # (B, 10) uint8, the new colour of each old one
    permutations: np.ndarray

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """(B, 900) inputs or labels."""
        return self._changed(tokens, augment, first_cells(tokens))

    def invert(self, tokens: np.ndarray) -> np.ndarray:
        """(B, 900) predictions, of which only the grid in the upper left corner is kept."""
        return self._changed(tokens, invert_augmentation, np.zeros((len(tokens), 2), int))

    def _changed(self, tokens: np.ndarray, change: Callable[..., np.ndarray], places: np.ndarray) -> np.ndarray:
        changed = np.zeros_like(tokens)
        for row, transform, permutation, place in zip(range(len(tokens)), self.transforms.tolist(),
                                                      self.permutations, places.tolist()):
            cornered = np.roll(tokens[row].reshape(SIDE, SIDE), (-place[0], -place[1]), axis=(0, 1)).ravel()
            grid = change(decode_grid(cornered), transform, permutation)
            changed[row] = encode_grid(grid, *(place[::-1] if transform in TRANSPOSING else place))
        not_asked = (tokens < 0).any(1, keepdims=True)  # in labels as loaded, in place of padding
        return np.where(not_asked & (changed == PAD), IGNORE_LABEL_ID, changed) if not_asked.any() else changed


def first_cells(tokens: np.ndarray) -> np.ndarray:
    """Row and column (B, 2) of the first cell of each grid in tokens (B, 900); 0 and 0 where there is none."""
    coloured = (tokens >= FIRST_COLOUR).reshape(-1, SIDE, SIDE)
    return np.stack([coloured.any(2).argmax(1), coloured.any(1).argmax(1)], axis=1)


class ARC(Kind):
    """900 cells, 12 tokens."""

    names = ("padding", "end", *map(str, range(COLOURS)))
    colours = ("#ffffff", "#dddddd", "#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be",
               "#ff851b", "#7fdbff", "#870c25")  # of the colours 0 to 9 as ARC's own pages draw them
    evaluator = "arc@ARC"
    as_text = False
    special = (PAD, EOS)  # colours can be exchanged

    def __init__(self, seq_len: int, vocab_size: int, token_names: Sequence[str] | None = None):
        if (seq_len, vocab_size) != SIZES:
            raise ValueError(f"ARC has {SIZES[0]} cells and {SIZES[1]} tokens, not "
                             f"{seq_len} and {vocab_size}")
        super().__init__(seq_len, vocab_size, token_names)

    def symmetries(self, count: int, rng: np.random.Generator) -> ARCSymmetries:
        """One of the 8 rotations and reflections and one of the 10! permutations of the colours each."""
        return ARCSymmetries(rng.integers(8, size=count),
                             rng.permuted(np.tile(np.arange(COLOURS, dtype=np.uint8), (count, 1)), axis=1))

    def visible(self, tokens: np.ndarray) -> np.ndarray:
        """The cells of the grid alone."""
        rows, columns = (size[..., None, None] for size in crop_sizes(tokens))
        inside = (np.arange(SIDE)[:, None] < rows) & (np.arange(SIDE) < columns)
        return inside.reshape(tokens.shape)

    def demonstrations(self, folder: Path, names: Sequence[str]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Those of the task, in the colours and the position of the puzzle. None where test_puzzles.json has no such
        task. Raises ValueError for a file of another form."""
        file = folder / "test_puzzles.json"
        tasks = read_test_puzzles(file) if file.is_file() else {}
        return [_demonstrations(tasks, name) for name in names]

    def parse(self, text: str) -> np.ndarray:
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the line is not JSON ({error}); write a "
                             "grid as [[0, 1], [2, 3]]") from error
        return encode_grid(checked_grid(rows, "the line")).astype(np.int32)

    def format(self, tokens: np.ndarray) -> str:
        return json.dumps(decode_grid(tokens).tolist())

    def format_board(self, rows: Sequence[Sequence[object]]) -> str:
        return json.dumps(rows)

    @classmethod
    def recognises(cls, examples: ExampleSet) -> bool:
        """ARC data sets have the sizes of ARC and a test_puzzles.json."""
        metadata = puzzle_metadata(examples)
        sizes = metadata.seq_len, metadata.vocab_size
        return sizes == SIZES and (Path(examples.path) / "test_puzzles.json").is_file()


def _demonstrations(tasks: dict[str, dict], name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    if name.partition(SEPARATOR)[0] not in tasks:
        return []
    task, transform, permutation = parse_augmentation(name)

    def shown(grid: list[list[int]]) -> np.ndarray:
        return encode_grid(augment(np.array(grid), transform, permutation))

    return [(shown(pair["input"]), shown(pair["output"])) for pair in tasks[task]["train"]]
