"""Plain sequences: puzzles of which nothing is known but their tokens. Text is numbers, or the names of tokens that
dataset.json gives."""
from dataset.kinds.kind import Kind


class Sequence(Kind):
    """Any sequence of L tokens. It has no rules and no symmetries."""
