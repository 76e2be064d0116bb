"""What both sides compute: sizes, weights and batches. This file imports neither the project nor the published code.

A workload is a plain dict, so that it can be handed to another process: `arch` (options under their published names),
`rows` B, `tokens` L and `vocabulary` V.
"""
import torch
from torch import Tensor, nn

DAMPED = ("down_proj.weight", "o_proj.weight")  # an untrained recursion amplifies rounding unless its blocks are small
RECURSION = {"L_layers": 2, "expansion": 4.0, "halt_max_steps": 16, "halt_exploration_prob": 0.1}
MIXES = {"mlp_t": {"mlp_t": True, "pos_encodings": "none"}, "attention": {"mlp_t": False, "pos_encodings": "rope"}}


def workload(rows: int, tokens: int, vocabulary: int, width: int, mix: str, T: int, n: int, prefix: int,
             **arch: object) -> dict:
    """A TRM of `width` D with `prefix` P positions before the tokens, mixing positions by `mlp_t` or `attention`."""
    sizes = {"hidden_size": width, "num_heads": max(4, width // 64), "puzzle_emb_ndim": width,
             "puzzle_emb_len": prefix, "H_cycles": T, "L_cycles": n}
    return {"rows": rows, "tokens": tokens, "vocabulary": vocabulary, "arch": RECURSION | MIXES[mix] | sizes | arch}


def fill(head: nn.Module) -> None:
    """Give a head weights that depend on nothing but their names and shapes, which are the same on both sides."""
    with torch.no_grad():
        for number, (name, tensor) in enumerate(sorted(head.state_dict().items())):
            if name.endswith("q_head.bias"):
                tensor.fill_(-5)
            elif "q_head" in name or "puzzle_emb" in name:
                tensor.zero_()
            else:
                drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
                fan_in = tensor.shape[-1] if tensor.ndim > 1 else 1
                tensor.copy_(drawn * fan_in**-0.5 * (0.3 if name.endswith(DAMPED) else 1))


def batch(sizes: dict, device: torch.device) -> dict[str, Tensor]:
    """Random tokens (B, L) whose labels are themselves, with the fields of both sides."""
    shape = sizes["rows"], sizes["tokens"]
    cells = torch.randint(1, sizes["vocabulary"], shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    fields = {"inputs": cells, "labels": cells, "puzzle_identifiers": torch.zeros(shape[0], dtype=torch.int32)}
    return {name: value.to(device) for name, value in fields.items()}
