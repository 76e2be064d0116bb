"""How much an answer owes to the embedding that its puzzle has learned (arXiv 2512.11847)."""
from typing import Literal

import numpy as np
import torch

from dataset.puzzle_dataset import PuzzleDataset
from losses.head import LossHead


def ablate_identifiers(head: LossHead, data: PuzzleDataset, which: Literal["blank", "shuffled"]) -> None:
    """Have the model see each test puzzle as no puzzle in particular (`blank`), or as another test puzzle (`shuffled`).

    Its row of the puzzle table is replaced, so that evaluators still read the true identifiers in a batch. Raises
    ValueError where that changes nothing.
    """
    blank, tested = data.metadata.blank_identifier_id, data.own_rows()
    if head.puzzle_embedding is None or len(tested) < 2:
        lacking = "the model has no puzzle embedding" if head.puzzle_embedding is None else \
            f"the test puzzles of {data.config.folders} have no identifiers of their own"
        raise ValueError(f"puzzle_identifiers={which} has no effect: {lacking}; use puzzle_identifiers=own")
    order = np.random.default_rng(0).permutation(tested)
    table = head.puzzle_embedding.weights
    no_one = table[blank].clone() if blank >= 0 else torch.zeros_like(table[0])  # what is never trained is zero
    table[order] = table[np.roll(order, 1)] if which == "shuffled" else no_one
