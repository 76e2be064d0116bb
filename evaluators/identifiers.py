"""Takes the learned embeddings away from test puzzles, to measure how much answers depend on them (arXiv 2512.11847).
"""
from typing import Literal

import numpy as np
import torch

from dataset.puzzle_dataset import PuzzleDataset
from losses.head import LossHead


def ablate_identifiers(head: LossHead, data: PuzzleDataset,
                       which: Literal["blank", "shuffled"]) -> None:
    """Give each test puzzle the embedding of no puzzle (`blank`), or that of another test puzzle (`shuffled`).

    Rows of the puzzle table are replaced, not identifiers, so that evaluators still get the true identifiers. Raises
    ValueError where this would change nothing.
    """
    blank, tested = data.metadata.blank_identifier_id, data.own_rows()
    if head.puzzle_embedding is None or len(tested) < 2:
        lacking = "the model has no puzzle embedding" if head.puzzle_embedding is None else \
            f"the test puzzles of {data.config.folders} have no identifiers of their own"
        raise ValueError(f"puzzle_identifiers={which} has no effect: {lacking}; use "
                         "puzzle_identifiers=own")
    order = np.random.default_rng(0).permutation(tested)
    table = head.puzzle_embedding.weights
    no_one = table[blank].clone() if blank >= 0 else torch.zeros_like(table[0])  # as before training
    table[order] = table[np.roll(order, 1)] if which == "shuffled" else no_one
