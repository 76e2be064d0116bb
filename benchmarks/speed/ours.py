"""This project's side: a loss head, as a training run has it."""
import utils.threads  # isort: skip  # before PyTorch
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from config.schema import ArchConfig, NamedConfig
from dataset.common import PuzzleDatasetMetadata
from losses.head import LossHead
from models.compiled import ComputeConfig, speed_up
from utils.distributed import World

AS_A_RUN = {"compile_scope": "recursion", "cuda_graphs": False, "kernels": False}  # the defaults of cfg_pretrain.yaml


def build(sizes: dict, device: torch.device, spec: Mapping[str, Any] = MappingProxyType({})) -> LossHead:
    """The loss head, in training mode. Of `spec`, `arch` has options of this project alone, and `constants` values of
    constants of its modules, as {"models.layers.ALIGNED_ROWS": 1}."""
    for path, value in spec.get("constants", {}).items():
        module, _, name = path.rpartition(".")
        setattr(importlib.import_module(module), name, value)
    data = PuzzleDatasetMetadata(
        pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=sizes["vocabulary"], seq_len=sizes["tokens"],
        num_puzzle_identifiers=sizes.get("identifiers", 1), total_groups=1, mean_puzzle_examples=1, total_puzzles=1,
        sets=["all"])
    arch = ArchConfig(name="recursive_reasoning.trm@TRM",
                      loss=NamedConfig(name="losses@ACTLossHead", loss_type="stablemax_cross_entropy"),
                      **sizes["arch"] | spec.get("arch", {}))
    return arch.build_head(data, sizes["rows"], World(device=device)).train()


def prepared(head: LossHead, sizes: dict, spec: dict) -> LossHead:
    """The head with the threads of a run, compiled or not, and with the other settings of `spec["compute"]`."""
    positions = sizes["tokens"] + sizes["arch"]["puzzle_emb_len"]
    utils.threads.use_threads(sizes["rows"] * positions * sizes["arch"]["hidden_size"])
    settings = AS_A_RUN | spec.get("compute", {}) | {"compile": spec["compiled"]}
    speed_up(head, ComputeConfig(**settings), torch.device(spec["device"]))
    return head


def dtype_of(head: LossHead) -> str:
    """Of the activations."""
    return str(head.model.inner.dtype)


def forget_gradients(head: LossHead) -> None:
    head.zero_grad(set_to_none=True)
    head.puzzle_embedding.looked_up = []
