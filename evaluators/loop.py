"""The one evaluation loop: every test example through N_sup supervision steps, metrics by set, evaluators fed."""
import difflib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.puzzle_dataset import Batch, PuzzleDataset
from evaluators.protocol import Evaluator
from utils.distributed import World, any_rank
from utils.metrics import MetricSums, added, mean_names, means


def supervision_steps(head: nn.Module, batch: Batch, keys: Sequence[str], first_row: int = 0
                      ) -> Iterator[tuple[dict, dict[str, Tensor]]]:
    """Metrics (sums) and the outputs named by `keys`, after each supervision step of a batch, until all rows halt.

    `first_row`: number of the batch's first row in the global batch, on which a model's random numbers depend.
    """
    carry, finished = head.initial_carry(batch, first_row=first_row), False
    while not finished:
        carry, _, metrics, outputs, finished = head(carry=carry, batch=batch, return_keys=keys)
        yield metrics, outputs


def trace(head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Predictions (steps, B, L) and halting logits (steps, B) after each supervision step."""
    with torch.no_grad():
        steps = [outputs for _, outputs in supervision_steps(head.eval(), batch, ("preds", "q_halt_logits"))]
    return torch.stack([s["preds"] for s in steps]), torch.stack([s["q_halt_logits"] for s in steps])


class DepthCurve:
    """Metrics after each of N_sup = `depth` supervision steps, as if it were the last: accuracy against compute."""

    OUTPUTS = ("preds", "q_halt_logits")

    def __init__(self, head: nn.Module, depth: int, world: World):
        if not hasattr(head, "scores"):
            raise ValueError(f"per_step needs scores(outputs, batch, counted), as in losses/regression.py, of "
                             f"{type(head).__name__}; write it, or use per_step=false")
        self.scores = head.scores
        self.sums = [MetricSums(world.device) for _ in range(depth)]

    def add(self, steps: Sequence[tuple[dict, dict[str, Tensor]]], batch: Batch) -> None:
        """A batch's metrics and outputs by step. Rows that have all halted early keep their last ones."""
        everyone = torch.ones_like(batch["puzzle_identifiers"], dtype=torch.bool)
        found = [{name: metrics[name] for name in metrics if name == "rows" or name.endswith("loss")}
                 | self.scores(outputs, batch, everyone) for metrics, outputs in steps]
        for i, sums in enumerate(self.sums):
            sums.add(found[min(i, len(found) - 1)])

    def read(self) -> list[dict[str, float]]:
        """`step` and the means over all examples, by step. Every rank must call it."""
        return [{"step": step, **means(sums.read())} for step, sums in enumerate(self.sums, 1)]


def needed_outputs(head: nn.Module, evaluators: dict[str, tuple[str, Evaluator]],
                   save_outputs: Sequence[str]) -> set[str]:
    """Outputs of the head that will be asked for. Raises ValueError for one that it does not have."""
    asked = {name: set(evaluator.required_outputs) for name, (_, evaluator) in evaluators.items()}
    asked["eval_save_outputs"] = set(save_outputs)
    there_are = {*head.BATCH_FIELDS, *head.OUTPUTS}
    for who, keys in asked.items():
        if not keys <= there_are:
            raise ValueError(f"{who} asks for {', '.join(sorted(keys - there_are))}; there are "
                             f"{', '.join(sorted(there_are))}")
    return set().union(*asked.values()) - set(head.BATCH_FIELDS)


def refuse_unknown_metric(monitor: str | None, head: nn.Module, dataset: PuzzleDataset,
                          evaluators: dict[str, tuple[str, Evaluator]]) -> None:
    """Raise ValueError where no evaluation makes the metric that checkpoint.monitor names: a supervision step of one
    example tells the head's. An evaluator without `names` may make any below its prefix."""
    if monitor is None:
        return
    device = next(head.parameters()).device
    batch = {field: value[:1].to(device) for field, value in dataset.first_batch().items()}
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        sums, _ = next(supervision_steps(head.eval(), batch, ()))
    head.train()
    known = {f"{prefix}/{name}" for prefix in _prefixes(dataset.sets) for name in mean_names(sums)}
    for prefix, (_, evaluator) in evaluators.items():
        if hasattr(evaluator, "names"):
            known |= {f"{prefix}/{name}" for name in evaluator.names()}
        elif monitor.startswith(f"{prefix}/"):
            return
    if monitor not in known:
        nearest, = difflib.get_close_matches(monitor, known, n=1, cutoff=0.0)
        raise ValueError(f"checkpoint.monitor={monitor} is no metric of this run; did you mean {nearest}? There are "
                         f"{', '.join(sorted(known))}")


def evaluate(head: nn.Module, dataset: PuzzleDataset, world: World,
             evaluators: dict[str, tuple[str, Evaluator]] | None = None,
             save_outputs: Sequence[str] = (), save_path: Path | None = None,
             before_batch: Callable[[], None] = lambda: None, curve: DepthCurve | None = None) -> dict[str, float]:
    """Metrics by flat name: `val/<name>` over all sets, `val/<set>/<name>`, and what evaluators find, on rank 0.

    Examples without an answer are predicted and in no metric: where there are no others, there is no `val/<name>`.
    Every rank must call it. `save_outputs` names batch fields and outputs to write to `save_path`, a file a rank.
    `before_batch` may end the evaluation by an exception. `curve` takes the metrics of the steps before the last, too.
    """
    evaluators = evaluators or {}
    keys = needed_outputs(head, evaluators, save_outputs) | set(curve.OUTPUTS if curve else ())
    sums = {name: MetricSums(world.device) for name in dataset.sets}
    saved: dict[str, list[Tensor]] = {key: [] for key in save_outputs}
    for _, evaluator in evaluators.values():
        evaluator.begin_eval()

    head.eval().scores_answered = True
    with torch.no_grad():
        for set_name, padded, examples in dataset:
            before_batch()
            real = _real_rows(examples, world, dataset)
            if not real:
                continue
            batch = {name: value[:real].to(world.device) for name, value in padded.items()}
            steps = _steps(head, batch, keys, first_row=world.rank * dataset.local_batch_size,
                           whole=real == dataset.local_batch_size, keep_all=curve is not None)
            if curve is not None:
                curve.add(steps, batch)
            metrics, outputs = steps[-1]
            sums[set_name].add(metrics)
            _feed(evaluators, dataset.sets[set_name], batch, outputs)
            for key in saved:
                saved[key].append({**batch, **outputs}[key].cpu())
    head.train().scores_answered = False

    if save_outputs:
        save_path.mkdir(parents=True, exist_ok=True)
        outputs = {key: torch.cat(parts) for key, parts in saved.items() if parts}
        torch.save(outputs, save_path / f"outputs.rank{world.rank}.pt")
    return _validation_metrics(sums) | _evaluator_metrics(evaluators, world, save_path)


def _real_rows(examples: int, world: World, dataset: PuzzleDataset) -> int:
    """How many of this rank's rows are examples, where the global batch has `examples`; the rest is padding, which is
    not evaluated since the halting loss would score it."""
    return min(max(examples - world.rank * dataset.local_batch_size, 0), dataset.local_batch_size)


def _steps(head: nn.Module, batch: Batch, keys: Sequence[str], first_row: int, whole: bool, keep_all: bool) -> list:
    """Metrics and outputs after the last supervision step, or after each."""
    # A short last batch is no reason to compile for a new shape.
    with nullcontext() if whole else torch.compiler.set_stance("force_eager"):
        return list(deque(supervision_steps(head, batch, keys, first_row), maxlen=None if keep_all else 1))


def _feed(evaluators, puzzle_set, batch: Batch, outputs: dict[str, Tensor]) -> None:
    """Hand a batch to its data set's evaluators, identifiers as that data set numbers them."""
    own = [evaluator for path, evaluator in evaluators.values() if path == puzzle_set.path]
    if not own:
        return
    rows = batch["puzzle_identifiers"]
    identifiers = torch.from_numpy(puzzle_set.numbering.to_identifiers(rows.cpu().numpy())).to(rows.device)
    for evaluator in own:
        evaluator.update_batch(batch | {"puzzle_identifiers": identifiers}, outputs)


def _validation_metrics(sums: dict[str, MetricSums]) -> dict[str, float]:
    by_set = [s.read() for s in sums.values()]
    return {f"{prefix}/{name}": value for prefix, one in zip(_prefixes(sums), [added(by_set), *by_set])
            for name, value in means(one).items()}


def _prefixes(sets: Collection[str]) -> list[str]:
    """What stands before the metrics of all sets together and, where there are several, before those of each."""
    return ["val", *(f"val/{name}" for name in sets if len(sets) > 1)]


def _evaluator_metrics(evaluators, world: World, save_path: Path | None) -> dict[str, float]:
    """Each evaluator writes to `save_path` or, where there are several, to a folder in it named like its metrics."""
    found, folders = {}, []
    for prefix, (_, evaluator) in evaluators.items():
        folder = save_path if save_path is None or len(evaluators) == 1 else save_path / prefix.removeprefix("eval/")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # as published evaluators expect
            folders.append(folder)
        result = evaluator.result(folder, world.rank, world.size, None)
        found |= {f"{prefix}/{name}": value for name, value in (result or {}).items()}
    any_rank(False)  # all have written
    for folder in folders if world.is_main else []:
        _remove_if_empty(folder, save_path)
    return found


def _remove_if_empty(folder: Path, top: Path) -> None:
    """A folder that nothing was written to, and those above it up to `top`."""
    while folder.is_relative_to(top) and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
