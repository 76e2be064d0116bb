"""The evaluation loop: a strategy works on every test example, answers go to metrics and evaluators."""
import difflib
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.example_set import ExampleSet
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.protocol import Evaluator, Inspector
from evaluators.rows import Answers, RowStep, row_steps, supervision_steps
from evaluators.solutions import Predictions
from evaluators.strategies import Single, Strategy
from losses.head import LossHead
from utils.distributed import World, any_rank
from utils.metrics import MetricSums, added, mean_names, means

HELD_OUT_METRICS = "val/held_out"  # prefix of the metrics of puzzles held out of training (dataset/held_out.py)


class DepthCurve:
    """Collects metrics after each of N_sup supervision steps, as if it were the last: accuracy against compute."""

    def __init__(self, head: LossHead, world: World):
        self.head = head
        self.sums = [MetricSums(world.device) for _ in range(head.model.config.halt_max_steps)]

    def add(self, step: RowStep) -> None:
        """Add the rows after a supervision step. A row that ends early counts with its answer in all later steps, too.
        """
        for taken in np.unique(step.steps[step.busy]).tolist():
            now = step.busy & (step.steps == taken)
            self._add(step.answers(now), self.sums[taken - 1:taken])
            early = now & step.ended
            if early.any() and taken < len(self.sums):
                self._add(step.answers(early), self.sums[taken:])

    def _add(self, answers: Answers, sums: Sequence[MetricSums]) -> None:
        metrics = self.head.tally(answers.outputs, answers.data, answers.steps)
        del metrics["steps"]
        for of_step in sums:
            of_step.add(metrics)

    def read(self) -> list[dict[str, float]]:
        """A dict for each step: `step` and the means over all examples. Every rank must call it."""
        return [{"step": step, **means(sums.read())} for step, sums in enumerate(self.sums, 1)]


def refuse_unknown_outputs(head: LossHead, evaluators: dict[str, tuple[str, Evaluator]],
                   save_outputs: Sequence[str]) -> None:
    """Raise ValueError if an evaluator or `save_outputs` asks for an output that the head does not have."""
    asked = {name: set(evaluator.required_outputs) for name, (_, evaluator) in evaluators.items()}
    asked["eval_save_outputs"] = set(save_outputs)
    there_are = {*head.BATCH_FIELDS, *head.OUTPUTS}
    for who, keys in asked.items():
        if not keys <= there_are:
            raise ValueError(f"{who} asks for {', '.join(sorted(keys - there_are))}; there are "
                             f"{', '.join(sorted(there_are))}")


def refuse_unknown_metric(monitor: str | None, head: LossHead, dataset: PuzzleDataset,
                          evaluators: dict[str, tuple[str, Evaluator]],
                          held_out: PuzzleDataset | None = None) -> None:
    """Raise ValueError if evaluations of this run do not give the metric that checkpoint.monitor names.

    One supervision step of one example tells the names of the head's metrics. An evaluator without `names` may give any
    metric below its prefix.
    """
    if monitor is None:
        return
    device = next(head.parameters()).device
    batch = {field: value[:1].to(device) for field, value in dataset.first_batch().items()}
    eager = torch.compiler.set_stance("force_eager") if head.is_compiled else nullcontext()  # it imports for a second
    with torch.no_grad(), eager:
        outputs = next(supervision_steps(head.eval(), batch))
        sums = head.tally(outputs, batch, torch.ones(1, dtype=torch.int32, device=device))
    head.train()
    prefixes = _prefixes(dataset.sets) + (_prefixes(held_out.sets, HELD_OUT_METRICS) if held_out else [])
    known = {f"{prefix}/{name}" for prefix in prefixes for name in mean_names(sums)}
    for prefix, (_, evaluator) in evaluators.items():
        if hasattr(evaluator, "names"):
            known |= {f"{prefix}/{name}" for name in evaluator.names()}
        elif monitor.startswith(f"{prefix}/"):
            return
    if monitor not in known:
        nearest, = difflib.get_close_matches(monitor, known, n=1, cutoff=0.0)
        raise ValueError(f"checkpoint.monitor={monitor} is no metric of this run; did you mean "
                         f"{nearest}? There are {', '.join(sorted(known))}")


def evaluate(head: LossHead, dataset: PuzzleDataset, world: World,
             evaluators: dict[str, tuple[str, Evaluator]] | None = None,
             save_outputs: Sequence[str] = (), save_path: Path | None = None,
             before_round: Callable[[], None] = lambda: None, curve: DepthCurve | None = None,
             strategy: Strategy | None = None, prefix: str = "val",
             predictions: Predictions | None = None,
             answered: Callable[[int], None] = lambda count: None) -> dict[str, float]:
    """Metrics of a test split, on rank 0. Every rank must call it.

    Their names are `<prefix>/<name>` over all sets, `<prefix>/<set>/<name>` if there are several sets, and
    `eval/<evaluator>/<name>` from evaluators. Examples without a known answer are predicted, but count in no metric of
    the head. If no answer is known, there are no `<prefix>/…`.

    `save_outputs`: names of batch fields and outputs to save in `save_path`, one file for each rank.
    `before_round`: called each time that rows take new examples; may end the evaluation by an exception.
    `curve`: gets the rows after each supervision step.
    `strategy`: decides how puzzles are attempted; None: once, and the answer is that after the last step.
    `predictions`: gets the answers.
    `answered`: called with the number of examples that a supervision step has answered, on each rank for its own.
    """
    evaluators, strategy = evaluators or {}, strategy if strategy is not None else Single()
    refuse_unknown_outputs(head, evaluators, save_outputs)
    if hasattr(strategy, "prepare"):
        strategy.prepare(head, dataset)
    sums = {name: MetricSums(world.device) for name in dataset.sets}
    saved = SavedOutputs(save_outputs)
    for _, evaluator in evaluators.values():
        evaluator.begin_eval()
    head.eval()
    with torch.no_grad():
        for set_name, example_set in dataset.sets.items():
            strategy.begin(example_set, dataset.own_examples(example_set),
                           dataset.config.global_batch_size)
            for step in row_steps(head, dataset, example_set, strategy, world, before_round):
                taken = strategy.take(step)
                if curve is not None:
                    curve.add(step)  # after the strategy, which may end rows
                for answers in taken:
                    sums[set_name].add(head.tally(answers.outputs, answers.data, answers.steps))
                    _feed(evaluators, example_set, answers)
                    saved.add(answers)
                    if predictions is not None:
                        predictions.add(set_name, answers)
                answered(sum(len(answers.steps) for answers in taken))
            saved.close_set()
        saved.write(save_path, world.rank)
        metrics = _validation_metrics(sums, prefix) | _evaluator_metrics(evaluators, head, dataset,
                                                                 world, save_path)
    head.train()
    return _with_strategy(metrics, strategy, save_path if world.is_main else None)


class SavedOutputs:
    """Collects batch fields and outputs of all examples on the host, in the order of the examples."""

    def __init__(self, keys: Sequence[str]):
        self.keys = keys
        self.sets: list[dict[str, Tensor]] = []
        self.parts: list[tuple[np.ndarray, dict[str, Tensor]]] = []

    def add(self, answers: Answers) -> None:
        there_are = answers.data | answers.outputs
        if self.keys:
            self.parts.append((answers.numbers, {key: there_are[key].cpu() for key in self.keys}))

    def close_set(self) -> None:
        if self.parts:
            order = torch.from_numpy(np.argsort(np.concatenate([numbers for numbers, _ in self.parts])))
            self.sets.append({key: torch.cat([part[key] for _, part in self.parts])[order]
                              for key in self.keys})
            self.parts = []

    def write(self, folder: Path | None, rank: int) -> None:
        if self.keys:
            folder.mkdir(parents=True, exist_ok=True)
            outputs = {key: torch.cat([part[key] for part in self.sets])
                       for key in self.keys if self.sets}
            torch.save(outputs, folder / f"outputs.rank{rank}.pt")


def _feed(evaluators: dict[str, tuple[str, Evaluator]], example_set: ExampleSet,
          answers: Answers) -> None:
    """Hand answers to the evaluators of their data set, with identifiers as that data set numbers them."""
    own = [evaluator for path, evaluator in evaluators.values() if path == example_set.path]
    if not own:
        return
    rows = answers.data["puzzle_identifiers"]
    own_identifiers = example_set.numbering.to_identifiers(rows.cpu().numpy())
    identifiers = torch.from_numpy(own_identifiers).to(rows.device)
    for evaluator in own:
        evaluator.update_batch(answers.data | {"puzzle_identifiers": identifiers}, answers.outputs)


def _with_strategy(metrics: dict[str, float], strategy: Strategy, folder: Path | None) -> dict[str, float]:
    """The metrics with those of the strategy, which writes its files to `folder`. Scores of answers that were chosen by
    their labels are named so."""
    if getattr(strategy, "upper_bound", False):
        metrics = {f"upper_bound/{name}": value for name, value in metrics.items()}
    metrics |= strategy.metrics() if hasattr(strategy, "metrics") else {}
    if folder is not None and hasattr(strategy, "write"):
        strategy.write(folder)
    return metrics


def _validation_metrics(sums: dict[str, MetricSums], prefix: str) -> dict[str, float]:
    by_set = [s.read() for s in sums.values()]
    return {f"{of_set}/{name}": value
            for of_set, one in zip(_prefixes(sums, prefix), [added(by_set), *by_set])
            for name, value in means(one).items()}


def _prefixes(sets: Collection[str], prefix: str = "val") -> list[str]:
    """The prefix of metrics over all sets and, if there are several sets, the prefix for each."""
    return [prefix, *(f"{prefix}/{name}" for name in sets if len(sets) > 1)]


def _evaluator_metrics(evaluators: dict[str, tuple[str, Evaluator]], head: LossHead,
                       dataset: PuzzleDataset,
                       world: World, save_path: Path | None) -> dict[str, float]:
    """The metrics of evaluators: from the answers that they were given, and from running the model themselves."""
    found, folders = {}, []
    for prefix, (path, evaluator) in evaluators.items():
        folder = save_path and _folder(prefix, evaluators, save_path)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # as published evaluators expect
            folders.append(folder)
        metrics = evaluator.result(folder, world.rank, world.size, None) or {}
        if hasattr(evaluator, "inspect"):
            metrics |= evaluator.inspect(head, dataset.part(path), world, folder) or {}
        found |= {f"{prefix}/{name}": value for name, value in metrics.items()}
    any_rank(False)  # wait until all ranks have written
    for folder in folders if world.is_main else []:
        _remove_if_empty(folder, save_path)
    return found


def _folder(prefix: str, evaluators: dict[str, tuple[str, Evaluator]], save_path: Path) -> Path:
    """The folder for an evaluator's files.

    One evaluator writes to `save_path` itself. If there are several, each has a folder named like its metrics, except
    that an `Inspector` always writes to `save_path` or, with several data sets, to the folder of its data set.
    """
    if isinstance(evaluators[prefix][1], Inspector):
        return save_path.joinpath(*prefix.split("/")[2:])
    several = sum(not isinstance(evaluator, Inspector) for _, evaluator in evaluators.values()) > 1
    return save_path / prefix.removeprefix("eval/") if several else save_path


def _remove_if_empty(folder: Path, top: Path) -> None:
    """Remove a folder if it is empty, and then each empty folder above it, up to `top`."""
    while folder.is_relative_to(top) and folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
