"""Cross-entropy over cells, plus the halting loss: a model with this head is a training objective.

    loss = Σ over rows of [mean over labelled cells of cross-entropy + w · (BCE of q_halt [+ BCE of q_continue])]

w = `halting_weight`, ½ as published. A cell is labelled if its label is not -100. The loss is a sum over rows, not a
mean: the training step divides it by the global batch size, so that processes can simply add their gradients.

A row without a labelled cell counts as solved in the halting loss of training, as published. It is in no score, and at
evaluation in no loss either.
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
    # what turns logits into positive numbers: exp, or s(x) = x+1 for x ≥ 0 and 1/(1−x) for x < 0 (arXiv 2501.04697)
    loss_type: Literal["softmax_cross_entropy", "stablemax_cross_entropy"]
    # share of the target probability that is spread evenly over all V tokens
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # weight of a supervision step's training loss, as a fraction of the weight of the step before (arXiv 2511.08653)
    supervision_decay: float = Field(1.0, gt=0, le=1)


def log_stablemax_numerator(x: Tensor) -> Tensor:
    """log s(x) = sign(x)·log(1+|x|), where s is the function that stablemax has in place of exp (arXiv 2501.04697).

    So stablemax is the softmax of log s, and float32 is precise enough. The published code sums s itself, needs
    float64 for it, and a GPU computes float64 at a fraction of its speed.
    """
    # Not sign(x)·log1p(|x|): PyTorch takes its derivative at 0 for 0, and it is 1. `torch.where` computes both branches
    # and multiplies the gradient of the one not taken by 0. Unclamped, that branch is log 0 at x = ±1, its gradient is
    # infinite there, and 0 times infinity is NaN.
    return torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())


def softmax_logits(logits: Tensor, loss_type: str) -> Tensor:
    """Float32 logits whose softmax is what `loss_type` takes for the probabilities of tokens."""
    return log_stablemax_numerator(logits.float()) if loss_type == "stablemax_cross_entropy" else logits.float()


def cell_cross_entropy(logits: Tensor, labels: Tensor, loss_type: str,
                       label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (B, L) of logits (B, L, V) against labels (B, L). It is 0 at cells whose label is -100."""
    return F.cross_entropy(softmax_logits(logits, loss_type).transpose(1, 2), labels.long(),
                           ignore_index=IGNORE_LABEL_ID, reduction="none", label_smoothing=label_smoothing)


class ACTLossHead(LossHead):
    Config, TASK, ANSWER_LOSS = ACTLossConfig, "classification", "lm_loss"
    BATCH_FIELDS = ("inputs", "labels", "puzzle_identifiers")
    OUTPUTS = ("preds", "logits", "q_halt_logits", "q_continue_logits")

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        carry, outputs = self.model(carry, batch, self.answer_loss)
        return carry, outputs | {"preds": outputs["logits"].argmax(-1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        return softmax_logits(logits, self.config.loss_type).softmax(-1)

    def cell_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss (B, L) of each cell. It is 0 at cells without a label."""
        return cell_cross_entropy(logits, labels, self.config.loss_type,
                                  self.config.label_smoothing)

    def answer_losses(self, outputs: dict[str, Tensor],
                      data: dict[str, Tensor]) -> dict[str, Tensor]:
        """`lm_loss` (B,): the mean loss of a row's labelled cells; where a model gives the answers of all passes of a
        step, `pass_logits` (B, n, L, V), their mean."""
        cells = labelled(data).sum(-1)
        answers = outputs["pass_logits"].unbind(1) if "pass_logits" in outputs else (outputs["logits"],)
        losses = torch.stack([self.cell_losses(logits, data["labels"]) for logits in answers]).mean(0)
        return {"lm_loss": losses.sum(-1) / cells.clamp(min=1)}

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        return labelled(data).any(-1)

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        return (~labelled(data) | (outputs["preds"] == data["labels"])).all(-1)

    def trained_on(self, data: dict[str, Tensor]) -> Tensor:
        """All rows (B,), since a row without labels still has a halting loss, as published."""
        return torch.ones_like(self.asked(data))

    def row_weights(self, carry: Carry) -> Tensor | int:
        decay = self.config.supervision_decay
        return decay ** (carry.steps - 1) if self.training and decay < 1 else 1

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor],
               counted: Tensor) -> dict[str, Tensor]:
        """Sums over the `counted` rows (B,) that have labels: the rows, the fraction of labelled cells that is right,
        the rows solved, and the rows of which the sign of q_halt tells rightly whether they are solved."""
        answered = labelled(data)
        right, cells = (answered & (outputs["preds"] == data["labels"])).sum(-1), answered.sum(-1)
        counted, solved = counted & (cells > 0), right == cells
        return {"count": counted.sum(),
                "accuracy": (counted * right / cells.clamp(min=1)).sum(),
                "exact_accuracy": (counted & solved).sum(),
                "q_halt_accuracy": (counted & ((outputs["q_halt_logits"] >= 0) == solved)).sum()}


def labelled(data: dict[str, Tensor]) -> Tensor:
    """Which cells (B, L) have a label."""
    return data["labels"] != IGNORE_LABEL_ID
