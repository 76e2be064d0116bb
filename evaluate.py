"""Score a checkpoint on test data: a table on the terminal, `metrics.json`, and a picture of a puzzle being solved.

    python evaluate.py checkpoint=checkpoints/PROJECT/RUN                       # best.ckpt on the run's own test data
    python evaluate.py checkpoint=…/step_00000312.ckpt data_paths="[data/other]" picture=slowest
    python evaluate.py checkpoint=published/step_550 data_paths="[data/…]"      # with its all_config.yaml beside it
    python evaluate.py checkpoint=… evaluators="[{name: arc@ARC, gallery: 50}]" puzzle_identifiers=blank
    python evaluate.py checkpoint=… halt_max_steps=64 per_step=true             # deeper than trained; accuracy by depth
    python evaluate.py checkpoint=… arch.act_inference=true arch.H_cycles=4     # any option of the architecture
    python evaluate.py checkpoint=… export=published                            # or safetensors, or hub
"""
from pathlib import Path

import utils.threads  # isort: skip  # before PyTorch
import numpy as np
import torch
from omegaconf import DictConfig

from config.help import help_text
from config.keywords import settled
from config.restored import Restored
from config.schema import EvaluateConfig
from dataset.common import IGNORE_LABEL_ID, EpisodeMetadata
from dataset.kinds.kind import kind_of
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.loop import DepthCurve
from evaluators.loop import evaluate as metrics_of
from evaluators.protocol import build_evaluators
from evaluators.rows import trace
from evaluators.rollout import Rollouts, roll_out, rollout_starts
from losses.head import LossHead
from utils.best import best_in_doubt
from utils.boards import plot_solution_steps
from utils.command_line import run_script
from utils.distributed import World, joined_world
from utils.export import Export, refuse_unpublished
from utils.hub import is_reference, repository_of, upload
from utils.plots import plot_predictions, plot_rollouts, plot_sequence_steps
from utils.run_directory import refuse_links
from utils.strict_json import as_json

WATCHED = 512  # test examples among which picture=slowest chooses


def rollouts_of(config: EvaluateConfig, restored: Restored, head: LossHead, data: PuzzleDataset, world: World
                ) -> Rollouts | None:
    """Open-loop predictions of latent episodes; None for other data."""
    if not isinstance(data.metadata, EpisodeMetadata):
        return None
    paths = restored.settings["data_paths"]
    train_paths = [path for path in paths if (Path(path) / "train").is_dir()]
    if not train_paths and world.is_main:
        print(f"notice: no linear baseline, since {paths} are not here to fit it on")
    train = restored.open_data(train_paths, "train", world, config.global_batch_size).sets.values() \
        if train_paths else ()
    number = config.picture if isinstance(config.picture, int) else 0
    return roll_out(head, list(data.sets.values()), list(train), data.local_batch_size, world, number)


def ablate_identifiers(head: LossHead, data: PuzzleDataset, which: str) -> None:
    """Have the model see each test puzzle as no puzzle in particular (`blank`) or as another one of them (`shuffled`),
    as in arXiv 2512.11847: by its row of the puzzle table, so that whoever reads a batch finds the true identifiers."""
    blank, tested = data.metadata.blank_identifier_id, data.own_rows()
    if head.puzzle_embedding is None or len(tested) < 2:
        lacking = "the model has no puzzle embedding" if head.puzzle_embedding is None else \
            f"the test puzzles of {data.config.folders} have no identifiers of their own"
        raise ValueError(f"puzzle_identifiers={which} has no effect: {lacking}; use puzzle_identifiers=own")
    order = np.random.default_rng(0).permutation(tested)
    table = head.puzzle_embedding.weights
    no_one = table[blank].clone() if blank >= 0 else torch.zeros_like(table[0])  # what is never trained is zero
    table[order] = table[np.roll(order, 1)] if which == "shuffled" else no_one


def refuse_picture(data: PuzzleDataset, choice: int | str) -> None:
    """Raise ValueError where there is no such example: before scoring, which takes long."""
    number = 0 if choice == "slowest" else choice
    if isinstance(data.metadata, EpisodeMetadata):
        rollouts = sum(len(rollout_starts(episodes)) for episodes in data.sets.values())
        if not 0 <= number < rollouts:
            raise ValueError(f"picture={choice}: the test episodes of {data.config.folders} give {rollouts} rollouts, "
                             "numbered from 0")
        return
    data.examples([number])


def draw_solution(head: LossHead, data: PuzzleDataset, choice: int | str, world: World, picture: Path,
                  trust_code: bool) -> None:
    """Draw a test example, by number or, of the first ones, the slowest: solved in the end, after the most steps."""
    numbers = range(min(WATCHED, data.num_examples)) if choice == "slowest" else [int(choice)]
    batch = {name: value.to(world.device) for name, value in data.examples(numbers).items()}
    preds, q_halt = trace(head, batch)
    asked = batch["labels"] != IGNORE_LABEL_ID
    solved = ((preds == batch["labels"]) | ~asked).all(-1) & asked.any(-1)  # (steps, B)
    row = int((solved[-1] * (~solved).sum(0)).argmax())
    plot_solution_steps(batch["inputs"][row].cpu().numpy(), preds[:, row].cpu().numpy(),
                        batch["labels"][row].cpu().numpy(), torch.sigmoid(q_halt[:, row]).tolist(), picture,
                        kind_of(data.set_of(numbers[row]), trust_code).look())
    print(f"picture: {picture}")


def draw_regression(head: LossHead, data: PuzzleDataset, choice: int | str, world: World, picture: Path) -> None:
    """A sequence with its targets and the predictions after each step, by number or the one whose error falls most; of
    single rows, all predictions at once."""
    watched = range(min(WATCHED, data.num_examples))
    batch = data.examples(watched if choice == "slowest" or data.metadata.seq_len == 1 else [choice])
    preds, _ = trace(head, {name: value.to(world.device) for name, value in batch.items()})
    preds, targets, mask = preds.cpu().numpy(), batch["targets"].numpy(), batch["target_mask"].numpy()
    if data.metadata.seq_len == 1:
        width = data.metadata.target_dim
        plot_predictions(*(values.reshape(-1, width) for values in (preds[-1], targets, mask)), picture)
    else:
        errors = (mask * (preds - targets) ** 2).sum((2, 3))  # (steps, B)
        row = int(np.nan_to_num(errors[0] - errors[-1], nan=-np.inf).argmax())  # NaN is not the largest
        plot_sequence_steps(batch["inputs"][row].numpy(), targets[row], mask[row], preds[:, row], picture)
    print(f"picture: {picture}")


def draw(head: LossHead, data: PuzzleDataset, choice: int | str, rollouts: Rollouts | None, world: World,
         output_dir: Path, trust_code: bool) -> None:
    """What there is to see of such data: rollouts, a sequence, or a puzzle being solved."""
    if rollouts:
        plot_rollouts({who: errors.rmse for who, errors in rollouts.by_horizon.items()}, rollouts.truth, rollouts.shown,
                      output_dir / "rollouts.png")
        print(f"picture: {output_dir / 'rollouts.png'}")
        return
    if data.metadata.task_type == "regression":
        draw_regression(head, data, choice, world, output_dir / "solution_steps.png")
    else:
        draw_solution(head, data, choice, world, output_dir / "solution_steps.png", trust_code)


def output_directory(config: EvaluateConfig, checkpoint: Path) -> Path:
    """Where results go: beside the checkpoint, or for one from the hub, whose cache is not ours, in checkpoints/. The
    folder's name tells what is set otherwise than in training."""
    if config.output_dir is not None:
        return Path(config.output_dir)
    hub = is_reference(config.checkpoint)
    run = Path("checkpoints", repository_of(config.checkpoint).replace("/", "--")) if hub else checkpoint.parent
    folder = run / "_".join(["evaluation", *(
        str(value) if key == "puzzle_identifiers" else f"{key.removeprefix('arch.')}_{value}"
        for key, value in config.differences.items())])
    refuse_links([folder, *folder.rglob("*")], run)
    return folder


def score(config: EvaluateConfig, world: World) -> dict[str, float]:
    """Metrics by flat name, on rank 0, where they are also written and printed."""
    restored = Restored.read(config.checkpoint, config.trust_code, config.arch_options)
    checkpoint = restored.file
    if config.export == "published":
        refuse_unpublished(restored.settings)
    data = restored.open_data(config.data_paths or restored.test_paths, "test", world, config.global_batch_size)
    if config.picture is not None:
        refuse_picture(data, config.picture)
    head = restored.head(data, world, config.use_ema)
    utils.threads.use_threads(data.local_batch_size * data.metadata.seq_len * head.model.config.hidden_size)
    if config.puzzle_identifiers != "own":
        ablate_identifiers(head, data, config.puzzle_identifiers)
    output_dir = output_directory(config, checkpoint)
    evaluators = build_evaluators(config.named_evaluators, data, config.trust_code)
    curve = DepthCurve(head, world) if config.per_step else None
    metrics = metrics_of(head, data, world, evaluators, config.eval_save_outputs, output_dir, curve=curve)
    by_step = curve.read() if curve else []
    rollouts = rollouts_of(config, restored, head, data, world)
    metrics |= rollouts.metrics() if rollouts else {}
    if world.is_main:
        told = config.differences
        which = restored.kind_of_weights(config.use_ema)
        print(f"{checkpoint} ({', '.join([f'{which} weights', *(f'{k}={v}' for k, v in told.items())])}) on "
              f"{data.config.folders}")
        report(metrics, by_step, told, output_dir)
        if checkpoint.name == "best.ckpt":
            for line in best_in_doubt(checkpoint.parent, restored.settings["checkpoint"]["monitor"], restored.steps):
                print(line)
        if rollouts:
            print(rollouts.table())
        if config.picture is not None:
            draw(head, data, config.picture, rollouts, world, output_dir, config.trust_code)
        if config.export is not None:
            export(config, Export(
                restored.weights(config.use_ema), restored.settings, restored.steps, which, restored.fingerprints,
                {path: data.rows.folders[path].fingerprint for path in data.config.dataset_paths}, told | metrics,
                restored.puzzle_names, restored.metadata.facts() if restored.metadata else None), output_dir)
    return metrics


def report(metrics: dict[str, float], by_step: list[dict[str, float]], told: dict, output_dir: Path) -> None:
    """Write and print the metrics and, where asked for, those by supervision step."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "metrics.json").write_text(as_json(told | metrics, indent=1) + "\n")
    if not metrics:
        print(f"  nothing is scored, since no answer is known; what evaluators made of it lies in {output_dir}")
    width = max(map(len, metrics), default=0)
    print("\n".join(f"  {name:{width}s}  {value:.6g}" for name, value in metrics.items()))
    print(f"metrics: {output_dir / 'metrics.json'}")
    if by_step:
        (output_dir / "steps.jsonl").write_text("".join(as_json(line) + "\n" for line in by_step))
        print("\n".join(" ".join(f"{cell:>15}" for cell in row) for row in [
            by_step[0], *([f"{value:.6g}" for value in line.values()] for line in by_step)]))
        print(f"metrics by step: {output_dir / 'steps.jsonl'}")


def export(config: EvaluateConfig, exported: Export, output_dir: Path) -> None:
    folder = output_dir / config.export
    exported.write(config.export, folder, config.hub_repo)
    print(f"{config.export}: {folder}")
    if config.export == "hub":
        print(f"uploaded: {upload(folder, config.hub_repo)}")


def evaluate(config: EvaluateConfig | None = None, **settings: object) -> dict[str, float]:
    """Score a checkpoint from Python and return its metrics by name. The settings of the command line are keywords,
    nested ones in dicts. Or give a whole `config`. Raises ValueError for what is wrong in them, or in the files.

        scores = evaluate(checkpoint="checkpoints/demo/seed0", picture="slowest")      # docs/python.md
    """
    config, _, _ = settled(EvaluateConfig, "cfg_evaluate", config, settings)
    with joined_world(config.device) as world:
        return score(config, world)


def main(cfg: DictConfig) -> None:
    config = EvaluateConfig.parse(cfg)
    with joined_world(config.device) as world:
        score(config, world)


if __name__ == "__main__":
    run_script(main, "cfg_evaluate", help_text)
