"""Rolls out latent episodes: the model predicts the next latent from W latents, then goes on from its own predictions.

    evaluators="[{name: rollout@Rollouts}]"      # evaluate.py always adds it for latent episodes

There are two baselines. One repeats the last latent. The other is a linear autoregression on (W + 1) // 2 latents, at
most 16, fitted on the training episodes by least squares.

Errors are root mean squares over features, in the units of the data. The error of *one step* covers the test latents
that have enough true latents before them. The error of an *open-loop* rollout is measured at a horizon, after that many
predictions.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset.common import EpisodeMetadata, SplitMetadata
from dataset.example_set import evenly, evenly_over
from dataset.latent_episodes import EpisodeSet
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.protocol import Inspector
from evaluators.rows import supervision_steps
from losses.head import LossHead
from utils.distributed import World, all_reduce_sum_
from utils.metrics import widest_float
from utils.plots import plot_rollouts

HORIZONS = (1, 5, 10, 25)
STEPS = max(HORIZONS)
STARTS = 1024  # most rollouts, evenly spaced among those that do not overlap
ONE_STEP_EXAMPLES = 20_000  # most examples for the error of one step, evenly spaced
FITTED_EXAMPLES = 50_000  # most examples that the linear baseline is fitted on


class Rollouts(Inspector):
    """Metrics, a printed table and `rollouts.png` with the errors by horizon and one rollout.

    `example`: number of the rollout to draw. The linear baseline is fitted on the training episodes of the run or, if
    they are not known, of the tested data set. Without training episodes there is no linear baseline.
    """

    def __init__(self, data_path: str, eval_metadata: SplitMetadata, example: int = 0):
        if not isinstance(eval_metadata, EpisodeMetadata):
            raise ValueError(f"rollout@Rollouts is for latent episodes, and {data_path} holds "
                             f"{eval_metadata.KIND}; use other evaluators")
        self.example = example
        self.begin_eval()

    def check(self, data: PuzzleDataset) -> None:
        rollouts = sum(len(rollout_starts(episodes)) for episodes in episode_sets(data))
        if not 0 <= self.example < max(rollouts, 1):
            raise ValueError(f"picture={self.example}: the test episodes of {data.config.folders} "
                             f"give {rollouts} rollouts, numbered from 0")

    def inspect(self, head: LossHead, data: PuzzleDataset, world: World,
                save_path: Path | None) -> dict[str, float]:
        paths = data.config.trained_on or data.config.dataset_paths
        there = [path for path in paths if (Path(path) / "train").is_dir()]
        if not there and world.is_main:
            print(f"notice: no linear baseline, since {paths} have no training "
                  "episodes here to fit it on")
        train = episode_sets(PuzzleDataset(data.config.model_copy(update={"dataset_paths": there}), "train")) \
            if there else []
        errors = roll_out(head, episode_sets(data), train, data.local_batch_size,
                          world, self.example)
        self.told.append(errors.table())
        if save_path is not None and world.is_main and len(errors.truth):
            plot_rollouts({who: of_one.rmse for who, of_one in errors.by_horizon.items()}, errors.truth, errors.shown,
                          save_path / "rollouts.png")
            self.told.append(f"picture: {save_path / 'rollouts.png'}")
        return errors.metrics()


def episode_sets(data: PuzzleDataset) -> list[EpisodeSet]:
    return [example_set for example_set in data.sets.values() if isinstance(example_set, EpisodeSet)]


Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]  # latents (B, W, D), identifiers (B,) -> next latents (B, D)


@dataclass
class LinearAutoregression:
    """x[t+1] ≈ weights of (x[t], x[t−1], …, 1)."""

    weights: np.ndarray  # (order · D + 1, D)
    order: int

    @classmethod
    def fit(cls, sets: Sequence[EpisodeSet]) -> "LinearAutoregression":
        order = linear_order(sets[0].window)
        designs, targets = [], []
        for episodes, rows in evenly_over(sets, FITTED_EXAMPLES):
            inputs, following, known = one_step_cases(episodes, episodes.fields(rows))
            designs.append(cls._design(inputs[known]))
            targets.append(following[known])
        weights, *_ = np.linalg.lstsq(np.concatenate(designs), np.concatenate(targets), rcond=None)
        return cls(weights, order)

    @staticmethod
    def _design(latents: np.ndarray) -> np.ndarray:
        """Rows (B, order · D + 1) of latents (B, order, D)."""
        return np.concatenate([latents.reshape(len(latents), -1), np.ones((len(latents), 1))], axis=1)

    def __call__(self, latents: np.ndarray, _identifiers: np.ndarray) -> np.ndarray:
        return self._design(latents[:, -self.order:]) @ self.weights


def linear_order(window: int) -> int:
    return min((window + 1) // 2, 16)


def repeat_last(latents: np.ndarray, _identifiers: np.ndarray) -> np.ndarray:
    return latents[:, -1]


@dataclass
class ModelPredictor:
    head: LossHead
    window: int
    batch_size: int
    device: torch.device

    def __call__(self, latents: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
        return self.every_position(latents[:, -self.window:], identifiers)[:, -1]

    @torch.no_grad()
    def every_position(self, latents: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
        """Predictions (B, W, D) of the latent that follows each of the latents (B, W, D)."""
        parts = [self._batch(latents[i:i + self.batch_size], identifiers[i:i + self.batch_size])
                 for i in range(0, len(latents), self.batch_size)]
        return np.concatenate(parts)

    def _batch(self, latents: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(latents.astype(np.float32)).to(self.device)
        inputs = inputs[:, 0] if self.window == 1 else inputs
        batch = {"inputs": inputs, "targets": torch.zeros_like(inputs),
                 "target_mask": torch.zeros_like(inputs, dtype=torch.bool),
                 "puzzle_identifiers": torch.from_numpy(identifiers).to(self.device)}
        *_, outputs = supervision_steps(self.head, batch)
        return outputs["preds"].cpu().numpy().reshape(latents.shape)


@dataclass
class Errors:
    """Errors of one predictor by step; each array is (steps,)."""

    rmse: np.ndarray  # infinite where a prediction diverged, NaN where no true latent is known
    diverged: np.ndarray  # number of predictions whose squared error is no finite number
    count: np.ndarray  # number of predictions

    def metrics(self, step: int, prefix: str, suffix: str = "") -> dict[str, float]:
        found = {f"{prefix}rmse{suffix}": float(self.rmse[step])} if self.count[step] else {}
        return found | ({f"{prefix}diverged{suffix}": int(self.diverged[step])} if self.diverged[step] else {})

    def cell(self, step: int) -> str:
        if self.diverged[step]:
            return f"{self.diverged[step]}/{self.count[step]} diverged"
        return f"{self.rmse[step]:.5g}" if self.count[step] else "too short"


@dataclass
class RolloutErrors:
    """Errors by predictor, and one rollout to draw."""

    one_step: dict[str, Errors]  # each of one step
    by_horizon: dict[str, Errors]  # each of STEPS steps
    truth: np.ndarray  # (STEPS, D) true latents of the rollout to draw, NaN after the end of the episode
    shown: dict[str, np.ndarray]  # (STEPS, D) predictions of each predictor for it

    def metrics(self) -> dict[str, float]:
        """Errors by name, and the number of diverged predictions where there are any. Their error is infinite."""
        found = {}
        for who, one_step in self.one_step.items():
            found |= one_step.metrics(0, f"{who}/one_step_")
            for h in HORIZONS:
                found |= self.by_horizon[who].metrics(h - 1, f"{who}/", f"@{h}")
        return found

    def table(self) -> str:
        """A table with one line for each predictor. A cell is the error, or how many predictions diverged, or "too
        short" if no episode is long enough."""
        rows = [["rmse", "one step", *(f"open loop @{h}" for h in HORIZONS)]]
        rows += [[who.replace("_", " "), one_step.cell(0),
                  *(self.by_horizon[who].cell(h - 1) for h in HORIZONS)]
                 for who, one_step in self.one_step.items()]
        width = 2 + max(len(cell) for row in rows for cell in row[1:])
        return "\n".join(f"  {who:14}" + "".join(f"{cell:>{width}}" for cell in cells)
                         for who, *cells in rows)


def roll_out(head: LossHead, test_sets: Sequence[EpisodeSet], train_sets: Sequence[EpisodeSet],
             batch_size: int,
             world: World, number: int = 0) -> RolloutErrors:
    """Compute the errors of the model and of the baselines. Every rank must call it; all get the same errors.

    Without training sets there is no linear baseline. `number`: number of the rollout to draw.
    """
    model = ModelPredictor(head.eval(), test_sets[0].window, batch_size, world.device)
    predictors: dict[str, Predictor] = {"model": model, "repeat_last": repeat_last}
    if train_sets:
        predictors["linear"] = LinearAutoregression.fit(train_sets)
    contexts, futures, identifiers = (np.concatenate(parts)
                                      for parts in zip(*map(rollout_cases, test_sets)))
    mine, one = slice(world.rank, None, world.size), slice(number, number + 1)
    rolled, shown = ({who: open_loop(predict, contexts[rows], identifiers[rows])
                      for who, predict in predictors.items()} for rows in (mine, one))
    return RolloutErrors(_one_step_errors(model, predictors, test_sets, world),
                    {who: _errors(rows, futures[mine], world) for who, rows in rolled.items()},
                    next(iter(futures[one]), np.empty((0, contexts.shape[2]))),
                    {who: rows[0] for who, rows in shown.items() if len(rows)})


def open_loop(predict: Predictor, contexts: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
    """Predictions (B, STEPS, D) from latents (B, W, D). Each step takes the earlier predictions as its inputs."""
    W, rolled = contexts.shape[1], contexts.astype(np.float64)
    if not len(contexts):
        return np.empty((0, STEPS, contexts.shape[2]))
    with np.errstate(over="ignore", invalid="ignore"):  # predictions that diverge are counted later
        for _ in range(STEPS):
            following = predict(rolled[:, -W:], identifiers)
            rolled = np.concatenate([rolled, following[:, None]], axis=1)
    return rolled[:, W:]


def rollout_starts(episodes: EpisodeSet) -> list[tuple[int, int]]:
    """The episode and the first latent of each rollout, by number."""
    starts = [(episode, first) for episode, length in enumerate(episodes.files.lengths)
              for first in range(0, length - episodes.window, STEPS)]
    return [starts[i] for i in evenly(len(starts), STARTS)] if starts else []


def rollout_cases(episodes: EpisodeSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each rollout the W latents to start from (B, W, D), the true latents that follow (B, STEPS, D), and the row
    of the puzzle table (B,). True latents are NaN after the end of an episode."""
    W, lengths, starts = episodes.window, episodes.files.lengths, rollout_starts(episodes)
    frames = np.full((len(starts), W + STEPS, episodes.metadata.input_dim), np.nan, np.float32)
    for row, (episode, first) in enumerate(starts):
        episodes.files.read(episode, first, frames[row, :lengths[episode] - first])
    owners = np.array([episode for episode, _ in starts], int)
    return frames[:, :W], frames[:, W:], episodes.shared_identifiers(owners)


def one_step_cases(episodes: EpisodeSet, fields: dict[str, np.ndarray]
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cases in which the linear autoregression can predict one step, from the fields of B examples.

    A place is a position with `order` latents up to it. Returns these latents (B, places, order, D), the latent that
    follows (B, places, D), and whether it is real, not padding (B, places).
    """
    inputs, targets, mask = (fields[name].reshape(len(fields[name]), episodes.window, -1)
                             for name in ("inputs", "targets", "target_mask"))
    order = linear_order(episodes.window)
    latents = np.lib.stride_tricks.sliding_window_view(inputs, order, axis=1).transpose(0, 1, 3, 2)
    return latents, targets[:, order - 1:], mask[:, order - 1:, 0]


def _one_step_errors(model: ModelPredictor, predictors: dict[str, Predictor],
                     test_sets: Sequence[EpisodeSet],
                     world: World) -> dict[str, Errors]:
    order = linear_order(model.window)
    width = test_sets[0].metadata.input_dim
    found: dict[str, list] = {who: [np.empty((0, width))] for who in (*predictors, "truth")}
    for episodes in test_sets:
        rows = evenly(len(episodes), ONE_STEP_EXAMPLES)[world.rank::world.size]
        if not len(rows):
            continue
        fields = episodes.fetch(rows)
        latents, following, real = one_step_cases(episodes, fields)
        inputs = fields["inputs"].reshape(len(rows), model.window, -1)
        identifiers = fields["puzzle_identifiers"]
        found["truth"].append(following[real])
        found["model"].append(model.every_position(inputs, identifiers)[:, order - 1:][real])
        for who in predictors.keys() - {"model"}:
            found[who].append(predictors[who](latents[real], identifiers))
    rows = {who: np.concatenate(parts)[:, None] for who, parts in found.items()}
    return {who: _errors(rows[who], rows["truth"], world) for who in predictors}


def _errors(predicted: np.ndarray, truth: np.ndarray, world: World) -> Errors:
    """Root mean squares by step, over the rows (B, steps, D) of all ranks and over features."""
    real = np.isfinite(truth)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = (np.where(real, predicted - truth, 0) ** 2).sum(2)  # (B, steps)
    far_off = ~np.isfinite(squares)
    sums = torch.from_numpy(np.stack([np.where(far_off, 0, squares).sum(0), real.sum((0, 2)), far_off.sum(0),
                                      real.any(2).sum(0)]))
    on_device = sums.to(widest_float(world.device)).to(world.device)
    all_reduce_sum_([on_device])
    total, numbers, diverged, count = on_device.cpu().numpy()
    rmse = np.sqrt(np.where(numbers > 0, total / np.maximum(numbers, 1), np.nan))
    return Errors(np.where(diverged > 0, np.inf, rmse), diverged.astype(int), count.astype(int))
