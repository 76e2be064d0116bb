"""What a step is compared with: the machine's measured limits, and the work of the step, counted.

Counted are the matrix products of a step of this project on tensors without storage (PyTorch's `meta` device): for
each its floating-point operations, and the bytes of its factors and its result, each moved once. The products inside
attention count without bytes, since fused attention keeps the scores on the chip. A step whose other work cost nothing
would take, for each product, the longer of the two: operations / matrix peak, bytes / copy bandwidth.
"""
import math
import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.speed import ours
from benchmarks.speed.workload import batch
from utils.precision import auto_dtype, multiplies_in_tiles


class Subject:
    """`spec`: device, and `workloads` by name."""

    def __init__(self, spec: dict):
        device = torch.device(spec["device"])
        dtype = getattr(torch, auto_dtype(device))
        self.facts = {"device": machine(device), "torch": torch.__version__, "dtype": str(dtype),
                      "amx": multiplies_in_tiles(),
                      "matrix_flops": matrix_peak(device, dtype, spec["tiny"]),
                      "copy_bytes": copy_bandwidth(device, spec["tiny"]),
                      "counted": {name: count_products(sizes, dtype) for name, sizes in spec["workloads"].items()}}


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def fastest(work: Callable[[], object], device: torch.device, tries: int = 7) -> float:
    """Seconds of the fastest of some tries, after one that does not count."""
    times = []
    for _ in range(tries + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matrix_peak(device: torch.device, dtype: torch.dtype, tiny: bool = False) -> float:
    """Floating-point operations a second of a large square product."""
    side = 256 if tiny else 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / fastest(lambda: a @ b, device)


def copy_bandwidth(device: torch.device, tiny: bool = False) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    size = 2**20 if tiny else 2**30 if device.type == "cuda" else 2**27
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / fastest(lambda: target.copy_(source), device)


def stored_bytes(tensor: torch.Tensor) -> float:
    """Bytes of a tensor's elements; those that stand for many places, as a weight for all rows does, count once."""
    places = math.prod(size for size, stride in zip(tensor.shape, tensor.stride()) if stride)
    return float(places * tensor.element_size())


class ProductCount(TorchDispatchMode):
    """Operations and bytes of each matrix product that runs inside."""

    def __init__(self):
        super().__init__()
        self.products: list[tuple[float, float]] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            flops = count(*arguments, **(keywords or {}), out_val=result)
            factors = [t for t in arguments if isinstance(t, torch.Tensor)]
            results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]  # several: gradients of factors
            of_attention = function._overloadpacket == torch.ops.aten.bmm and not any(0 in t.stride() for t in factors)
            self.products.append((float(flops), 0.0 if of_attention else sum(map(stored_bytes, factors + results))))
        return result


def count_products(sizes: dict, dtype: torch.dtype) -> list[tuple[float, float, int]]:
    """The products of a step: operations, bytes, and how many there are of this kind."""
    meta = torch.device("meta")
    spec = {"arch": {"forward_dtype": str(dtype).removeprefix("torch.")}}
    with meta:  # else weights are drawn first, which takes seconds
        head = ours.build(sizes, meta, spec)
    tokens = batch(sizes, meta)
    with ProductCount() as count:
        loss = head(carry=head.initial_carry(tokens), batch=tokens, return_keys=())[1]
        (loss / sizes["rows"]).backward()
    kinds = dict.fromkeys(count.products)
    return [(flops, moved, count.products.count((flops, moved))) for flops, moved in kinds]
