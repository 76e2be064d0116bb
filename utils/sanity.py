"""A look at the first batch of every split before hours are spent on it."""
from collections.abc import Mapping

import torch
from torch import Tensor

from dataset.common import BatchField


def check_batch(where: str, batch: Mapping[str, Tensor], fields: Mapping[str, BatchField]) -> None:
    """Check shapes, dtypes, ranges, NaN and infinity of a batch. Raises ValueError naming `where` and the field."""
    rows = len(batch["inputs"])
    for name, value in batch.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{where}: {name} holds NaN or infinity; mend the data set")
        field = fields[name]
        shape = (rows, *field.shape)
        if tuple(value.shape) != shape or value.dtype != getattr(torch, field.dtype):
            raise ValueError(f"{where}: {name} should be {field.dtype} of shape {shape}, and is "
                             f"{value.dtype} of {tuple(value.shape)}")
        if field.below is not None:
            counted = value if field.ignored is None else value[value != field.ignored]
            _check_range(where, name, counted, field.below)
    if "target_mask" in batch and not batch["target_mask"].any():
        raise ValueError(f"{where}: target_mask is false everywhere, so there is nothing to "
                         "learn; mend the data set")


def _check_range(where: str, name: str, values: Tensor, below: int) -> None:
    if values.numel() and not 0 <= values.min() <= values.max() < below:
        raise ValueError(f"{where}: {name} holds {values.min()} to {values.max()}, outside 0 to "
                         f"{below - 1}; mend the data set or its dataset.json")
