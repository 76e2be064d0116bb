"""The same network and puzzles evaluated by this project and by the published code.

The network is a small one that `sets.py` has trained on generated 4×4 Sudokus, so that it halts as a real one does; at
paper size only the time counts, and its weights are those of `workload.fill`. The published loop: for each batch a new
carry, then steps until all rows have halted, which at evaluation is after N_sup; the metrics of the last step count.
"""
import time
from typing import Any

import numpy as np
import torch

from benchmarks.speed.workload import fill


class Subject:
    """`spec`: side, workload, device, compiled, `data` (a folder), `weights` (a file of a state dict, or None),
    and `strategy` (settings of test-time compute, of our side)."""

    def __init__(self, spec: dict):
        self.spec, self.device = spec, torch.device(spec["device"])
        self.prepare = {"ours": self._ours, "reference": self._published}[spec["side"]]
        self.evaluate = self.prepare(spec["workload"])
        started = time.perf_counter()
        exact = self.evaluate()
        self.facts = {"first_s": time.perf_counter() - started, "exact": exact}
        self._leave_memory()

    def turn(self) -> dict[str, float]:
        started = time.perf_counter()
        self.evaluate()
        found = {"s": time.perf_counter() - started}
        self._leave_memory()
        return found

    def _ours(self, sizes: dict):
        from benchmarks.speed import ours
        from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
        from evaluators.loop import evaluate
        from evaluators.test_time import build_strategy
        from utils.distributed import World

        strategy = build_strategy(**self.spec.get("strategy", {}))
        spec = self.spec | {"arch": strategy.config.test_time_arch}
        head = ours.prepared(self._loaded(ours.build(sizes, self.device, spec)), sizes, spec)
        data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[self.spec["data"]], test_set_mode=True,
                                                 global_batch_size=sizes["rows"]), "test")
        return lambda: evaluate(head, data, World(device=self.device), strategy=strategy)["val/exact_accuracy"]

    def _published(self, sizes: dict):
        from benchmarks.speed import reference

        head = self._loaded(reference.build(sizes, self.device, self.spec))
        head = reference.prepared(head.eval(), sizes, self.spec)
        cells = {name: np.load(f"{self.spec['data']}/test/all__{name}.npy").astype(np.int32)
                 for name in ("inputs", "labels", "puzzle_identifiers")}
        rows, count = sizes["rows"], len(cells["inputs"])
        batches = [{name: torch.from_numpy(values[first:first + rows]) for name, values in cells.items()}
                   for first in range(0, count - rows + 1, rows)]

        def evaluate() -> float:
            right = 0.0
            with torch.inference_mode():
                for batch in batches:
                    batch = {name: value.to(self.device) for name, value in batch.items()}
                    with self.device:
                        carry = head.initial_carry(batch)
                    done = False
                    while not done:
                        carry, _, metrics, _, done = head(carry=carry, batch=batch, return_keys=[])
                    right += metrics["exact_accuracy"].item()
            return right / count

        return evaluate

    def _loaded(self, head: Any) -> Any:
        if self.spec["weights"] is None:
            fill(head)
        else:
            head.load_state_dict(torch.load(self.spec["weights"], map_location=self.device))
        return head

    def _leave_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
