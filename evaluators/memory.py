"""How many rows fit into an amount of memory at evaluation: measured, so that it holds for any architecture."""
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dataset.puzzle_dataset import PuzzleDataset
from losses.head import LossHead

GIGA = 10**9


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and not yet freed, on any device."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()  # addresses of the memory that is counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size and address not in self.seen:
            self.seen.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.now -= size


def bytes_a_row(head: LossHead, data: PuzzleDataset) -> float:
    """Memory that each further row takes in a supervision step at evaluation, its carry and its puzzle included."""
    def peak(rows: int) -> int:
        batch = {name: value[:1].repeat_interleave(rows, 0).to(device) for name, value in data.first_batch().items()}
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), PeakMemory() as memory:
            own = {name: value.clone() for name, value in batch.items()}
            head.step(head.initial_carry(own), own)
        return memory.peak

    device, was_training = next(head.parameters()).device, head.training
    head.eval()
    found = (peak(5) - peak(1)) / 4
    head.train(was_training)
    return found


def rows_within(head: LossHead, data: PuzzleDataset, gigabytes: float) -> int:
    """How many rows take at most so many gigabytes beside the weights. Raises ValueError where not even one does."""
    row = bytes_a_row(head, data)
    rows = int(gigabytes * GIGA / row)
    if not rows:
        raise ValueError(f"memory_gb={gigabytes:g}: one row takes {row / GIGA:.3g} GB; raise it")
    return rows
