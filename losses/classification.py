"""Cross-entropy over cells, plus the halting loss: a model with this head is a training objective.

    loss = Σ over rows of [mean over answered cells of cross-entropy + ½ · (BCE of q_halt [+ BCE of q_continue])]

summed, not averaged, over rows: the training loop divides by the global batch, so ranks may just add gradients. A row
without any label counts as solved in the halting loss, as published, and in no metric of `count`.
"""
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dataset.common import IGNORE_LABEL_ID
from losses.head import LossHead


class ACTLossConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # how logits become probabilities: exp, or s(x) = x+1 for x ≥ 0 and 1/(1−x) below (arXiv 2501.04697)
    loss_type: Literal["softmax_cross_entropy", "stablemax_cross_entropy"]


def log_stablemax_numerator(x: Tensor) -> Tensor:
    """log s(x) = sign(x)·log(1+|x|). Softmax of it is stablemax; float32 suffices in logarithms, where the published
    code sums s itself in float64, which a GPU computes at a fraction of its speed."""
    return torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())


def cell_cross_entropy(logits: Tensor, labels: Tensor, loss_type: str) -> Tensor:
    """Loss (B, L) of logits (B, L, V) against labels (B, L); 0 at ignored cells."""
    logits = logits.float()
    if loss_type == "stablemax_cross_entropy":
        logits = log_stablemax_numerator(logits)
    return F.cross_entropy(logits.transpose(1, 2), labels.long(), ignore_index=IGNORE_LABEL_ID, reduction="none")


class ACTLossHead(LossHead):
    Config, TASK = ACTLossConfig, "classification"
    BATCH_FIELDS = ("inputs", "labels", "puzzle_identifiers")
    OUTPUTS = ("preds", "logits", "q_halt_logits", "q_continue_logits")

    def forward(self, *, carry, batch: dict[str, Tensor], return_keys):
        carry, outputs = self.model(carry, batch)
        labels, answered = carry.current_data["labels"], carry.current_data["labels"] != IGNORE_LABEL_ID
        cells = answered.sum(-1)

        outputs["preds"] = outputs["logits"].argmax(-1)
        correct = (answered & (outputs["preds"] == labels)).sum(-1)
        solved = correct == cells

        halting = self.halting_losses(outputs, solved)
        lm_loss = (cell_cross_entropy(outputs["logits"], labels, self.config.loss_type).sum(-1)
                   / cells.clamp(min=1)).sum()
        loss = lm_loss + 0.5 * sum(halting.values())

        done = carry.halted & (cells > 0)
        metrics = {
            "lm_loss": lm_loss, **halting, "loss": loss,
            "rows": cells.new_tensor(len(cells)),
            "count": done.sum(),
            "accuracy": (done * correct / cells.clamp(min=1)).sum(),
            "exact_accuracy": (done & solved).sum(),
            "q_halt_accuracy": (done & ((outputs["q_halt_logits"] >= 0) == solved)).sum(),
            "steps": (done * carry.steps).sum()}
        return self.result(carry, loss, metrics, outputs, return_keys)
