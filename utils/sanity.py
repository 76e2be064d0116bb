"""A look at the first batch of every split before hours are spent on it."""
import torch
from torch import Tensor


def check_batch(where: str, batch: dict[str, Tensor], seq_len: int, vocab_size: int, num_identifiers: int,
                ignored_label: int) -> None:
    """Shapes, dtypes, value ranges, NaN and infinity of one batch. Raises ValueError naming `where` and the field."""
    rows = len(batch["inputs"])
    expected = {"inputs": ((rows, seq_len), 0, vocab_size), "labels": ((rows, seq_len), 0, vocab_size),
                "puzzle_identifiers": ((rows,), 0, num_identifiers)}
    for field, value in batch.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{where}: {field} holds NaN or infinity; mend the data set")
        shape, low, high = expected[field]
        if tuple(value.shape) != shape or value.dtype != torch.int32:
            raise ValueError(f"{where}: {field} should be int32 of shape {shape}, and is {value.dtype} of "
                             f"{tuple(value.shape)}")
        counted = value[value != ignored_label] if field == "labels" else value
        if counted.numel() and not low <= counted.min() <= counted.max() < high:
            raise ValueError(f"{where}: {field} holds {counted.min()} to {counted.max()}, outside {low} to {high - 1}; "
                             "mend the data set or its dataset.json")
