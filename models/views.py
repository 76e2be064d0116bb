"""Symmetric views of a board's candidates: which cell stands at each place, and which token has each name."""
import torch
from torch import Tensor

from models.act import uniforms

CELLS, NAMES = 100, 200  # streams of random numbers of a row's key; each pass of a supervision step adds its number


def drawn_view(keys: Tensor, number: int, turned: Tensor, exchanged: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which own cell stands at each place (B, L), and which own token has each name (B, V), in pass `number`.

    `turned` (views, L): of which each row draws one. `exchanged` (V,) bool: the `count` tokens that change places; a
    `count` of 0: none does.
    """
    cells = turned[(uniforms(keys, CELLS + number, 1)[:, 0] * len(turned)).long()]
    names = torch.arange(len(exchanged), device=keys.device).expand(len(keys), -1)
    if count:
        order = torch.where(exchanged, uniforms(keys, NAMES + number, len(exchanged)), 2.0).argsort(1)[:, :count]
        names = names.masked_scatter(exchanged.expand_as(names), order)
    return cells, names


def permuted(values: Tensor, cells: Tensor, tokens: Tensor) -> Tensor:
    """Values (B, …, L, V) with the cells (B, L) and the tokens (B, V) at these places."""
    between = [1] * (values.ndim - 3)
    values = values.gather(-2, cells.view(len(cells), *between, -1, 1).expand(values.shape))
    return values.gather(-1, tokens.view(len(tokens), *between, 1, -1).expand(values.shape))
