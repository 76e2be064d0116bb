"""What a kind of puzzle is, and which kind a data set holds.

A kind knows what the arrays do not say: the characters and names of tokens, the shape of the board, the rules, the
symmetries, and how a board is drawn and read from text. A new kind is a file in this folder with one subclass of
`Kind`; docs/your-own-puzzle.md adds one. `dataset.json` names the kind of a data set by its file, as in
`"kind": "sudoku"`, or as `module@Class`.

Shapes: B puzzles, L cells (`seq_len`), V tokens (`vocab_size`). Token 0 is padding.
Check: `pytest tests/test_kinds.py`.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from dataset.common import PuzzleDatasetMetadata
from dataset.example_set import ExampleSet
from utils.boards import Look, default_colours
from utils.resolve import load_class, load_only_class

PACKAGE = "dataset.kinds"
RECOGNISED = ("arc", "sudoku", "maze")  # kinds that are told by their data, where dataset.json names none
# (L, V) of the puzzles that are told by these alone, where there are no data to look at
USUAL_SIZES = {"sudoku": ((16, 6), (36, 8), (81, 11), (256, 18), (625, 27)), "maze": ((900, 6),), "arc": ((900, 12),)}
LOOKED_AT = 16  # examples that must obey the rules of such a kind
FIRST_TOKEN = 1  # of the alphabet; token 0 is padding
NO_TOKEN = 255  # what a character becomes that stands for no token
MOST_COLUMNS = 30  # of a sequence


class Symmetry(Protocol):
    """B random symmetries of a kind, one for each row, as a dataclass of arrays (B, …). What `apply` does, `invert`
    undoes."""

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """(B, L) inputs or labels of other puzzles, whose answers correspond. Negative labels stay what they are."""

    def invert(self, tokens: np.ndarray) -> np.ndarray:
        """(B, L) predictions for those puzzles, as predictions for the original ones."""


def on_boards(change: Callable[[np.ndarray], np.ndarray], boards: np.ndarray) -> np.ndarray:
    """`change`, which maps (B, L) to (B, L), on boards (B, L), or on each of K boards a row, (B, K, L)."""
    if boards.ndim == 2:
        return change(boards)
    return np.stack([change(boards[:, each]) for each in range(boards.shape[1])], 1).astype(boards.dtype, copy=False)


class Kind:
    """A kind of puzzle at one size. Raises ValueError where no such puzzle has `seq_len` cells and `vocab_size` tokens.

    `token_names` (V,) replaces the kind's own names. A subclass sets the attributes below, and overrides the methods
    for which the default is not right; all have one.
    """

    # the characters of tokens 1, 2, …; "": text is not characters but words
    alphabet: str = ""
    # further characters that can be read, and the character of the alphabet that each stands for
    also_read: Mapping[str, str] = {}
    # token of the cells to be filled in, all others being kept; None: the answer does not repeat the question
    blank: int | None = None
    # names of the first tokens, for people; (): the characters of the alphabet, then numbers
    names: Sequence[str] = ()
    # "#rrggbb" of each token; (): any that differ
    colours: Sequence[str] = ()
    # rows and columns of boxes with thick lines around them
    box: tuple[int, int] | None = None

    def __init__(self, seq_len: int, vocab_size: int, token_names: Sequence[str] | None = None):
        self.seq_len, self.vocab_size = seq_len, vocab_size
        if vocab_size < FIRST_TOKEN + len(self.alphabet):
            raise ValueError(f"{self} has {FIRST_TOKEN + len(self.alphabet)} tokens, and "
                             f"vocab_size is {vocab_size}")
        own = list(self.names) or ["", *("" if token == self.blank else character
                                         for token, character in
                                         enumerate(self.alphabet, FIRST_TOKEN))] * bool(self.alphabet)
        self.token_names = list(token_names or (own + [str(token) for token in range(len(own), vocab_size)]))

    def __str__(self) -> str:
        return type(self).__name__

    @property
    def special(self) -> tuple[int, ...]:
        """Tokens that cannot be exchanged for others without changing what a puzzle means. By default all."""
        return tuple(range(self.vocab_size))

    def resized(self, seq_len: int) -> "Kind":
        """The same kind at another number of cells. Raises ValueError where no such puzzle has as many."""
        return type(self)(seq_len, self.vocab_size, self.token_names)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the board: by default a square or, where L is no square number, rows of 30 at most."""
        side = math.isqrt(self.seq_len)
        rows = side if side**2 == self.seq_len else -(-self.seq_len // MOST_COLUMNS)
        return rows, -(-self.seq_len // rows)

    # Rules

    def rules(self, inputs: np.ndarray, preds: np.ndarray) -> dict[str, np.ndarray]:
        """Which answers obey which rules: (B, L) questions and (B, L) answers to (B,) booleans by name.

        `solved` comes first and says that an answer is right, found without its label. {}: the kind has no rules.
        """
        return {}

    def clues_kept(self, inputs: np.ndarray, preds: np.ndarray) -> np.ndarray:
        """(B,) booleans: does each answer repeat what its question gives? Both are (B, L)."""
        return ((inputs == preds) | (inputs == self.blank)).all(-1)

    @cached_property
    def rule_names(self) -> tuple[str, ...]:
        """Names of the rules, in order."""
        padding = np.zeros((1, self.seq_len), np.int32)
        return tuple(self.rules(padding, padding))

    @property
    def evaluator(self) -> str | None:
        """`module@Class` of the evaluator that data of this kind get where no other is asked for."""
        return "rules@Rules" if self.rule_names else None

    # Symmetries

    def symmetries(self, count: int, rng: np.random.Generator) -> Symmetry:
        """`count` random symmetries, drawn evenly from all of the kind. Raises ValueError where it has none."""
        raise ValueError(f"{self} has no symmetries")

    # Text and pictures

    def parse(self, text: str) -> np.ndarray:
        """(L,) int32 tokens of a line of text. Raises ValueError saying what is wrong with it."""
        return self._parse_characters(text.strip("\r\n")) if self.alphabet else self._parse_words(text)

    def format(self, tokens: np.ndarray) -> str:
        """The line of text that (L,) tokens are read from; "?" for a token that has no character."""
        if self.alphabet:
            characters = "?" * FIRST_TOKEN + self.alphabet
            return "".join(characters[token] if token < len(characters) else "?"
                           for token in tokens.tolist())
        written = np.trim_zeros(tokens, "b").tolist()  # without padding at the end
        return " ".join(self.token_names[token] or str(token) for token in written)

    def format_board(self, rows: Sequence[Sequence[object]]) -> str:
        """The line of text of a board whose cells are as people write them: characters, or numbers of one digit."""
        return ("" if self.alphabet else " ").join(str(cell) for row in rows for cell in row)

    def format_like(self, tokens: np.ndarray, text: str) -> str:
        """`format` with the characters of `text`, a line that can be read: where it has 0 for a blank, 0 stays."""
        if not self.alphabet:
            return self.format(tokens)
        written = dict(zip(self.parse(text).tolist(), text.strip("\r\n")))
        return "".join(written.get(token, own) for token, own in zip(tokens.tolist(), self.format(tokens)))

    def tokens_of(self, characters: np.ndarray) -> np.ndarray:
        """(…) uint8 tokens of (…) uint8 characters of the alphabet; `NO_TOKEN` for a character that is not in it."""
        table = np.full(256, NO_TOKEN, np.uint8)
        for character, token in self._characters.items():
            table[ord(character)] = token
        return table[characters]

    def look(self) -> Look:
        """How boards of this kind are drawn."""
        return Look(self.shape, self.token_names, self.colours or default_colours(self.vocab_size), self.as_text,
                    self.box, keeps_clues=self.blank is not None)

    def visible(self, tokens: np.ndarray) -> np.ndarray:
        """(…, L) booleans: which cells of boards (…, L) there are to see. By default all."""
        return np.ones(tokens.shape, bool)

    def demonstrations(self, folder: Path, names: Sequence[str]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """For each puzzle the solved examples that belong to it: questions and answers (L,). By default none.

        `folder`: the data set of the puzzles; `names`: theirs in identifiers.json.
        """
        return [[] for _ in names]

    @property
    def as_text(self) -> bool:
        """Are cells drawn as text? By default where there are few rows and the names are short."""
        return self.shape[0] <= 9 and max(map(len, self.token_names)) <= 2

    @classmethod
    def recognises(cls, examples: ExampleSet) -> bool:
        """Are these puzzles of this kind? By default, where the labels of the first ones obey the rules."""
        metadata = puzzle_metadata(examples)
        try:
            kind = cls(metadata.seq_len, metadata.vocab_size)
        except ValueError:  # of another size
            return False
        first = examples.fetch(np.arange(min(len(examples), LOOKED_AT)))
        inputs, labels = first["inputs"], first["labels"]
        return bool((labels >= 0).all()) and all(passed.all()
                                                 for passed in kind.rules(inputs, labels).values())

    @cached_property
    def _characters(self) -> dict[str, int]:
        """The token of each character that can be read."""
        tokens = {character: token for token, character in enumerate(self.alphabet, FIRST_TOKEN)}
        return tokens | {character: tokens[meant] for character, meant in self.also_read.items()}

    def _parse_characters(self, text: str) -> np.ndarray:
        if len(text) != self.seq_len:
            raise ValueError(f"the line has {len(text)} characters; write "
                             f"{self.seq_len}, one for each cell")
        for number, character in enumerate(text, start=1):
            if character not in self._characters:
                raise ValueError(f"character {number} is {character!r}; a cell is one of "
                                 f"{''.join(self._characters)!r}")
        return np.array([self._characters[character] for character in text], np.int32)

    def _parse_words(self, text: str) -> np.ndarray:
        """Names of tokens, without names their numbers, separated by blanks or commas. Padding fills up the end."""
        tokens = {name: token for token, name in enumerate(self.token_names) if name}
        words = text.replace(",", " ").split()
        if not 0 < len(words) <= self.seq_len:
            raise ValueError(f"the line has {len(words)} tokens; write 1 to "
                             f"{self.seq_len}, separated by blanks")
        for number, word in enumerate(words, start=1):
            if word not in tokens:
                known = ", ".join(list(tokens)[:20]) + ", …" * (len(tokens) > 20)
                raise ValueError(f"token {number} is {word!r}; there are {known}")
        return np.array([tokens[word] for word in words] + [0] * (self.seq_len - len(words)), np.int32)


def puzzle_metadata(examples: ExampleSet) -> PuzzleDatasetMetadata:
    """The metadata of a set of puzzles; sets of floats are of no kind."""
    assert isinstance(examples.metadata, PuzzleDatasetMetadata)
    return examples.metadata


def side_of(seq_len: int, kind: object) -> int:
    """Side of a square board. Raises ValueError where L is no square number."""
    side = math.isqrt(seq_len)
    if side**2 != seq_len:
        raise ValueError(f"{kind} is a square board, and {seq_len} cells are none")
    return side


def kind_by_sizes(seq_len: int, vocab_size: int) -> str | None:
    """The name of the only kind whose usual puzzles have these sizes. None where there is none."""
    return next((name for name, sizes in USUAL_SIZES.items() if (seq_len, vocab_size) in sizes), None)


def find_kind(name: str, trust_code: bool = False) -> type[Kind]:
    """The class of a kind: `sudoku` is the only one in dataset/kinds/sudoku.py, `module@Class` one of several there.

    `trust_code`: look for `module@Class` anywhere on Python's path, too. To import a module is to run it, and a data
    set may be a stranger's (docs/security.md). Raises ValueError where there is no such kind.
    """
    if "@" in name:
        return load_class(name, PACKAGE, ("rules", "symmetries", "parse"), anywhere=trust_code)
    return load_only_class(name, PACKAGE, Kind)


def kind_of(examples: ExampleSet, trust_code: bool = False) -> Kind:
    """The kind of puzzle in a set of examples: the one that its dataset.json names or, in older data sets and those of
    others, the one whose rules the first examples obey; if there is none, plain sequences.

    Raises ValueError where dataset.json names a kind that there is not, or one that has other sizes.
    """
    metadata = puzzle_metadata(examples)
    name = metadata.kind or next((name for name in RECOGNISED if find_kind(name).recognises(examples)), "sequence")
    try:
        return find_kind(name, trust_code)(metadata.seq_len, metadata.vocab_size,
                                           metadata.token_names)
    except ValueError as error:
        raise ValueError(f"{examples.split_dir / 'dataset.json'}, "
                         f"kind {name!r}: {error}") from error
