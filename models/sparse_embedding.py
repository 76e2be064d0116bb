"""One learned vector a puzzle, in a table too large for dense gradients, and the sign-SGD that trains it.

ARC with 1,000 augmentations has 876,000 rows of which a batch touches at most B. The table is therefore a buffer: no
dense gradient, no optimizer moments, no EMA copy. A training lookup leaves the rows it read as an autograd leaf, and
`SparseSignSGD` folds their gradients back into the table.
"""
import torch
from torch import Tensor, nn

from utils.distributed import all_gather_rows


class SparseEmbedding(nn.Module):
    """Table `weights` (N, width), zero at first: a puzzle never seen means nothing yet."""

    weights: Tensor

    def __init__(self, num_identifiers: int, width: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_identifiers, width))
        # identifiers (B,) and rows (B, width), an autograd leaf, of each training lookup of the step
        self.looked_up: list[tuple[Tensor, Tensor]] = []

    def forward(self, identifiers: Tensor) -> Tensor:
        """Rows (B, width) of the identifiers (B,); remembered for the optimizer where a gradient will come."""
        rows = self.weights[identifiers]
        if self.training and torch.is_grad_enabled():
            self.looked_up = [*self.with_gradient(), (identifiers, rows.requires_grad_())]
        return rows

    def with_gradient(self) -> list[tuple[Tensor, Tensor]]:
        """The lookups whose gradient has come: one of each part of a batch that was computed in parts."""
        return [(identifiers, rows) for identifiers, rows in self.looked_up if rows.grad is not None]

    @property
    def gradient(self) -> Tensor | None:
        """Gradient (B, width) of the rows looked up in this step."""
        gradients = [rows.grad for _, rows in self.with_gradient() if rows.grad is not None]
        return torch.cat(gradients) if gradients else None


class SparseSignSGD(torch.optim.Optimizer):
    """Sign-SGD with decoupled weight decay on the rows of one `SparseEmbedding` that the step looked up.

    Gradients of equal identifiers are summed, over all ranks, before the sign is taken. All sizes are those of the
    batch, so that nothing here waits for the GPU (`unique` would).
    """

    def __init__(self, embedding: SparseEmbedding, lr: float, weight_decay: float):
        super().__init__([embedding.weights], {"lr": lr, "weight_decay": weight_decay})
        self.embedding = embedding

    @torch.no_grad()
    def step(self) -> None:
        gradients = self.embedding.gradient
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
        updated = table[identifiers].mul_(1 - lr * weight_decay).add_(summed.sign_(), alpha=-lr)
        table.index_copy_(0, identifiers, updated)  # equal identifiers write equal rows

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.embedding.looked_up = []
