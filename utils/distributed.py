"""Many processes as one: who am I, sums and gathers over ranks; each is the identity where there is one process."""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU. Raises ValueError for a device that is not there."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = accelerator.type if accelerator and accelerator.type in ("cuda", "mps") else "cpu"
    if name not in ("auto", "cpu", there):
        raise ValueError(f"device={name}, but this PyTorch sees no {name} device; use device=auto or device=cpu")
    chosen = there if name == "auto" else name
    return torch.device(chosen, local_rank) if chosen == "cuda" else torch.device(chosen)


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that `torchrun` started (NCCL on CUDA, gloo elsewhere); alone without `torchrun`."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = pick_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "LOCAL_RANK" not in os.environ:
        yield World(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def all_reduce_sum_(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over ranks, in place, by one fused all-reduce (they share a dtype and a device)."""
    if not dist.is_initialized() or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(summed.view_as(tensor))


def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in order of rank: the order of the global batch. Equal shapes required."""
    if not dist.is_initialized():
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def broadcast_object(value):
    """Rank 0's value, everywhere."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
