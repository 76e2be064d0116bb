"""Where the time of a step goes, by kind of work, from PyTorch's profiler."""
import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {  # the first whose pattern is in the name of a kernel or, on a CPU, of an operator
    "attention": r"attention|flash|fmha|sdpa",
    "products": r"gemm|nvjet|cutlass|cublas|xmma|_mm|::mm|bmm|linear|matmul|swiglu",
    "norms": r"triton_(red|per)|rms|norm|mean|rsqrt",
    "copies": r"copy|clone|contiguous|memcpy|memset|transpose|::cat|_to_",
    "sums": r"::sum|reduce",
    "pointwise": r"triton_poi|fused|elementwise|::(mul|add|silu|div|pow|sub|neg|where|sigmoid|exp|log)"}
REST = "other"


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST)


def where_time_goes(step: Callable[[], object], steps: int, device: torch.device) -> str:
    """A line for each kind of work with its share, and the five longest kernels or operators."""
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        for _ in range(steps):
            step()
        if gpu:
            torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        times[event.key] += event.self_device_time_total if gpu else event.self_cpu_time_total
    return told(times, steps)


def told(microseconds: dict[str, float], steps: int) -> str:
    """The text of `where_time_goes`, from the time of each kernel or operator over all steps."""
    total = sum(microseconds.values())
    kinds: dict[str, float] = defaultdict(float)
    for name, time in microseconds.items():
        kinds[kind_of(name)] += time
    by_time = sorted(kinds.items(), key=lambda item: -item[1])
    longest = sorted(microseconds.items(), key=lambda item: -item[1])[:8]
    lines = [f"{total / steps / 1000:.1f} ms of work a step"]
    lines += [f"  {time / total:6.1%}  {kind}" for kind, time in by_time]
    return "\n".join([*lines, "  longest:", *(f"  {time / total:6.1%}  {name[:90]}" for name, time in longest)])
