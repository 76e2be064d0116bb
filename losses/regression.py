"""Squared and absolute error over the observed targets, plus the halting loss where the Q head is kept.

    loss = Σ over rows of [mse_weight · mean squared error + mae_weight · mean absolute error + w · BCE of q_halt]

w = `halting_weight`. Means are over the observed targets of a row (`target_mask`). A row without any adds 0.

Without the Q head every example takes N_sup supervision steps. With it, q_halt learns whether the weighted error of the
row (the bracket without the BCE) is below `halt_threshold`. Training halts rows whose q_halt is positive. Evaluation
does so only with `arch.act_inference`.

With `normalize`, the network sees inputs and targets scaled to mean 0 and standard deviation 1 in each feature, as
measured on the training data. The loss and `halt_threshold` are in these units. Predictions and all other metrics are
in the units of the data.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dataset.regression_dataset import RegressionSet, feature_statistics
from losses.head import HALTING_WEIGHT, LossConfig, LossHead
from models.act import ACTModel, Carry
from utils.metrics import widest_float


class ACTRegressionLossConfig(LossConfig):
    # weight of the mean squared error
    mse_weight: float = Field(1.0, ge=0)
    # weight of the mean absolute error
    mae_weight: float = Field(0.0, ge=0)
    # train the Q head, and halt by it; may also be written arch.keep_act_halting_head
    keep_act_halting_head: bool = False
    # weighted error below which an example is good enough to halt
    halt_threshold: float | None = Field(None, gt=0)
    # scale each feature by its mean and deviation in the training data; both are saved with the weights
    normalize: bool = False

    @model_validator(mode="after")
    def _check(self):
        if not self.mse_weight + self.mae_weight:
            raise ValueError("mse_weight=0 and mae_weight=0 leave nothing to learn; "
                             "give one of them a weight")
        if self.keep_act_halting_head and self.halt_threshold is None:
            raise ValueError("keep_act_halting_head=True needs halt_threshold, the error below "
                             "which an example is good enough to halt; set "
                             "arch.loss.halt_threshold=…, or leave the head off")
        if self.halt_threshold is not None and not self.keep_act_halting_head:
            raise ValueError(f"halt_threshold={self.halt_threshold} has no effect without the "
                             "halting head; set arch.loss.keep_act_halting_head=True, or remove it")
        if self.halting_weight != HALTING_WEIGHT and not self.keep_act_halting_head:
            raise ValueError(f"halting_weight={self.halting_weight} has no effect without the "
                             "halting head; set arch.loss.keep_act_halting_head=True, or "
                             f"arch.loss.halting_weight={HALTING_WEIGHT}")
        return self


class ACTRegressionLossHead(LossHead):
    Config, TASK, ANSWER_LOSS = ACTRegressionLossConfig, "regression", "regression_loss"
    BATCH_FIELDS = ("inputs", "targets", "target_mask", "puzzle_identifiers")
    OUTPUTS = ("preds", "q_halt_logits", "q_continue_logits")
    target_mean: Tensor  # (width,) buffers, if `normalize`
    target_std: Tensor

    @classmethod
    def model_options(cls, loss: ACTRegressionLossConfig) -> dict[str, Any]:
        return {"learns_halting": loss.keep_act_halting_head}

    def __init__(self, model: ACTModel, **loss: Any):
        super().__init__(model, **loss)
        if not self.config.keep_act_halting_head:  # then q_halt is untrained, so halting by it would be random
            if model.config.act_inference:
                raise ValueError("arch.act_inference=True halts by the Q head; train it with "
                                 "arch.loss.keep_act_halting_head=True and "
                                 "arch.loss.halt_threshold=…")
            if model.config.learns_halting:
                raise ValueError("the model halts by its Q head, which this loss does not train; "
                                 "build the model with learns_halting=False")
        if self.config.normalize:
            for field, width in (("input", model.config.latent_dim),
                                 ("target", model.config.output_dim)):
                self.register_buffer(f"{field}_mean", torch.zeros(width))
                self.register_buffer(f"{field}_std", torch.ones(width))

    def prepare(self, sets: Sequence[RegressionSet]) -> None:
        if self.config.normalize:
            self.set_normalization(feature_statistics(sets))

    def set_normalization(self, statistics: dict[str, np.ndarray]) -> None:
        """Set means and deviations to those that `dataset.regression_dataset.feature_statistics` returned."""
        for name, value in statistics.items():
            getattr(self, name).copy_(torch.from_numpy(value))

    def _scaled(self, field: str, values: Tensor) -> Tensor:
        if not self.config.normalize:
            return values
        return (values - getattr(self, f"{field}_mean")) / getattr(self, f"{field}_std")

    def step(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step. Of the outputs, `preds` are predictions in the units of the data, and `scaled` the
        same in the units of the loss."""
        carry, outputs = self.model(carry, batch | {"inputs": self._scaled("input", batch["inputs"])}, self.answer_loss)
        scaled = self._predicted(outputs.pop("logits"), carry.current_data)
        preds = scaled * self.target_std + self.target_mean if self.config.normalize else scaled
        return carry, outputs | {"scaled": scaled, "preds": preds}

    def _predicted(self, logits: Tensor, data: dict[str, Tensor]) -> Tensor:
        """Predictions in the units of the loss, in the shape of the targets."""
        return logits.float().view_as(data["targets"])

    def answer_loss(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        scaled = self._predicted(outputs["logits"], data)
        return self.answer_losses({"scaled": scaled}, data)[self.ANSWER_LOSS]

    def answer_losses(self, outputs: dict[str, Tensor],
                      data: dict[str, Tensor]) -> dict[str, Tensor]:
        residual, mask = outputs["scaled"] - self._scaled("target", data["targets"]), data["target_mask"]
        squared, absolute = _row_errors(residual, mask, mask.flatten(1).sum(-1))
        return {"regression_loss": self.config.mse_weight * squared + self.config.mae_weight * absolute}

    def row_losses(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses (B,) by name, with the halting loss only where the Q head is kept."""
        if self.config.keep_act_halting_head:
            return super().row_losses(outputs, data)
        return self.answer_losses(outputs, data)

    def asked(self, data: dict[str, Tensor]) -> Tensor:
        return data["target_mask"].flatten(1).any(-1)

    def is_right(self, outputs: dict[str, Tensor], data: dict[str, Tensor]) -> Tensor:
        return self.answer_losses(outputs, data)["regression_loss"].detach() < self.config.halt_threshold

    def scores(self, outputs: dict[str, Tensor], data: dict[str, Tensor],
               counted: Tensor) -> dict[str, Tensor]:
        """Sums over the `counted` rows that have observed targets: `count`, `mse`, `mae`.

        If the Q head is kept, also how many rows q_halt is right about. At evaluation, also the sums from which rmse
        and r2 of the whole set are computed.
        """
        targets, mask = data["targets"], data["target_mask"]
        residual, observed = outputs["preds"].detach() - targets, mask.flatten(1).sum(-1)
        counted = counted & (observed > 0)
        squared, absolute = _row_errors(residual, mask, observed)
        sums = {"count": counted.sum(), "mse": (counted * squared).sum(),
                "mae": (counted * absolute).sum()}
        if self.config.keep_act_halting_head:
            trusted = outputs["q_halt_logits"] >= 0
            sums["q_halt_accuracy"] = (counted & (trusted == self.is_right(outputs, data))).sum()
        if not self.training:
            sums |= _sums_over_set(residual, targets,
                                   mask & counted.view(-1, *[1] * (mask.ndim - 1)))
        return sums


def _row_errors(residual: Tensor, mask: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared and mean absolute error (B,) over the observed targets of each row. A row without any has 0."""
    residual = (residual * mask).flatten(1)
    counted = observed.clamp(min=1)
    return residual.square().sum(-1) / counted, residual.abs().sum(-1) / counted


def _sums_over_set(residual: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Sums over the observed targets, (features,) each, from which rmse and r2 of a whole set are computed."""
    wide = widest_float(targets.device)
    features = targets.shape[-1]
    residual, targets, mask = (t.reshape(-1, features).to(wide) for t in (residual, targets, mask))
    return {"observed": mask.sum(0), "squared_error": (mask * residual.square()).sum(0),
            "target_sum": (mask * targets).sum(0),
            "target_square": (mask * targets.square()).sum(0)}
