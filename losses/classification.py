"""Cross-entropy over cells, plus the halting loss: a model with this head is a training objective.

    loss = Σ over rows of [mean over answered cells of cross-entropy + w · (BCE of q_halt [+ BCE of q_continue])]

with w = `halting_weight`, ½ as published; summed, not averaged, over rows: the training loop divides by the global
batch, so ranks may just add gradients. In training a row without any label counts as solved in the halting loss, as
published, and is in no score; in an evaluation it is in no loss either.
"""
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dataset.common import IGNORE_LABEL_ID
from losses.head import LossConfig, LossHead
from models.act import Carry


class ACTLossConfig(LossConfig):
    # how logits become probabilities: exp, or s(x) = x+1 for x ≥ 0 and 1/(1−x) below (arXiv 2501.04697)
    loss_type: Literal["softmax_cross_entropy", "stablemax_cross_entropy"]
    # part of the target's probability that is spread evenly over all V tokens
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # in training, what a supervision step counts for as a part of the one before (arXiv 2511.08653); 1: all the same
    supervision_decay: float = Field(1.0, gt=0, le=1)


def log_stablemax_numerator(x: Tensor) -> Tensor:
    """log s(x) = sign(x)·log(1+|x|). Softmax of it is stablemax; float32 suffices in logarithms, where the published
    code sums s itself in float64, which a GPU computes at a fraction of its speed."""
    return torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())


def cell_cross_entropy(logits: Tensor, labels: Tensor, loss_type: str, label_smoothing: float = 0.0) -> Tensor:
    """Loss (B, L) of logits (B, L, V) against labels (B, L); 0 at ignored cells."""
    logits = logits.float()
    if loss_type == "stablemax_cross_entropy":
        logits = log_stablemax_numerator(logits)
    return F.cross_entropy(logits.transpose(1, 2), labels.long(), ignore_index=IGNORE_LABEL_ID, reduction="none",
                           label_smoothing=label_smoothing)


class ACTLossHead(LossHead):
    Config, TASK, ANSWER_LOSS = ACTLossConfig, "classification", "lm_loss"
    BATCH_FIELDS = ("inputs", "labels", "puzzle_identifiers")
    OUTPUTS = ("preds", "logits", "q_halt_logits", "q_continue_logits")

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        carry, outputs = self.model(carry, batch)
        return carry, outputs | {"preds": outputs["logits"].argmax(-1)}

    def cell_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss (B, L) of each cell; 0 where no answer is asked for."""
        return cell_cross_entropy(logits, labels, self.config.loss_type, self.config.label_smoothing)

    def answer_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over the cells of a row that are asked for."""
        cells = _answered(data).sum(-1)
        return {"lm_loss": self.cell_losses(outputs["logits"], data["labels"]).sum(-1) / cells.clamp(min=1)}

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        return _answered(data).any(-1)

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        return (~_answered(data) | (outputs["preds"] == data["labels"])).all(-1)

    def trained_on(self, data: dict[str, Tensor]) -> Tensor:
        """All rows: one without a label is in the halting loss, as published."""
        return torch.ones_like(self.asked(data))

    def row_weights(self, carry: Carry) -> Tensor | int:
        decay = self.config.supervision_decay
        return decay ** (carry.steps - 1) if self.training and decay < 1 else 1

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
        """`count`, the part of the cells that is right, puzzles solved, and where q_halt is right."""
        answered = _answered(data)
        right, cells = (answered & (outputs["preds"] == data["labels"])).sum(-1), answered.sum(-1)
        counted, solved = counted & (cells > 0), right == cells
        return {"count": counted.sum(),
                "accuracy": (counted * right / cells.clamp(min=1)).sum(),
                "exact_accuracy": (counted & solved).sum(),
                "q_halt_accuracy": (counted & ((outputs["q_halt_logits"] >= 0) == solved)).sum()}


def _answered(data: dict[str, Tensor]) -> Tensor:
    """Cells (B, L) whose answer is asked for."""
    return data["labels"] != IGNORE_LABEL_ID
