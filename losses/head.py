"""The base class of loss heads: it holds the model, adds the halting loss, and sums losses and scores over rows.

A subclass says which rows have an answer to compare with, which predictions are right, and the loss of each row. An
example is in docs/your-own-loss.md.
"""
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.act import ACTModel, Carry

HALTING_WEIGHT = 0.5  # as published


class LossConfig(BaseModel):
    """Options that every loss head has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # weight of the halting loss; the loss of the answer has weight 1
    halting_weight: float = Field(HALTING_WEIGHT, ge=0)


class LossHead(nn.Module):
    """A model with its training loss, built as `Class(model, **options)`.

    A *row* is one of the B places of the batch, and works on one puzzle until that is halted. In the methods, `data`
    holds the rows' puzzles, with the fields of a batch, and `outputs` what `step` returned. Losses and scores are sums
    over rows. `utils.metrics.means` divides them.
    """

    Config: type[LossConfig]
    config: Any  # an instance of it
    TASK: str  # `task_type` of the data that the head is for
    BATCH_FIELDS: tuple[str, ...]  # fields that a batch of such data has
    OTHER_SOLUTIONS = False  # whether it learns from those in `other_labels`, too
    OUTPUTS: tuple[str, ...]  # names of the outputs that evaluators can ask for
    ANSWER_LOSS: str  # name of the one among `answer_losses` that is trained on, beside the halting loss

    def __init__(self, model: ACTModel, **loss: Any):
        super().__init__()
        self.model = model
        self.config = self.Config(**loss)

    @classmethod
    def model_options(cls, loss: LossConfig) -> dict[str, Any]:
        """Options that a head with these settings needs its model to be built with. They overrule the model's config.
        """
        return {}

    def prepare(self, sets: Sequence[Any]) -> None:
        """Look at the training sets before training starts. Does nothing unless overridden."""

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

    @property
    def is_compiled(self) -> bool:
        """Whether the recursion is compiled, each new shape of a batch being compiled anew."""
        return self.model.is_compiled

    def compile_recursion(self, scope: str = "recursion", cuda_graphs: bool = False) -> None:
        """See `models.act.ACTModel.compile_recursion`."""
        self.model.compile_recursion(scope, cuda_graphs)
        if scope == "head":
            self.compile(dynamic=False, options={"triton.cudagraphs": True} if cuda_graphs else None)

    def recursing(self, **options: int):
        """See `models.act.ACTModel.recursing`."""
        return self.model.recursing(**options)

    def initial_carry(self, batch: dict[str, Tensor], **noise) -> Carry:
        """See `models.act.ACTModel.initial_carry`."""
        return self.model.initial_carry(batch, **noise)

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step. Returns the carry after it and the outputs, which include `preds`."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability (…, V) of each token, from logits (…, V). Heads of classification have it."""
        raise NotImplementedError

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        """Which rows (B,) have an answer to compare the prediction with."""
        raise NotImplementedError

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        """Which rows (B,) are answered well enough to halt. It is the target of q_halt."""
        raise NotImplementedError

    def answer_losses(self, outputs: dict[str, Tensor],
                      data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses (B,) of the predictions, by name. Each name ends in `loss`."""
        raise NotImplementedError

    def answer_loss(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        """The loss (B,) that is trained on, of outputs of the model. Of several chains, the one with the lowest learns.
        """
        return self.answer_losses(outputs, data)[self.ANSWER_LOSS]

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor],
               counted: Tensor) -> dict[str, Tensor]:
        """`count` and sums of metrics, over the rows that are `counted` (B,) and have an answer to compare with."""
        raise NotImplementedError

    def trained_on(self, data: dict[str, Tensor]) -> Tensor:
        """Which rows (B,) the logged training losses are averaged over."""
        return self.asked(data)

    def row_weights(self, carry: Carry) -> Tensor | int:
        """Weight (B,) of each row's loss in training. It may depend on the steps that the row has taken."""
        return 1

    def row_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses (B,) by name: those of the predictions and the halting loss."""
        return self.answer_losses(outputs, data) | halting_losses(outputs, self.is_right(outputs, data))

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss that is minimised, from its parts by name."""
        halting = losses.get("q_halt_loss", 0) + losses.get("q_continue_loss", 0)
        return losses[self.ANSWER_LOSS] + self.config.halting_weight * halting

    def forward(self, *, carry: Carry, batch: dict[str, Tensor], return_keys: Sequence[str]):
        """Run one supervision step of training.

        Returns the carry after it, the loss, sums of losses and scores, the outputs named by `return_keys`, and
        whether all rows halted. Losses are summed over all rows, scores over the rows that halted in this step.
        """
        carry, outputs = self.step(carry, batch)
        data = carry.current_data
        sums = self._sums(outputs, data, carry.steps, self.row_weights(carry),
                          self.trained_on(data), carry.halted)
        metrics = {name: value.detach() for name, value in sums.items()}
        kept = {name: outputs[name].detach() for name in return_keys if name in outputs}
        return carry, sums["loss"], metrics, kept, carry.halted.all()

    def tally(self, outputs: dict[str, Tensor], data: dict[str, Tensor],
              steps: Tensor) -> dict[str, Tensor]:
        """Sums of losses and scores over rows whose puzzles have ended. `steps` (B,): the supervision steps each took.

        Rows without an answer to compare with are left out.
        """
        asked = self.asked(data)
        return self._sums(outputs, data, steps, asked, asked, asked)

    def _sums(self, outputs: dict[str, Tensor], data: dict[str, Tensor], steps: Tensor,
              weights: Tensor | int,
              rows: Tensor, counted: Tensor) -> dict[str, Tensor]:
        losses = {name: (weights * loss).sum()
                  for name, loss in self.row_losses(outputs, data).items()}
        steps_taken = ((counted & self.asked(data)) * steps).sum()
        return {**losses, "loss": self.total(losses), "rows": rows.sum(),
                **self.scores(outputs, data, counted), "steps": steps_taken}


def halting_losses(outputs: dict[str, Tensor], right: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy (B,) of q_halt against `right` (B,), and of q_continue against its target, if it has one."""
    def bce(logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")

    losses = {"q_halt_loss": bce(outputs["q_halt_logits"], right)}
    if "target_q_continue" in outputs:
        losses["q_continue_loss"] = bce(outputs["q_continue_logits"], outputs["target_q_continue"])
    return losses
