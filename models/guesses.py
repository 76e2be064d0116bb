"""Guesses of a search among candidates (B, L, V), booleans: which cell is fixed to what, which boards are in
conflict, and how a guess is taken back."""
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.act import uniforms, where_rows

CELLS, DIGITS, TRUE_DIGITS = 300, 400, 500  # streams of random numbers of a row's key


def guessed(left: Tensor, digit: Tensor, keys: Tensor, temperature: float, which: Literal["any", "fewest", "surest"],
            taught: tuple[Tensor, float]) -> Tensor:
    """The candidates with one open cell of each row fixed to a token that is drawn by its logits (B, L, V) from the
    cell's candidates.

    The cell is drawn evenly, by `which` from all open cells or from those with the fewest candidates; or it is the one
    with the most probable token. `taught`: the true tokens (B, L), and the probability that the true one is taken where
    it is still a candidate.
    """
    number = left.sum(-1)
    is_open = number > 1
    if which == "fewest":
        is_open &= number == number.where(is_open, left.shape[-1]).amin(1, keepdim=True)
    if which == "surest":
        order = digit.masked_fill(~left, -torch.inf).softmax(-1).amax(-1)
    else:
        order = uniforms(keys, CELLS, left.shape[1])
    cell = torch.where(is_open, order, -1.0).argmax(1)
    # adding Gumbel noise and taking the greatest draws from the softmax
    gumbel = -(-uniforms(keys, DIGITS, left.shape[2]).log()).log()
    rows = torch.arange(len(left), device=left.device)
    scores = digit[rows, cell] / temperature + gumbel
    chosen = scores.masked_fill(~left[rows, cell], -torch.inf).argmax(1)
    labels, share = taught
    if share:
        true = labels[rows, cell].clamp(min=0).long()
        chosen = torch.where((uniforms(keys, TRUE_DIGITS, 1)[:, 0] < share) & left[rows, cell, true], true, chosen)
    fixed = left.clone()
    fixed[rows, cell] = F.one_hot(chosen, left.shape[2]).bool()
    return fixed


def judged(seen: Tensor, left: Tensor, keep: Tensor, in_conflict: Tensor, doubt_below: float,
           doubt_open: int | None) -> tuple[Tensor, Tensor]:
    """Which rows (B,) are in conflict, and which are solved.

    `seen`, `left`: the candidates before and after deduction; `keep` (B, L, V): the logits that it went by;
    `in_conflict` (B,): what is known of conflicts already. `doubt_below`, `doubt_open`: options of LDT.
    """
    in_conflict = ~left.any(-1).all(-1) | in_conflict
    solved = (left.sum(-1) == 1).all(-1) & ~in_conflict
    if not doubt_below:
        return in_conflict, solved
    is_single = seen.sum(-1, keepdim=True) == 1
    doubted = (seen & is_single & (keep.sigmoid() < doubt_below)).flatten(1).any(1)
    if doubt_open is not None:
        doubted &= (~is_single).flatten(1).sum(1) <= doubt_open
    return in_conflict | doubted, solved & is_single.flatten(1).all(1) & ~doubted


def taken_back(left: Tensor, after: Tensor, others: Tensor, in_conflict: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """A step of depth-first search: the candidates, the states to go back to, and which rows are in conflict and have
    none.

    `left`, `after`: the candidates before and after this step's guess; `others` (B, n, L, V): the states so far, latest
    first, of which the oldest gives way to a new one; one without candidates is none.
    """
    at_guess = (left != after).any(-1, keepdim=True)
    without = torch.where(at_guess, left & ~after, left)
    returns = in_conflict & others[:, 0].flatten(1).any(1)
    after = where_rows(returns, others[:, 0], after)
    kept = where_rows(returns, torch.cat((others[:, 1:], torch.zeros_like(others[:, :1])), 1), others)
    others = where_rows(at_guess.flatten(1).any(1), torch.cat((without[:, None], others[:, :-1]), 1), kept)
    return after, [others], in_conflict & ~returns
