"""Pictures of a test example being worked on: `evaluators="[{name: pictures@Pictures, example: 7}]"`.

Puzzles and sequences of floats are drawn step by step in `solution_steps.png`, puzzles with `animation: true` also in
`solution_steps.gif`; of single rows of floats, all predictions at once.
"""
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dataset.common import IGNORE_LABEL_ID, RegressionMetadata, SplitMetadata
from dataset.kinds.kind import kind_of
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.protocol import Inspector
from evaluators.rows import trace
from losses.head import LossHead
from utils.boards import animate_solution_steps, plot_solution_steps
from utils.distributed import World
from utils.plots import plot_predictions, plot_sequence_steps

PICTURE = "solution_steps.png"
WATCHED = 512  # examples among which the slowest is chosen


class Pictures(Inspector):
    """Draws one example of the data set.

    `example`: its number, or `slowest`: of the first examples, the one that is solved in the end after the most steps,
    and of sequences of floats the one whose error falls most. `animation`: also write `solution_steps.gif`, of puzzles.
    `trust_code`: the command line's.
    """

    def __init__(self, data_path: str, eval_metadata: SplitMetadata,
                 example: int | Literal["slowest"] = "slowest",
                 animation: bool = False, trust_code: bool = False):
        if animation and isinstance(eval_metadata, RegressionMetadata):
            raise ValueError(f"animation=true shows puzzles being solved, and {data_path} holds {eval_metadata.KIND}; "
                             "leave it out")
        self.example, self.animation, self.trust_code = example, animation, trust_code
        self.begin_eval()

    def check(self, data: PuzzleDataset) -> None:
        data.examples([0 if self.example == "slowest" else self.example])

    def inspect(self, head: LossHead, data: PuzzleDataset, world: World,
                save_path: Path | None) -> None:
        if save_path is None or not world.is_main:
            return
        picture = save_path / PICTURE
        draw = self._draw_floats if isinstance(data.metadata, RegressionMetadata) else self._draw_puzzle
        self.told.append(f"picture: {picture}, {draw(head, data, world, picture)}")

    def _numbers(self, data: PuzzleDataset) -> list[int]:
        """Examples to choose from."""
        return list(range(min(WATCHED, data.num_examples))) if self.example == "slowest" else [self.example]

    def _draw_puzzle(self, head: LossHead, data: PuzzleDataset, world: World, picture: Path) -> str:
        """Returns what is drawn, for people."""
        numbers = self._numbers(data)
        batch = {name: value.to(world.device) for name, value in data.examples(numbers).items()}
        preds, q_halt = trace(head, batch)
        asked = batch["labels"] != IGNORE_LABEL_ID
        solved = ((preds == batch["labels"]) | ~asked).all(-1) & asked.any(-1)  # (steps, B)
        row = int((solved[-1] * (~solved).sum(0)).argmax())
        drawn = (batch["inputs"][row].cpu().numpy(), preds[:, row].cpu().numpy(), batch["labels"][row].cpu().numpy(),
                 torch.sigmoid(q_halt[:, row]).tolist())
        look = kind_of(data.set_of(numbers[row]), self.trust_code).look()
        plot_solution_steps(*drawn, picture, look)
        if self.animation:
            animate_solution_steps(*drawn, picture.with_suffix(".gif"), look)
            self.told.append(f"animation: {picture.with_suffix('.gif')}")
        return f"example {numbers[row]}"

    def _draw_floats(self, head: LossHead, data: PuzzleDataset, world: World, picture: Path) -> str:
        """Returns what is drawn, for people."""
        of_rows = data.metadata.seq_len == 1
        numbers = range(min(WATCHED, data.num_examples)) if of_rows else self._numbers(data)
        batch = data.examples(numbers)
        preds = trace(head, {name: value.to(world.device) for name, value in batch.items()})[0].cpu().numpy()
        targets, mask = batch["targets"].numpy(), batch["target_mask"].numpy()
        if of_rows:
            width = targets.shape[-1]
            plot_predictions(preds[-1].reshape(-1, width), targets.reshape(-1, width),
                             mask.reshape(-1, width), picture)
            return f"the first {len(targets)} examples"
        errors = (mask * (preds - targets) ** 2).sum((2, 3))  # (steps, B)
        row = int(np.nan_to_num(errors[0] - errors[-1], nan=-np.inf).argmax())  # NaN is not the largest
        plot_sequence_steps(batch["inputs"][row].numpy(), targets[row], mask[row],
                            preds[:, row], picture)
        return f"example {numbers[row]}"


def draw_first_example(head: LossHead, data: PuzzleDataset, world: World, folder: Path, trust_code: bool) -> Path:
    """Draw the first test example in a folder, as `Pictures` does, and return the file. Runs in this process alone."""
    pictures = Pictures(data.config.folders, data.metadata, 0, trust_code=trust_code)
    # a single row would be compiled anew; where nothing is compiled, the compiler need not be loaded
    with torch.compiler.set_stance("force_eager") if head.is_compiled else nullcontext():
        pictures.inspect(head, data, World(device=world.device), folder)
    head.train()
    return folder / PICTURE
