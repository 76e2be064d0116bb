"""What every loss head shares: the model inside it, the halting loss, sums of losses and scores.

A head of one's own says which rows ask for an answer, which answers are right, and what each row's answer costs; the
rest is here. An example is in docs/your-own-loss.md.
"""
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.act import ACTModel, Carry

HALTING_WEIGHT = 0.5  # as published


class LossConfig(BaseModel):
    """Options of every head."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # what the halting loss counts for beside the loss of the answer
    halting_weight: float = Field(HALTING_WEIGHT, ge=0)


class LossHead(nn.Module):
    """`Class(model, **loss)`: a model with its head is a training objective, whose loss is a sum over rows.

    `data` are the puzzles that the rows work on, keyed as in the batch; `outputs` are the model's, and `preds`. Sums
    over rows are divided by `utils.metrics.means`.
    """

    Config: type[LossConfig]
    config: Any  # an instance of it
    TASK: str  # `task_type` of the data it is for
    BATCH_FIELDS: tuple[str, ...]  # of a batch
    OUTPUTS: tuple[str, ...]  # of those of a step, what evaluators can ask for
    ANSWER_LOSS: str  # which of `answer_losses` is trained on, beside the halting loss

    def __init__(self, model: ACTModel, **loss: Any):
        super().__init__()
        self.model = model
        self.config = self.Config(**loss)

    @classmethod
    def model_options(cls, loss: LossConfig) -> dict[str, Any]:
        """Options that the model inside a head of these settings must be built with, whatever its own config says."""
        return {}

    def prepare(self, sets: Sequence[Any]) -> None:
        """Take what the head has to know of the training sets, before training starts. Nothing, unless overridden."""

    @property
    def puzzle_embedding(self):
        """The model's `SparseEmbedding`, or None."""
        return self.model.puzzle_embedding

    def matrices(self) -> list[Tensor]:
        """See `models.backbone.Backbone.matrices`."""
        return self.model.matrices()

    @property
    def steps_known(self) -> int | None:
        """See `models.act.ACTModel.steps_known`."""
        return self.model.steps_known

    def compile_recursion(self) -> None:
        self.model.compile_recursion()

    def recursing(self, **cycles: int):
        """See `models.act.ACTModel.recursing`."""
        return self.model.recursing(**cycles)

    def initial_carry(self, batch: dict[str, Tensor], **noise) -> Carry:
        """See `models.act.ACTModel.initial_carry`."""
        return self.model.initial_carry(batch, **noise)

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        """One supervision step: the carry after it and the outputs, `preds` among them."""
        raise NotImplementedError

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        """Which rows (B,) ask for an answer."""
        raise NotImplementedError

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        """Which rows (B,) are answered well enough to halt: the target of q_halt."""
        raise NotImplementedError

    def answer_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses (B,) of the answers by name, each ending in `loss`."""
        raise NotImplementedError

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
        """Sums over those of the `counted` rows (B,) that ask for an answer: `count`, how many they are, and metrics.
        """
        raise NotImplementedError

    def trained_on(self, data: dict[str, Tensor]) -> Tensor:
        """Over which rows (B,) the losses of training are averaged."""
        return self.asked(data)

    def row_weights(self, carry: Carry) -> Tensor | int:
        """What each row (B,) counts for in training, by the steps that it has taken."""
        return 1

    def row_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses (B,) by name."""
        return self.answer_losses(outputs, data) | halting_losses(outputs, self.is_right(outputs, data))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss, of the sums of its parts."""
        halting = losses.get("q_halt_loss", 0) + losses.get("q_continue_loss", 0)
        return losses[self.ANSWER_LOSS] + self.config.halting_weight * halting

    def forward(self, *, carry: Carry, batch: dict[str, Tensor], return_keys: Sequence[str]):
        """One supervision step of training -> carry, loss, sums of losses and scores, the outputs named by
        `return_keys`, whether all rows halted. Scores are of the rows that halted in this step."""
        carry, outputs = self.step(carry, batch)
        data = carry.current_data
        sums = self._sums(outputs, data, carry.steps, self.row_weights(carry), self.trained_on(data), carry.halted)
        kept = {name: outputs[name].detach() for name in return_keys if name in outputs}
        return carry, sums["loss"], {name: value.detach() for name, value in sums.items()}, kept, carry.halted.all()

    def tally(self, outputs: dict[str, Tensor], data: dict[str, Tensor], steps: Tensor) -> dict[str, Tensor]:
        """Sums of losses and scores over rows whose puzzles have ended, after so many `steps` (B,) each. Rows that ask
        for no answer are in none of them."""
        asked = self.asked(data)
        return self._sums(outputs, data, steps, asked, asked, asked)

    def _sums(self, outputs: dict[str, Tensor], data: dict[str, Tensor], steps: Tensor, weights: Tensor | int,
              rows: Tensor, counted: Tensor) -> dict[str, Tensor]:
        losses = {name: (weights * loss).sum() for name, loss in self.row_losses(outputs, data).items()}
        return losses | {"loss": self.total(losses), "rows": rows.sum()} | self.scores(outputs, data, counted) | {
            "steps": ((counted & self.asked(data)) * steps).sum()}


def halting_losses(outputs: dict[str, Tensor], right: Tensor) -> dict[str, Tensor]:
    """BCE (B,) of q_halt against `right` (B,), and of q_continue against its target where it has one."""
    def bce(logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")

    losses = {"q_halt_loss": bce(outputs["q_halt_logits"], right)}
    if "target_q_continue" in outputs:
        losses["q_continue_loss"] = bce(outputs["q_continue_logits"], outputs["target_q_continue"])
    return losses
