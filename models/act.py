"""Adaptive computation time around any recursion: the carry, its reset, halting, exploration. One copy for all.

A puzzle is worked on for up to N_sup = `halt_max_steps` supervision steps. Between them a row of the carry keeps its
latents; a row that has halted takes the next puzzle and starts anew. Training may halt early where the model trusts
its answer (q_halt), so easy puzzles make room for others; evaluation runs N_sup steps, unless `act_inference`.
"""
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

MASK32 = 0xFFFFFFFF
WEYL = 0x9E3779B9  # 2^32 / golden ratio, odd: its multiples visit every 32-bit number


@dataclass
class Carry:
    """What passes from one supervision step to the next: only tensors with a row for each row of the batch."""

    latents: tuple[Tensor, ...]  # each (B, P+L, D), never with gradient; for TRM (z_H, z_L)
    steps: Tensor  # (B,) int32, supervision steps taken on the current puzzle
    halted: Tensor  # (B,) bool, done: the next step takes a new puzzle
    noise_key: Tensor  # (B,) int64, state of the row's random numbers
    current_data: dict[str, Tensor]  # the puzzle each row works on, keyed as in the batch

    def map(self, change: Callable[[Tensor], Any]) -> "Carry":
        """The carry with `change` applied to each of its tensors."""
        def of(value):
            if isinstance(value, dict):
                return {name: change(tensor) for name, tensor in value.items()}
            return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

        return Carry(**{name: of(value) for name, value in vars(self).items()})

    @staticmethod
    def joined(parts: list["Carry"]) -> "Carry":
        """The rows of several carries, in their order."""
        def rows_of(field: str) -> Tensor:
            return torch.cat([getattr(part, field) for part in parts])

        return Carry(
            latents=tuple(torch.cat(rows) for rows in zip(*(part.latents for part in parts))),
            steps=rows_of("steps"), halted=rows_of("halted"), noise_key=rows_of("noise_key"),
            current_data={name: torch.cat([part.current_data[name] for part in parts])
                          for name in parts[0].current_data})


def mix32(x: Tensor) -> Tensor:
    """A bijective hash of 32-bit numbers held in int64 (C. Wellons' lowbias32)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def noise_keys(seed: int, rows: Tensor) -> Tensor:
    """A key (B,) for each row number of the global batch: draws depend on seed, step and row, not on the ranks."""
    return mix32((mix32(torch.full_like(rows, seed & MASK32)) + rows) & MASK32)


def uniform(key: Tensor, draw: int) -> Tensor:
    """Draw number `draw` of a key as float32 in [0, 1): the upper 24 bits, which float32 holds exactly."""
    return (mix32((key + draw * WEYL) & MASK32) >> 8).float() / 2**24


def normal(key: Tensor, stream: int, *shape: int, cut: float = math.inf) -> Tensor:
    """Standard normals (B, *shape), float32, cut at ±`cut`: a stream for each key (B,) and stream number. Drawn by
    inverting the distribution at 2^24 midpoints, so each value is a function of its key, stream and place alone."""
    row = (mix32(key) + stream * WEYL) & MASK32
    place = mix32(torch.arange(math.prod(shape), device=key.device)).view(shape)
    bits = mix32((mix32(row).view(-1, *[1] * len(shape)) + place) & MASK32) >> 8
    symmetric = (2 * bits + 1 - 2**24).float() / 2**24  # in (-1, 1), exact
    return math.sqrt(2) * torch.erfinv(symmetric * math.erf(cut / math.sqrt(2)))


def where_rows(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` in the rows (B,) that are true, else `b` (B, …)."""
    return torch.where(rows.view(-1, *[1] * (b.ndim - 1)), a, b)


class ACTModel(nn.Module):
    """`Class(config: dict)`: builds its `Recursion` from its `Config`, and steps a batch through it.

    Subclasses name `Config`, `Recursion`, and `UNUSED_KEYS`, published keys that they take and do not use.
    """

    Config: Any  # a pydantic model, with the options of the architecture
    config: Any  # an instance of it
    Recursion: type
    UNUSED_KEYS: tuple[str, ...] = ()
    TRAINS_CONTINUE = True  # where halting compares q_halt with q_continue: whether the latter has a target

    def __init__(self, config: dict):
        super().__init__()
        self.config = self.Config(**config)
        self.inner = self.Recursion(self.config)

    @property
    def puzzle_embedding(self):
        """The `SparseEmbedding`, or None."""
        return getattr(self.inner, "puzzle_emb", None)

    def matrices(self) -> list[Tensor]:
        """See `models.backbone.Backbone.matrices`."""
        return self.inner.matrices()

    def compile_recursion(self) -> None:
        """Compile what costs: the recursion. In place, so names in the state dict stay."""
        self.inner.compile(dynamic=False)

    @contextmanager
    def recursing(self, **cycles: int) -> Iterator[None]:
        """Inside, recursions have other `H_cycles`, `L_cycles` than the config's."""
        full = {key: getattr(self.config, key) for key in cycles}
        vars(self.config).update(cycles)
        try:
            yield
        finally:
            vars(self.config).update(full)

    def initial_carry(self, batch: dict[str, Tensor], seed: int = 0, first_row: int = 0) -> Carry:
        """All rows halted, so that the first step takes the batch. `first_row`: number of this rank's first row."""
        inputs = batch["inputs"]
        B, positions = len(inputs), self.inner.P + self.config.seq_len
        empty = torch.zeros(B, positions, self.config.hidden_size, dtype=self.inner.dtype, device=inputs.device)
        return Carry(
            latents=tuple(empty for _ in self.inner.initial_latents()),
            steps=torch.zeros(B, dtype=torch.int32, device=inputs.device),
            halted=torch.ones(B, dtype=torch.bool, device=inputs.device),
            noise_key=noise_keys(seed, torch.arange(first_row, first_row + B, device=inputs.device)),
            current_data={name: torch.zeros_like(value) for name, value in batch.items()})

    def forward(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        """One supervision step. Outputs: `logits` (B, L, V), `q_halt_logits`, `q_continue_logits` (B,) and, where the
        continue logit is trained, its `target_q_continue` (B,)."""
        carry = self._refill(carry, batch)
        x = self.inner.embed(carry.current_data)
        latents, logits, q = self.inner(carry.latents, x, carry.noise_key)
        outputs = {"logits": logits, "q_halt_logits": q[:, 0], "q_continue_logits": q[:, 1]}
        with torch.no_grad():
            steps = carry.steps + 1
            after = replace(carry, latents=latents, steps=steps, noise_key=(carry.noise_key + 2 * WEYL) & MASK32,
                            halted=self._halt(steps, q, carry.noise_key))
            if (self.training and self.TRAINS_CONTINUE and self.config.learns_halting
                    and not self.config.no_ACT_continue and self.config.halt_max_steps > 1):
                outputs["target_q_continue"] = self._continue_target(after, x)
        return after, outputs

    @property
    def steps_known(self) -> int | None:
        """The supervision steps that each puzzle gets at evaluation; None where the model halts when it is sure."""
        return None if self.config.act_inference and self.config.halt_max_steps > 1 else self.config.halt_max_steps

    def _refill(self, carry: Carry, batch: dict[str, Tensor]) -> Carry:
        """Halted rows take the batch's puzzle, initial latents and zero steps."""
        new = carry.halted
        starts = self.inner.initial_latents(carry.noise_key)
        return replace(
            carry,
            latents=tuple(where_rows(new, start, z) for start, z in zip(starts, carry.latents)),
            steps=carry.steps.masked_fill(new, 0),
            halted=torch.zeros_like(new),
            current_data={name: where_rows(new, batch[name], old) for name, old in carry.current_data.items()})

    def _halt(self, steps: Tensor, q: Tensor, key: Tensor) -> Tensor:
        """Which rows stop here (B,)."""
        config = self.config
        last = steps >= config.halt_max_steps
        adaptive = config.act_enabled and config.learns_halting if self.training else config.act_inference
        if not adaptive or config.halt_max_steps == 1:
            return last
        confident = q[:, 0] > (0 if config.no_ACT_continue else q[:, 1])
        if not self.training:
            return last | confident
        # Exploration: now and then demand a random minimum of 2…N_sup steps, so that halting late is seen, too.
        explore = uniform(key, 0) < config.halt_exploration_prob
        minimum = 2 + (uniform(key, 1) * (config.halt_max_steps - 1)).int()
        return last | confident & (~explore | (steps >= minimum))

    def _continue_target(self, after: Carry, x: Tensor) -> Tensor:
        """Q-learning target of "continue": what the next step would be worth, halting there if it is the last."""
        _, _, q = self.inner(after.latents, x, after.noise_key)
        next_halt, next_continue = q[:, 0], q[:, 1]
        last = after.steps >= self.config.halt_max_steps
        return torch.sigmoid(torch.where(last, next_halt, torch.maximum(next_halt, next_continue)))
