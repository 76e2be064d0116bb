"""Many processes as one: the rank of a process, and sums and gathers over all ranks. With a single process, a sum or a
gather returns what it was given."""
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
        raise ValueError(f"device={name}, but this PyTorch sees no {name} device; use "
                         "device=auto or device=cpu")
    chosen = there if name == "auto" else name
    return torch.device(chosen, local_rank) if chosen == "cuda" else torch.device(chosen)


_jobs = itertools.count()


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes that `torchrun` started; alone without `torchrun`.

    Tensors on CUDA travel by NCCL, those on the CPU by gloo, so that what the hosts tell each other (a signal, a file
    name) waits for no GPU. Raises ConnectionError where another process of the run has ended.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "LOCAL_RANK" not in os.environ:
        yield World(device=chosen)
        return
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # several torchruns do not count restarts alike
        # PyTorch 2.13 keeps the store over a restart, and with it the addresses of the dead: look elsewhere in it.
        store = dist.PrefixStore(f"restart{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    # Likewise for the jobs of a multirun, which all ranks join in the same order: one could meet the last one's dead.
    store = dist.PrefixStore(f"job{next(_jobs)}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", store=store, rank=rank,
                            world_size=size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
        dist.barrier()  # a rank that leaves while another still talks can abort, and torchrun would kill the others
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, dist.DistError):
            raise
        raise ConnectionError(f"rank {dist.get_rank()} of {dist.get_world_size()} has lost another "
                              "process of the run, which has ended or cannot be reached "
                              f"({str(error).splitlines()[0]})") from error
    finally:
        dist.destroy_process_group()


def all_reduce_sum_(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over all ranks, in place, with one all-reduce. The tensors share a dtype and a device."""
    if not dist.is_initialized() or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(summed.view_as(tensor))


def any_rank(*flags: bool) -> list[bool]:
    """For each flag, whether it is true on any rank. The hosts wait for each other here, but not for their GPUs."""
    if not dist.is_initialized():
        return list(flags)
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return votes.bool().tolist()


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the ranks, which is that of the global batch. All shapes must be equal."""
    if not dist.is_initialized():
        return rows
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def gather_rows(rows: Tensor) -> Tensor | None:
    """On rank 0 the rows of all ranks, in the order of the ranks and in main memory; elsewhere None. All shapes must be
    equal."""
    rows = rows.detach().cpu()
    if not dist.is_initialized():
        return rows
    as_bytes = rows.contiguous().view(-1).view(torch.uint8)  # gloo does not know every dtype
    is_main = dist.get_rank() == 0
    gathered = [torch.empty_like(as_bytes) for _ in range(dist.get_world_size())] if is_main else None
    dist.gather(as_bytes, gathered)
    return torch.cat(gathered).view(rows.dtype).view(-1, *rows.shape[1:]) if gathered is not None else None


def gather_uneven_rows(rows: Tensor) -> Tensor | None:
    """Like `gather_rows`, for ranks with different numbers of rows."""
    lengths = all_gather_rows(torch.tensor([len(rows)])).tolist()
    padded = torch.cat([rows, rows.new_zeros(max(lengths) + 1 - len(rows), *rows.shape[1:])])
    gathered = gather_rows(padded)
    return None if gathered is None else torch.cat([
        part[:length] for part, length in zip(gathered.split(len(padded)), lengths)])


def gather_objects(value: T) -> list[T] | None:
    """On rank 0 a list of the values of all ranks; elsewhere None."""
    if not dist.is_initialized():
        return [value]
    gathered = [value] * dist.get_world_size() if dist.get_rank() == 0 else None  # places for the others' values
    dist.gather_object(value, gathered)
    return gathered


def all_gather_objects(value: T) -> list[T]:
    """A list of the values of all ranks, on every rank. The values may be of any kind and shape."""
    if not dist.is_initialized():
        return [value]
    gathered = [value] * dist.get_world_size()  # places for the others' values
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: T) -> T:
    """The value of rank 0, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def decided_by_main(decide: Callable[[], T]) -> T:
    """What `decide()` returns on rank 0, on every rank. A ValueError or OSError in it is raised on every rank."""
    outcome: tuple = (None, None)
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            outcome = decide(), None
        except (ValueError, OSError) as failure:
            outcome = None, failure
    value, error = broadcast_object(outcome)
    if error is not None:
        raise error
    return value
