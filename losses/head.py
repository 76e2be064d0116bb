"""What every loss head shares: the model inside it, the halting loss, and what a supervision step returns."""
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

HALTING_WEIGHT = 0.5  # as published


class LossConfig(BaseModel):
    """Options of every head."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # what the halting loss counts for beside the loss of the answer
    halting_weight: float = Field(HALTING_WEIGHT, ge=0)


class LossHead(nn.Module):
    """`Class(model, **loss)`: a model with its head is a training objective.

    `head(carry=, batch=, return_keys=)` is one supervision step -> carry, loss, metrics, the outputs named by
    `return_keys`, whether all rows halted. The metrics are sums over rows, for `utils.metrics.means` to divide.
    """

    Config: type[LossConfig]
    TASK: str  # `task_type` of the data it is for
    BATCH_FIELDS: tuple[str, ...]  # of a batch
    OUTPUTS: tuple[str, ...]  # what `return_keys` can name
    scores_answered = False  # leave rows that have no answer out of the losses, as the evaluation loop does

    def __init__(self, model: nn.Module, **loss):
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

    def compile_recursion(self) -> None:
        self.model.compile_recursion()

    def recursing(self, **cycles: int):
        """See `models.act.ACTModel.recursing`."""
        return self.model.recursing(**cycles)

    def initial_carry(self, batch: dict[str, Tensor], **noise):
        """See `models.act.ACTModel.initial_carry`."""
        return self.model.initial_carry(batch, **noise)

    @staticmethod
    def halting_losses(outputs: dict[str, Tensor], right: Tensor) -> dict[str, Tensor]:
        """BCE (B,) of q_halt against `right` (B,), and of q_continue against its target where it has one."""
        def bce(logits: Tensor, target: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")

        losses = {"q_halt_loss": bce(outputs["q_halt_logits"], right)}
        if "target_q_continue" in outputs:
            losses["q_continue_loss"] = bce(outputs["q_continue_logits"], outputs["target_q_continue"])
        return losses

    @staticmethod
    def result(carry, loss: Tensor, metrics: dict[str, Tensor], outputs: dict[str, Tensor],
               return_keys: Sequence[str]):
        """What `forward` returns; metrics and outputs without gradient."""
        kept = {name: outputs[name].detach() for name in return_keys if name in outputs}
        return carry, loss, {name: value.detach() for name, value in metrics.items()}, kept, carry.halted.all()
