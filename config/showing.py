"""What evaluate.py shows in place of scores: a page of puzzles being solved."""
from pathlib import Path

from config.restored import Restored
from config.schema import EvaluateConfig
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.viewer import watched, write_viewer
from losses.head import LossHead
from utils.distributed import World


def view(config: EvaluateConfig, restored: Restored, head: LossHead, data: PuzzleDataset, world: World) -> dict:
    """Write the page of `viewer=`, which is set. It returns no metrics."""
    assert config.viewer is not None
    if world.is_main:
        numbers = config.puzzles_to_view(data.num_examples)
        kind, puzzles = watched(head, data, numbers, config.build_strategy(), world, config.trust_code)
        settings = [f"{key}={value}" for key, value in config.differences.items()]
        file = Path(config.viewer)
        write_viewer(file, kind, puzzles, ", ".join([str(restored.file), *settings]))
        print(f"viewer: {file}, {len(puzzles)} puzzles of {data.config.folders}; open it in a browser")
    return {}
