"""What an evaluator is, so that users' own plug in: `evaluators="[{name: module@Class, option: value}]"`.

An evaluator sees every test example with the model's final outputs, and returns metrics. It may also run the model
itself: pictures, rollouts and searches are evaluators. An example is in docs/your-own-evaluator.md.
"""
import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from dataset.common import PuzzleDatasetMetadata
from dataset.example_set import ExampleSet, say_once
from dataset.kinds.kind import kind_of
from utils.resolve import built, load_class

EVALUATOR_PARTS = ("begin_eval",)  # by which a class is known as one


class Evaluator(Protocol):
    """`Class(data_path, eval_metadata, **config)`, one for each test data set."""

    # outputs of the loss head that `update_batch` needs, such as "preds" (B, L)
    required_outputs: set[str]
    # what there is to say of its data at the start; an evaluator need not have it
    notices: list[str]

    def begin_eval(self) -> None:
        """Forget what earlier evaluations saw."""

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Take real examples (no padding): the batch as loaded, identifiers of the evaluator's own data set."""

    def result(self, save_path: Path | None, rank: int, world_size: int,
               group) -> dict[str, float] | None:
        """Metrics on rank 0, by a name without the prefix `eval/<name>/`. Called on every rank. `save_path` is a folder
        for its files, which is there and its own.

        """

    # What follows, an evaluator need not have.

    def names(self) -> Sequence[str]:
        """Names of all metrics that can come from `result`, so that a `checkpoint.monitor` is checked at the start."""

    def check(self, data) -> None:
        """Look at its data before anything is scored. Raises ValueError for what they cannot give."""

    def inspect(self, head, data, world, save_path: Path | None) -> dict[str, float] | None:
        """Run the model itself, once everything is scored: metrics on rank 0, named as those of `result`.

        `head` is the loss head in evaluation mode, `data` the evaluator's own test data (`PuzzleDataset`), `save_path`
        a folder for files. Called on every rank, without gradient.
        """

    # what there is to tell people after `result` and `inspect`, line by line
    told: list[str]


class Inspector:
    """Base of evaluators that do nothing but `inspect`. Their files lie in the folder of the evaluation itself."""

    required_outputs: set[str] = set()

    def begin_eval(self) -> None:
        self.told: list[str] = []

    def update_batch(self, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """It makes nothing of the answers."""

    def result(self, save_path: Path | None, rank: int, world_size: int, group) -> None:
        """It has no metrics of the answers."""


def build_evaluators(configs: Sequence[dict] | None, dataset, trust_code: bool = False,
                     others: Sequence[dict] = ()
                     ) -> dict[str, tuple[str, Evaluator]]:
    """For each config and each test data set, the prefix of its metrics, the path of the data, and the evaluator.

    `configs`: `{"name": "module@Class", option: value}` each; None: for each data set the evaluator of its kind of
    puzzle, if there is one. `others`: configs of more, beside them. `trust_code`: a data set may name a kind outside
    this project (`kind_of`); an evaluator whose class takes `trust_code` is told, too. Raises ValueError where an
    evaluator is not for such data.

    The prefix is `eval/<module>` or, with several data sets, `eval/<module>/<folder>`. A prefix that would come again
    gets a number, such as `eval/arc2`, and a notice says so. Evaluators' own notices are printed, too.
    """
    sets = {test_set.path: test_set for test_set in dataset.sets.values()}
    wanted = _by_kind(sets, trust_code) if configs is None else [(config, list(sets))
                                                                 for config in configs]
    wanted += [(config, list(sets)) for config in others]
    modules = [config["name"].partition("@")[0] for config, _ in wanted]
    folders = [Path(path).name for path in sets]
    evaluators: dict[str, tuple[str, Evaluator]] = {}
    notices = []
    for (config, paths), module, numbered in zip(wanted, modules, distinct(modules)):
        options = {key: value for key, value in config.items() if key != "name"}
        evaluator_class = load_class(config["name"], "evaluators", EVALUATOR_PARTS, anywhere=True)  # a typed config's
        if "trust_code" in options:  # a config may be a stranger's
            raise ValueError(f"evaluators: {config['name']} cannot be told trust_code; add "
                             "trust_code=true to the command line")
        takes_trust = "trust_code" in inspect.signature(evaluator_class).parameters
        for (path, test_set), folder, own_folder in zip(sets.items(), folders, distinct(folders)):
            if path not in paths:
                continue
            prefix = f"eval/{numbered}" + (f"/{own_folder}" if len(sets) > 1 else "")
            if (module, folder) != (numbered, own_folder):
                notices.append(f"{prefix} is {config} on {path}")
            evaluator = built(evaluator_class, f"evaluators: {config['name']}", options, data_path=path,
                              eval_metadata=test_set.metadata,
                              **({"trust_code": trust_code} if takes_trust else {}))
            if hasattr(evaluator, "check"):
                evaluator.check(dataset.part(path))
            evaluators[prefix] = path, evaluator
            notices += getattr(evaluator, "notices", [])
    if dataset.config.rank == 0:
        for notice in notices:
            say_once(f"notice: {notice}")
    return evaluators


def _by_kind(sets: Mapping[str, ExampleSet], trust_code: bool) -> list[tuple[dict, list[str]]]:
    """The config of each evaluator that a kind of puzzle in `sets`, by path, has, and the paths of that kind."""
    wanted: dict[str, list[str]] = {}
    for path, test_set in sets.items():
        if isinstance(test_set.metadata, PuzzleDatasetMetadata):
            evaluator = kind_of(test_set, trust_code).evaluator
            if evaluator:
                wanted.setdefault(evaluator, []).append(path)
    return [({"name": name}, paths) for name, paths in wanted.items()]


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that has come before."""
    taken: list[str] = []
    for name in names:
        numbers = itertools.count(2)
        candidate = name
        while candidate in taken:
            candidate = f"{name}{next(numbers)}"
        taken.append(candidate)
    return taken
