"""Fields (B, F, L, D), one of L cells for each digit, as DEC has them; LDT on digit fields keeps its cells first."""
from torch import Tensor

NO_LOGIT = -1e4  # of tokens that no cell is filled with; finite, so that its gradient is a number


def mean_of_others(z: Tensor) -> Tensor:
    """Of each field, at each cell, the mean of the other fields; both (B, F, L, D)."""
    return (z.sum(1, keepdim=True) - z) / (z.shape[1] - 1)


def of_tokens(values: Tensor, digits: Tensor, vocab_size: int, others: float = NO_LOGIT) -> Tensor:
    """(B, L, V) of values (B, L, F) of the `digits` (F,); `others`: of the tokens that no cell is filled with."""
    return values.new_full((*values.shape[:2], vocab_size), others).index_copy(2, digits, values)
