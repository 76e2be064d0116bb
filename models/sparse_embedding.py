"""The puzzle table: one learned vector for each puzzle, and the sign-SGD that trains it.

With 1,000 augmentations, the table of ARC has 876,000 rows, and a batch reads at most B of them. So the table is a
buffer, without dense gradient, optimizer moments and EMA copy. A lookup in training makes the rows that it read an
autograd leaf, and `SparseSignSGD` updates the table from their gradients.
"""
import torch
from torch import Tensor, nn

from utils.distributed import all_gather_rows
from utils.optim import PlainOptimizer


class SparseEmbedding(nn.Module):
    """A table `weights` (N, width) of puzzle embeddings, all zero before training."""

    weights: Tensor

    def __init__(self, num_identifiers: int, width: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_identifiers, width))
        # identifiers (B,) and rows (B, width), an autograd leaf, of each training lookup of the step
        self.looked_up: list[tuple[Tensor, Tensor]] = []

    def forward(self, identifiers: Tensor) -> Tensor:
        """Rows (B, width) of the identifiers (B,). In training they are remembered for the optimizer."""
        rows = self.weights[identifiers]
        if self.training and torch.is_grad_enabled():
            self.looked_up = [*self.with_gradient(), (identifiers, rows.requires_grad_())]
        return rows

    def with_gradient(self) -> list[tuple[Tensor, Tensor]]:
        """The lookups of this step that have a gradient: one for each part of the batch that was computed by itself."""
        return [(identifiers, rows)
                for identifiers, rows in self.looked_up if rows.grad is not None]

    @property
    def gradient(self) -> Tensor | None:
        """Gradient (B, width) of the rows looked up in this step. None before there is one."""
        gradients = [rows.grad for _, rows in self.with_gradient() if rows.grad is not None]
        return torch.cat(gradients) if gradients else None


class SparseSignSGD(PlainOptimizer):
    """Sign-SGD with decoupled weight decay. It updates the rows of a `SparseEmbedding` that the step looked up.

    Before the sign is taken, gradients of equal identifiers are summed over all ranks. All tensors have the size of the
    batch, so that nothing here waits for the GPU, as `torch.unique` would.
    """

    def __init__(self, embedding: SparseEmbedding, lr: float, weight_decay: float):
        super().__init__([embedding.weights], {"lr": lr, "weight_decay": weight_decay})
        self.embedding = embedding
        self.before: tuple[Tensor, Tensor] | None = None  # identifiers and rows that the latest step changed

    def take_back_step(self) -> None:
        """Give the rows that the latest step changed their values before it. A copy of the whole table would be large.
        """
        if self.before is not None:
            self.embedding.weights.index_copy_(0, *self.before)

    @torch.no_grad()
    def step(self) -> None:
        gradients, self.before = self.embedding.gradient, None
        if gradients is None:
            return
        identifiers = torch.cat([identifiers for identifiers, _ in self.embedding.with_gradient()])
        self.zero_grad()
        identifiers, gradients = all_gather_rows(identifiers.long()), all_gather_rows(gradients)

        identifiers, order = identifiers.sort(stable=True)
        starts_run = torch.ones_like(identifiers, dtype=torch.bool)
        starts_run[1:] = identifiers[1:] != identifiers[:-1]
        run = starts_run.cumsum(0) - 1  # which distinct identifier each row belongs to
        summed = torch.zeros_like(gradients).index_add_(0, run, gradients[order])[run]

        lr, weight_decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        table = self.embedding.weights
        self.before = identifiers, table[identifiers]
        updated = (self.before[1] * (1 - lr * weight_decay)).add_(summed.sign_(), alpha=-lr)
        table.index_copy_(0, identifiers, updated)  # equal identifiers write equal rows

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.embedding.looked_up = []
