"""Cross-entropy over cells, plus the halting loss: a model with this head is a training objective.

    loss = Σ over rows of [mean over answered cells of cross-entropy + w · (BCE of q_halt [+ BCE of q_continue])]

with w = `halting_weight`, ½ as published; summed, not averaged, over rows: the training loop divides by the global
batch, so ranks may just add gradients. A row without any label counts as solved in the halting loss, as published, and
in no metric of `count`; under `scores_answered` it is in no loss.
"""
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dataset.common import IGNORE_LABEL_ID
from losses.head import LossConfig, LossHead


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
    Config, TASK = ACTLossConfig, "classification"
    BATCH_FIELDS = ("inputs", "labels", "puzzle_identifiers")
    OUTPUTS = ("preds", "logits", "q_halt_logits", "q_continue_logits")

    def forward(self, *, carry, batch: dict[str, Tensor], return_keys):
        carry, outputs = self.model(carry, batch)
        labels, answered = carry.current_data["labels"], carry.current_data["labels"] != IGNORE_LABEL_ID
        cells = answered.sum(-1)

        outputs["preds"] = outputs["logits"].argmax(-1)
        solved = (~answered | (outputs["preds"] == labels)).all(-1)

        smoothing, decay = self.config.label_smoothing, self.config.supervision_decay
        losses = {  # each (B,)
            "lm_loss": (cell_cross_entropy(outputs["logits"], labels, self.config.loss_type, smoothing).sum(-1)
                        / cells.clamp(min=1)),
            **self.halting_losses(outputs, solved)}
        rows = cells > 0 if self.scores_answered else torch.ones_like(cells)
        weights = decay ** (carry.steps - 1) if self.training and decay < 1 else rows
        losses = {name: (weights * value).sum() for name, value in losses.items()}
        loss = losses["lm_loss"] + self.config.halting_weight * (losses["q_halt_loss"]
                                                                 + losses.get("q_continue_loss", 0))

        metrics = losses | {"loss": loss, "rows": rows.sum()} | self.scores(
            outputs, carry.current_data, carry.halted) | {
            "steps": (carry.halted * (cells > 0) * carry.steps).sum()}
        return self.result(carry, loss, metrics, outputs, return_keys)

    def scores(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
        """Sums over those of the `counted` rows (B,) that have a label: `count`, cells and puzzles solved, q_halt
        right."""
        labels = batch["labels"]
        right = ((outputs["preds"] == labels) & (labels != IGNORE_LABEL_ID)).sum(-1)
        cells = (labels != IGNORE_LABEL_ID).sum(-1)
        counted, solved = counted & (cells > 0), right == cells
        return {"count": counted.sum(),
                "accuracy": (counted * right / cells.clamp(min=1)).sum(),
                "exact_accuracy": (counted & solved).sum(),
                "q_halt_accuracy": (counted & ((outputs["q_halt_logits"] >= 0) == solved)).sum()}
