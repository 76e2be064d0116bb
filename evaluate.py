"""Score a checkpoint on test data: a table on the terminal, `metrics.json`, and a picture of a puzzle being solved.

    python evaluate.py checkpoint=checkpoints/PROJECT/RUN                       # best.ckpt on the run's own test data
    python evaluate.py checkpoint=…/step_00000312.ckpt data_paths="[data/other]" picture=slowest
    python evaluate.py checkpoint=published/step_550 data_paths="[data/…]"      # with its all_config.yaml beside it
    python evaluate.py checkpoint=… evaluators="[{name: arc@ARC, gallery: 50}]" puzzle_identifiers=blank
    python evaluate.py checkpoint=… steps=64 per_step=true                      # deeper than trained; accuracy by depth
    python evaluate.py checkpoint=… +tta=ptrm_sudoku curve=true                 # many attempts; accuracy by compute
    python evaluate.py checkpoint=… arch.act_inference=true arch.H_cycles=4     # any option of the architecture
    python evaluate.py checkpoint=… solve=puzzles.csv                           # or one puzzle, or - (docs/solving.md)
    python evaluate.py checkpoint=… export=published                            # or safetensors, or hub
    python evaluate.py checkpoint=… viewer=steps.html            # see puzzles being solved; serve=true: type your own
"""
import sys
from pathlib import Path

import utils.threads  # isort: skip  # before PyTorch
from omegaconf import DictConfig

from config.help import help_text
from config.keywords import settled
from config.restored import Restored
from config.schema import EvaluateConfig
from config.showing import serve, view
from config.solver import load_solver
from config.solving import Opened, opened
from dataset.common import EpisodeMetadata
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.identifiers import ablate_identifiers
from evaluators.loop import DepthCurve
from evaluators.loop import evaluate as metrics_of
from evaluators.protocol import build_evaluators
from evaluators.report import report
from evaluators.strategies import Single, Strategy
from evaluators.test_time import TestTime
from losses.head import LossHead
from models.compiled import speed_up
from utils.best import best_in_doubt, unscored_since
from utils.command_line import run_script
from utils.distributed import World, joined_world
from utils.export import Export, refuse_unpublished
from utils.hub import is_reference, repository_of, upload
from utils.progress import EvaluationProgress
from utils.run_directory import refuse_links

__all__ = ["evaluate", "load_solver", "score"]
SOME_UNREAD = 1  # exit status where some of the puzzles to solve could not be read


def score(config: EvaluateConfig, world: World) -> dict[str, float]:
    """Score a checkpoint. Rank 0 prints and writes the metrics, and returns them by name."""
    if config.serve:
        return serve(config, world)
    restored = Restored.read(config.checkpoint, config.trust_code, config.arch_options)
    if config.export == "published":
        refuse_unpublished(restored.settings)
    with opened(config, restored, world) as puzzles:
        return score_opened(config, restored, puzzles, world)


def score_opened(config: EvaluateConfig, restored: Restored, puzzles: Opened, world: World) -> dict[str, float]:
    data = puzzles.data
    evaluators = build_evaluators(puzzles.evaluators, data, config.trust_code, inspectors(config, data))
    head = puzzles.head()
    if config.puzzle_identifiers != "own" and config.solve is None:
        ablate_identifiers(head, data, config.puzzle_identifiers)
    utils.threads.use_threads(data.local_batch_size * data.metadata.seq_len * head.model.config.hidden_size)
    if not head.is_compiled:
        speed_up(head, config, world.device)
    if config.viewer is not None:
        return view(config, restored, head, data, world) | puzzles.unread()
    folder = output_directory(config, restored.file)
    curve, strategy = DepthCurve(head, world) if config.per_step else None, config.build_strategy()
    if world.is_main and isinstance(strategy, TestTime):
        print(strategy.cost(head, data), flush=True)
    progress = EvaluationProgress(sum(len(data.own_examples(examples)) for examples in data.sets.values()),
                                  shown=world.is_main, processes=world.size)
    metrics = metrics_of(head, data, world, evaluators, config.eval_save_outputs, folder, curve=curve,
                         strategy=strategy, predictions=puzzles.predictions, answered=progress.add)
    by_step = curve.read() if curve else []
    if world.is_main:
        tell_what_is_scored(config, restored, puzzles.called)
        report(metrics, by_step, config.differences, folder)
        tellers = [*(evaluator for _, evaluator in evaluators.values()), strategy]
        for line in [*notices(config, head, strategy), *doubts(restored),
                     *(line for teller in tellers for line in getattr(teller, "told", []))]:
            print(line)
        if config.export is not None:
            export(config, restored, data, metrics, folder)
    return metrics | puzzles.tell(config.trust_code)


def inspectors(config: EvaluateConfig, data: PuzzleDataset) -> list[dict]:
    """The evaluators that are added to the configured ones: rollouts for latent episodes, and for other data a picture
    if one is asked for."""
    if isinstance(data.metadata, EpisodeMetadata) and not config.animation:  # which pictures refuse
        return [{"name": "rollout@Rollouts", "example": config.picture if isinstance(config.picture, int) else 0}]
    return [] if config.picture is None else [{"name": "pictures@Pictures", "example": config.picture,
                                               "animation": config.animation}]


def output_directory(config: EvaluateConfig, checkpoint: Path) -> Path:
    """The folder for results: beside the checkpoint or, if that is on the hub, in checkpoints/.

    Its name contains the settings that differ from training.
    """
    if config.output_dir is not None:
        return Path(config.output_dir)
    hub = is_reference(config.checkpoint)
    run = Path("checkpoints", repository_of(config.checkpoint).replace("/", "--")) if hub else checkpoint.parent
    folder = run / "_".join(["evaluation" if config.solve is None else "solved", *(
        str(value) if key == "puzzle_identifiers" else f"{key.removeprefix('arch.')}_{value}"
        for key, value in config.differences.items())])
    refuse_links([folder, *folder.rglob("*")], run)
    return folder


def tell_what_is_scored(config: EvaluateConfig, restored: Restored, data: str) -> None:
    """Print which weights are scored, on which data, and which settings differ from training."""
    settings = [f"{key}={value}" for key, value in config.differences.items()]
    told = ", ".join([f"{restored.kind_of_weights(config.use_ema)} weights", *settings])
    print(f"{restored.file} ({told}) on {data}")


def notices(config: EvaluateConfig, head: LossHead, strategy: Strategy) -> list[str]:
    """Lines to print of attempts that are not shown, or were not made."""
    told = []
    if config.picture is not None and (config.strategy or config.attempted_otherwise):
        told.append("notice: the picture is of one plain attempt, which need not be the one that answered; "
                    "viewer=steps.html shows all attempts")
    if head.model.GUESSES and isinstance(strategy, Single):
        told.append("notice: this model guesses, and one try often goes wrong; the preset that its recipe names, as "
                    '+tta=ldt_fields, or strategy="{name: chains@Chains}" searches by many (docs/recipes.md)')
    return told


def doubts(restored: Restored) -> list[str]:
    """Lines to print if the run has a better step by another metric, or a newer one that was not scored."""
    if restored.file.name != "best.ckpt":
        return []
    run = restored.file.parent
    return [*unscored_since(run, restored.steps),
            *best_in_doubt(run, restored.settings["checkpoint"]["monitor"], restored.steps)]


def export(config: EvaluateConfig, restored: Restored, data: PuzzleDataset, metrics: dict[str, float],
           output_dir: Path) -> None:
    """Write the weights for others and, with export=hub, upload them."""
    folder = output_dir / config.export
    scored_on = {path: data.rows.folders[path].fingerprint for path in data.config.dataset_paths}
    exported = Export(
        restored.weights(config.use_ema), restored.settings, restored.steps, restored.kind_of_weights(config.use_ema),
        restored.fingerprints, scored_on, config.differences | metrics, restored.puzzle_names,
        restored.metadata.facts() if restored.metadata else None)
    exported.write(config.export, folder, config.hub_repo)
    print(f"{config.export}: {folder}")
    if config.export == "hub":
        print(f"uploaded: {upload(folder, config.hub_repo)}")


def evaluate(config: EvaluateConfig | None = None, **settings: object) -> dict[str, float]:
    """Score a checkpoint from Python and return its metrics by name.

    Settings are the keywords of the command line, nested ones in dicts. Or give a whole `config`. Raises ValueError for
    wrong settings and for damaged files.

        scores = evaluate(checkpoint="checkpoints/demo/seed0", picture="slowest")      # docs/python.md
    """
    config, _, _ = settled(EvaluateConfig, config, settings)
    with joined_world(config.device) as world:
        return score(config, world)


def main(cfg: DictConfig) -> None:
    config = EvaluateConfig.parse(cfg)
    with joined_world(config.device) as world:
        metrics = score(config, world)
    if metrics.get("solve/unread"):
        sys.exit(SOME_UNREAD)


if __name__ == "__main__":
    run_script(main, "cfg_evaluate", help_text)
