"""Baseline for regression data: ridge regression from all inputs to each target, `evaluators="[{name: ridge@Ridge}]"`.

It is fitted on the training split of the tested data set, for each target on the examples in which that is observed.
All targets share one penalty: the best of `STRENGTHS` on the last tenth of the training examples. `ridge.png` shows the
errors of the baseline and of the model by position.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.common import EpisodeMetadata, RegressionMetadata
from dataset.example_set import evenly
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig, load_metadata
from utils.distributed import all_reduce_sum_
from utils.plots import plot_errors

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
EXAMPLES = 20_000  # training examples to fit on, evenly spaced
MOST_INPUTS = 2048  # fitting on more would take a minute


class Ridge:
    """Metrics `ridge_rmse` and `model_rmse`, over the same targets."""

    required_outputs = {"preds"}

    def __init__(self, data_path: str, eval_metadata: RegressionMetadata):
        if eval_metadata.task_type != "regression":
            raise ValueError(f"ridge@Ridge is a baseline of regression data, and {data_path} holds "
                             f"{eval_metadata.KIND}; use evaluators=[]")
        if isinstance(eval_metadata, EpisodeMetadata):
            raise ValueError(f"ridge@Ridge does not take the latent episodes of {data_path}, whose "
                             "baselines stand in the table of evaluate.py; use evaluators=[]")
        width = eval_metadata.seq_len * eval_metadata.input_dim
        if width > MOST_INPUTS:
            raise ValueError(f"ridge@Ridge takes at most {MOST_INPUTS} inputs, and an example of "
                             f"{data_path} has {width}; use evaluators=[]")
        load_metadata(data_path, "train")  # raises now, not at the first evaluation, if there is no data to fit on
        self.data_path, self.metadata, self.weights = data_path, eval_metadata, None
        self.begin_eval()

    def names(self) -> tuple[str, str]:
        return "ridge_rmse", "model_rmse"

    def begin_eval(self) -> None:
        # observed targets, squared errors of the ridge and of the model, by position
        self.sums = torch.zeros(3, self.metadata.seq_len, dtype=torch.float64)

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        if self.weights is None:
            self.weights = self._fitted()
        targets, mask, preds = map(_rows, (batch["targets"], batch["target_mask"],
                                           outputs["preds"]))
        ridge = _with_one(_rows(batch["inputs"])) @ self.weights
        terms = np.stack([mask, *(mask * (p - targets) ** 2 for p in (ridge, preds))])
        self.sums += torch.from_numpy(terms.reshape(3, len(mask), self.metadata.seq_len, -1).sum((1, 3)))

    def result(self, save_path: str | Path | None, rank: int, world_size: int,
               group) -> dict[str, float] | None:
        sums = self.sums.clone()
        all_reduce_sum_([sums])
        if rank != 0:
            return None
        observed, *squared = sums.numpy()
        if save_path is not None:
            by_position = (np.sqrt(s / np.where(observed, observed, np.nan)) for s in squared)
            plot_errors(dict(zip(("ridge", "model"), by_position)), "position",
                        Path(save_path) / "ridge.png")
        ridge, model = (float(s.sum() / max(observed.sum(), 1)) ** 0.5 for s in squared)
        return dict(zip(self.names(), (ridge, model)))

    def _fitted(self) -> np.ndarray:
        data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[self.data_path], global_batch_size=1,
                                                 test_set_mode=True), "train")
        batch = data.examples(evenly(data.num_examples, EXAMPLES))
        inputs = _with_one(_rows(batch["inputs"]))
        targets, mask = _rows(batch["targets"]), _rows(batch["target_mask"])
        fitted = slice(0, max(1, round(0.9 * len(inputs))))
        held_out = slice(fitted.stop, None)
        candidates = ridge_weights(inputs[fitted], targets[fitted], mask[fitted], STRENGTHS)
        errors = [(mask[held_out] * (inputs[held_out] @ weights - targets[held_out]) ** 2).sum()
                  for weights in candidates]
        best = STRENGTHS[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]
        return ridge_weights(inputs, targets, mask, [best])[0]


def ridge_weights(inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray,
                  strengths: Sequence[float]) -> np.ndarray:
    """Least-squares weights (strengths, inputs, targets) with the penalty strength · examples · |weights|².

    The last input is the constant 1, and its weight has no penalty. Each target is fitted on the examples in which it
    is observed (`mask`).
    """
    penalty = np.diag(np.append(np.ones(inputs.shape[1] - 1), 1e-12))
    weights = np.zeros((len(strengths), inputs.shape[1], targets.shape[1]))
    for target in range(targets.shape[1]):
        seen = mask[:, target].astype(bool)
        x = inputs[seen]
        gram, moment = x.T @ x, x.T @ targets[seen, target]
        for row, strength in zip(weights, strengths):
            row[:, target] = np.linalg.solve(gram + strength * max(len(x), 1) * penalty, moment)
    return weights


def _rows(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().reshape(len(values), -1).astype(np.float64)


def _with_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
