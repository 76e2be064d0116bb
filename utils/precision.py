"""The dtype of activations that `arch.forward_dtype=auto` means: bfloat16 where it is fast, else float32."""
import torch

TILES = "AMX, by which it multiplies bfloat16 in tiles"


def auto_dtype(device: torch.device) -> str:
    """The dtype for training on a device, by the device alone. Weights and optimizers are float32 in any case."""
    in_tiles = device.type == "cpu" and multiplies_in_tiles()
    return "bfloat16" if device.type == "cuda" or in_tiles else "float32"


def multiplies_in_tiles() -> bool:
    """Whether this CPU has AMX: bfloat16 products then take a seventh of the time of float32 ones."""
    return _has("_is_amx_tile_supported")


def told_dtype(device: torch.device, dtype: torch.dtype) -> str:
    """The dtype as the start of a run tells it, with what may be wanted instead on a CPU."""
    told = str(dtype).removeprefix("torch.")
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return told
    if dtype == torch.float32:
        faster = multiplies_in_tiles() or _has("_is_avx512_bf16_supported")
        return told + " (arch.forward_dtype=bfloat16 is faster on this CPU)" * faster
    if multiplies_in_tiles():
        return f"{told} (this CPU has {TILES}; arch.forward_dtype=float32 computes as others do)"
    return told if _has("_is_avx512_bf16_supported") else f"{told} (slow on this CPU, which has no AMX)"


def _has(query: str) -> bool:
    """Ask PyTorch about the CPU, by a query that some of its versions may lack."""
    return getattr(torch.cpu, query, lambda: False)()
