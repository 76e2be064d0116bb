"""The loss of LDT (arXiv 2605.08605), whose model keeps the set of candidates of each cell.

    loss = Σ over rows of the mean over loops of [keep + w_d · digit + w_c · conflict]

keep: the mean over cells and tokens of the binary cross-entropy of the keep logit against "a candidate, and a true
token", which counts `keep_weight` where that is so and `drop_weight` elsewhere. digit: the mean over the row's cells
that are not given of the cross-entropy of the true token; 0 for a row that has lost a true token. conflict: the binary
cross-entropy against "the row has lost a true token". The published code takes the mean of `digit` over all such cells
of a batch; here it is a mean over a row, so that a row's loss does not depend on the others.

Of a puzzle with several known solutions (`other_labels`), the true tokens of a cell are the union over the solutions
that are still possible, a cell where these differ does not count in `digit`, and a row has lost the truth when no
solution is possible. The union and the cells of `digit` are those of the published code. Its conflict is narrower: some
cell has lost every token of the union, which can be false though no solution is left.
"""
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from losses.classification import labelled
from losses.head import HALTING_WEIGHT, LossConfig, LossHead
from models.act import ACTModel, Carry
from models.recursive_reasoning.ldt import LDT
from models.truth import Truth


class LatticeLossConfig(LossConfig):
    # weight of the keep loss of a candidate that is the true token
    keep_weight: float = Field(4.0, ge=0)
    # weight of the keep loss of any other token
    drop_weight: float = Field(0.5, ge=0)
    # weight w_d of the digit loss
    digit_weight: float = Field(0.2, ge=0)
    # weight w_c of the conflict loss
    conflict_weight: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _check(self):
        if self.halting_weight != HALTING_WEIGHT:
            raise ValueError(f"halting_weight={self.halting_weight} has no effect without a halting loss; set "
                             f"conflict_weight, or halting_weight={HALTING_WEIGHT}")
        return self


class LatticeLossHead(LossHead):
    """Of an answer that is not complete, `preds` has the likeliest candidate that is left in each cell."""

    Config, TASK, ANSWER_LOSS = LatticeLossConfig, "classification", "lm_loss"
    BATCH_FIELDS, OTHER_SOLUTIONS = ("inputs", "labels", "puzzle_identifiers"), True
    OUTPUTS = ("preds", "logits", "q_halt_logits", "candidates", "solved")
    model: LDT

    def __init__(self, model: ACTModel, **loss: Any):
        super().__init__(model, **loss)
        if not isinstance(model, LDT):
            raise ValueError(f"arch.loss.name=losses@LatticeLossHead trains candidates, which {type(model).__name__} "
                             "does not have; use arch=ldt, or arch.loss.name=losses@ACTLossHead")

    @classmethod
    def model_options(cls, loss: LossConfig) -> dict[str, Any]:
        return {"learns_halting": False}

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step. `deductions` (B,): candidates that deduction has removed since the row began;
        `unsound` (B,): how many of them were a true token of their cell, of the solutions that guesses left possible.
        """
        carry, outputs = self.model(carry, batch)
        preds = outputs["logits"].masked_fill(~outputs["candidates"], -torch.inf).argmax(-1)
        removed = outputs.pop("removed")
        truth = Truth(outputs["candidates"] | removed, carry.current_data)  # candidates without any deduction
        unsound = removed & truth.tokens(removed.shape[-1]) & truth.answered[..., None]
        return carry, outputs | {"preds": preds, "deductions": removed.flatten(1).sum(-1).float(),
                                 "unsound": unsound.flatten(1).sum(-1).float()}

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        return labelled(data).any(-1)

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        return (~labelled(data) | (outputs["preds"] == data["labels"])).all(-1)

    def row_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The three losses (B,), and as `lm_loss` their weighted sum. At evaluation they are those of the last loop."""
        losses, c = self.answer_losses(outputs, data), self.config
        return losses | {"lm_loss": losses["keep_loss"] + c.digit_weight * losses["digit_loss"]
                         + c.conflict_weight * losses["conflict_loss"]}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return losses[self.ANSWER_LOSS]

    def answer_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        answered, seen = labelled(data), outputs["seen"]
        known = Truth(seen, data)
        true, conflict = known.tokens(seen.shape[-1]), known.lost
        truth, one = seen & true, true.sum(-1) == 1
        keep, digit, loops = outputs["keep_logits"], outputs["digit_logits"], outputs["conflict_logits"]
        weights = torch.where(truth, self.config.keep_weight, self.config.drop_weight)
        of_candidates = F.binary_cross_entropy_with_logits(keep, truth[:, None].expand_as(keep).to(keep.dtype),
                                                           weights[:, None].expand_as(keep), reduction="none")
        # not an index: such a mask as index makes the host wait for the GPU
        cells = _mean(of_candidates.mean(1), self.model.inner.playable)  # (B, L)
        digits = true.int().argmax(-1)
        of_digits = F.cross_entropy(digit.permute(0, 3, 1, 2), digits[:, None].expand(digit.shape[:3]),
                                    reduction="none").mean(1)
        open_cells = answered & (data["inputs"] == self.model.config.blank) & one & ~conflict[:, None]
        return {"keep_loss": _mean(cells, answered), "digit_loss": _mean(of_digits, open_cells),
                "conflict_loss": F.binary_cross_entropy_with_logits(
                    loops, conflict[:, None].expand_as(loops).to(loops.dtype), reduction="none").mean(1)}

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
        """Sums over the `counted` rows (B,) that have labels: the rows, the fraction of labelled cells that is right,
        the rows whose answer is that of the labels, those that the model says it has solved (`accepted`) and those of
        them whose answer is no known solution, the rows of which q_halt tells rightly whether a known solution is still
        possible, and deductions."""
        answered, known = labelled(data), Truth(outputs["seen"], data)
        right, cells = (answered & (outputs["preds"] == data["labels"])).sum(-1), answered.sum(-1)
        counted, exact, accepted = counted & (cells > 0), right == cells, outputs["solved"]
        consistent = (outputs["q_halt_logits"] >= 0) != known.lost
        solution = ((outputs["preds"][:, None] == known.solutions) | ~answered[:, None]).all(-1).any(-1)
        return {"count": counted.sum(), "accuracy": (counted * right / cells.clamp(min=1)).sum(),
                "exact_accuracy": (counted & exact).sum(), "accepted": (counted & accepted).sum(),
                "accepted_wrong": (counted & accepted & ~solution).sum(),
                "q_halt_accuracy": (counted & consistent).sum(),
                "deductions": (counted * outputs["deductions"]).sum(),
                "unsound_deductions": (counted * outputs["unsound"]).sum()}


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Means (…) of values (…, N) over the N places that count; 0 for a row without any."""
    return (values * where).sum(-1) / where.sum(-1).clamp(min=1)
