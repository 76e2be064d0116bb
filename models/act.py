"""Adaptive computation time (ACT) around any recursion: the carry, its reset, halting and exploration.

A puzzle is worked on for up to N_sup = `halt_max_steps` supervision steps. From step to step, each row of the batch
keeps its latents in the carry. A row that has halted takes the next puzzle and starts from initial latents. Training
halts a row early where the model trusts its answer (q_halt), so that easy puzzles make room for others. Evaluation runs
N_sup steps, unless `act_inference` is set.

With `wta_chains` = K > 1, training follows K chains of reasoning a puzzle, and the winner takes all: only the chain
with the lowest loss learns, and all go on from its answer (arXiv 2601.19085).
"""
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dataset.common import IGNORE_LABEL_ID

ANCHORS = 1_000  # number of the first draw, and of the first stream, of a row's key for anchors
MASK32 = 0xFFFFFFFF
MURMUR = 0x85EBCA6B  # an odd number of random bits (A. Appleby's MurmurHash3)
WEYL = 0x9E3779B9  # 2^32 / golden ratio, odd: its multiples visit every 32-bit number


# of outputs of the model, and the puzzles of the rows: the loss (B,) of each answer
Judge = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]


@dataclass
class Carry:
    """The state that passes from one supervision step to the next. Every tensor has one row for each of B puzzles."""

    # each (B, P+L, D), without gradient; for TRM (z_H, z_L). With K chains in training, all but the first are
    # (B, K, P+L, D)
    latents: tuple[Tensor, ...]
    steps: Tensor  # (B,) int32, supervision steps taken on the current puzzle
    halted: Tensor  # (B,) bool, whether the row is done with its puzzle and the next step gives it a new one
    noise_key: Tensor  # (B,) int64, state of the row's random numbers
    current_data: dict[str, Tensor]  # the puzzle that each row works on, with the fields of a batch

    def map(self, change: Callable[[Tensor], Any]) -> "Carry":
        """The carry with `change` applied to each of its tensors."""
        def of(value):
            if isinstance(value, dict):
                return {name: change(tensor) for name, tensor in value.items()}
            return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

        return Carry(**{name: of(value) for name, value in vars(self).items()})

    @staticmethod
    def joined(parts: list["Carry"]) -> "Carry":
        """One carry with the rows of all `parts`, one part after the other."""
        def concatenated(field: str) -> Tensor:
            return torch.cat([getattr(part, field) for part in parts])

        return Carry(
            latents=tuple(torch.cat(latent) for latent in zip(*(part.latents for part in parts))),
            steps=concatenated("steps"), halted=concatenated("halted"), noise_key=concatenated("noise_key"),
            current_data={name: torch.cat([part.current_data[name] for part in parts])
                          for name in parts[0].current_data})


def mix32(x: Tensor) -> Tensor:
    """A hash of 32-bit numbers held in int64, under which no two numbers collide (C. Wellons' lowbias32)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def noise_keys(seed: int, rows: Tensor) -> Tensor:
    """A random key (B,) for each of the `rows` (B,), numbered over the global batch.

    So a row draws the same numbers however many ranks share the batch.
    """
    return mix32((mix32(torch.full_like(rows, seed & MASK32)) + rows) & MASK32)


def uniform(key: Tensor, draw: int) -> Tensor:
    """A uniform float32 (B,) in [0, 1) for each key (B,). `draw` numbers the draws of one key."""
    # the upper 24 bits, which float32 holds exactly
    return (mix32((key + draw * WEYL) & MASK32) >> 8).float() / 2**24


def normal(key: Tensor, stream: int, *shape: int, cut: float = math.inf) -> Tensor:
    """Standard normals (B, *shape), float32, cut at ±`cut`. Each key (B,) has many independent streams, by number.

    The inverse of the distribution function is taken at one of 2^24 midpoints, which a hash chooses. So each value
    depends on nothing but its key, its stream and its place in `shape`.
    """
    symmetric = (2 * (_bits(key, stream, *shape) >> 8) + 1 - 2**24).float() / 2**24  # in (-1, 1), exact
    return math.sqrt(2) * torch.erfinv(symmetric * math.erf(cut / math.sqrt(2)))


def uniforms(key: Tensor, stream: int, *shape: int) -> Tensor:
    """Uniform floats (B, *shape), float32, in the open interval (0, 1), with keys and streams as in `normal`."""
    # the odd 24-bit numbers, which float32 holds exactly
    return (2 * (_bits(key, stream, *shape) >> 9) + 1).float() / 2**24


def kept(key: Tensor, stream: int | Tensor, share: float, *shape: int) -> Tensor:
    """Booleans (B, *shape), each false with probability `share`, with keys and streams as in `normal`.
    `stream` may be (B,), one for each key.

    One hash serves two of them, so that the probability is a multiple of 2^-16.
    """
    *outer, width = shape
    bits = _bits(key, stream, *outer, -(-width // 2))
    return torch.cat((bits & 0xFFFF, bits >> 16), -1)[..., :width] >= round(share * 2**16)


def _bits(key: Tensor, stream: int | Tensor, *shape: int) -> Tensor:
    """Random 32-bit numbers (B, *shape), int64. Each is a function of its key, its stream and its place in `shape`."""
    row = (mix32(key) + stream * WEYL) & MASK32
    place = mix32(torch.arange(math.prod(shape), device=key.device)).view(shape)
    return mix32((mix32(row).view(-1, *[1] * len(shape)) + place) & MASK32)


def where_rows(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `rows` (B,) is true, else `b` (B, …)."""
    return torch.where(rows.view(-1, *[1] * (b.ndim - 1)), a, b)


def relative_change(z: Tensor, before: Tensor) -> Tensor:
    """How much a latent (B, …, D) moved, (B,): at each position the largest change of an entry, as a share of the
    largest entry there, and of these shares the largest (arXiv 2606.18206, the residual)."""
    moved, size = (z - before).abs().amax(-1).float(), z.abs().amax(-1).float()
    return (moved / (size + 1e-8)).flatten(1).amax(-1)


def chain_key(key: Tensor, chain: int) -> Tensor:
    """The random keys (B,) of a chain of reasoning. The first chain has those of the rows."""
    return key if chain == 0 else mix32((key + chain * MURMUR) & MASK32)


def _as_chains(starts: Sequence[Tensor], like: Tensor) -> Tensor:
    """The starts of K chains, each (D,) or (B, P+L, D), as (B, K, P+L, D)."""
    return torch.stack([start.expand_as(like) for start in starts], dim=1)


class ACTModel(nn.Module):
    """A model that takes a batch through supervision steps, built as `Class(config: dict)`.

    A subclass sets `Config` and `Recursion`, and `UNUSED_KEYS` if it accepts published keys without using them.
    """

    Config: Any  # a pydantic model, with the options of the architecture
    config: Any  # an instance of it
    Recursion: type  # the network, a subclass of `models.backbone.Backbone`
    UNUSED_KEYS: tuple[str, ...] = ()
    is_compiled = False
    has_cuda_graphs = False
    GUESSES = False  # whether evaluation draws guesses, and symmetric views of its own, whatever the options
    compiled_draw: Callable[[Tensor], tuple[Tensor, ...]] | None = None  # `initial_latents` as one kernel
    TRAINS_CONTINUE = True  # whether q_continue gets a target, in architectures that halt when q_halt > q_continue

    def __init__(self, config: dict):
        super().__init__()
        self.config = self.Config(**config)
        self.inner = self.Recursion(self.config)
        if self.config.wta_chains > 1 and len(self.inner.latent_names) < 2:
            raise ValueError(f"wta_chains={self.config.wta_chains}: chains share the answer and differ in the other "
                             "latents, and this architecture has one latent; use wta_chains=1")

    @property
    def chains(self) -> int:
        """Chains of reasoning a puzzle: `wta_chains` in training, 1 at evaluation."""
        return self.config.wta_chains if self.training else 1

    @property
    def puzzle_embedding(self):
        """The `SparseEmbedding`, or None."""
        return getattr(self.inner, "puzzle_emb", None)

    def matrices(self) -> list[Tensor]:
        """See `models.backbone.Backbone.matrices`."""
        return self.inner.matrices()

    def compile_recursion(self, scope: str = "recursion", cuda_graphs: bool = False) -> None:
        """Compile the recursion, which is nearly all of the computation. Names in the state dict stay as they are.

        `scope`: "recursion"; "stack": each pass by itself; "head": the whole supervision step.
        """
        options = {"triton.cudagraphs": True} if cuda_graphs else None
        for part in {"recursion": [self.inner], "stack": self.inner.networks(), "head": [self]}[scope]:
            part.compile(dynamic=False, options=options)
        if scope == "head" and self.puzzle_embedding is not None:  # its rows become a leaf of autograd, between graphs
            self.puzzle_embedding.forward = torch.compiler.disable(self.puzzle_embedding.forward)
        if scope != "head" and self.inner.draws_initial_latents:
            # By one kernel, all rows take less time than the host would to hear which of them have halted.
            self.compiled_draw = torch.compile(self.inner.initial_latents, dynamic=False)
        self.is_compiled, self.has_cuda_graphs = True, cuda_graphs

    @contextmanager
    def recursing(self, **options: int) -> Iterator[None]:
        """A context in which `H_cycles`, `L_cycles` or `halt_max_steps` differ from the config's."""
        full = {key: getattr(self.config, key) for key in options}
        vars(self.config).update(options)
        try:
            yield
        finally:
            vars(self.config).update(full)

    def initial_carry(self, batch: dict[str, Tensor], seed: int = 0, first_row: int = 0) -> Carry:
        """A carry in which all rows have halted, so that the first step gives each a puzzle of the batch.

        `first_row`: number of this rank's first row in the global batch, on which its random numbers depend.
        """
        inputs = batch["inputs"]
        B = len(inputs)
        empty = torch.zeros(B, *self.inner.latent_shape, dtype=self.inner.dtype, device=inputs.device)
        several = empty.expand(self.chains, *empty.shape).transpose(0, 1) if self.chains > 1 else empty
        return Carry(
            # a tensor each: torch.compile makes another graph for two that are one
            latents=tuple((several if i else empty).clone()
                          for i, _ in enumerate(self.inner.initial_latents())),
            steps=torch.zeros(B, dtype=torch.int32, device=inputs.device),
            halted=torch.ones(B, dtype=torch.bool, device=inputs.device),
            noise_key=noise_keys(seed, torch.arange(first_row, first_row + B, device=inputs.device)),
            current_data={name: torch.zeros_like(value) for name, value in batch.items()})

    def forward(self, carry: Carry, batch: dict[str, Tensor],
                judge: Judge | None = None) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step. Returns the carry after it and the outputs: `logits` (B, L, V), `q_halt_logits`
        and `q_continue_logits` (B,) and, where the continue logit is trained, its `target_q_continue` (B,).

        `judge(outputs, puzzles)`: the loss (B,) of an answer, which training with several chains needs.
        """
        carry = self.refill(carry, batch)
        x = self.inner.embed(carry.current_data)
        if self.chains > 1:
            start, key, chains = self._winning_chain(carry, x, judge)
        else:
            start, key, chains = self.inner.started(carry.latents, x, carry.steps == 0), carry.noise_key, ()
        latents, logits, q = self._recur(start, x, key)
        outputs = {"logits": logits, "q_halt_logits": q[:, 0], "q_continue_logits": q[:, 1]}
        with torch.no_grad():
            steps = carry.steps + 1
            going_on = (latents[0], *chains) if chains else latents
            after = replace(carry, latents=going_on, steps=steps, noise_key=(carry.noise_key + 2 * WEYL) & MASK32,
                            halted=self._halt(steps, self._sure(q, carry.latents[0], latents[0]), carry.noise_key))
            if (self.training and self.TRAINS_CONTINUE and self.config.learns_halting
                    and not self.config.no_ACT_continue and self.config.halt_max_steps > 1):
                outputs["target_q_continue"] = self._continue_target(replace(after, latents=latents), x)
        return after, outputs

    def _recur(self, latents: tuple[Tensor, ...], x: Tensor, keys: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Latents, logits and halting logits after the recursion."""
        if not self.has_cuda_graphs:
            return self.inner(latents, x, keys)
        torch.compiler.cudagraph_mark_step_begin()
        latents, logits, q = self.inner(latents, x, keys)
        # Copies: the next step overwrites the memory of a graph's results.
        return tuple(z.clone() for z in latents), logits.clone(), q.clone()

    @torch.no_grad()
    def _winning_chain(self, carry: Carry, x: Tensor, judge: Judge | None
                       ) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
        """Run all chains of each puzzle, without gradient, from the same y and from other latents of their own.

        Returns the latents and the key (B,) that the chain with the lowest loss started from, for each puzzle. The last
        are the latents (B, K, P+L, D), except y, of all chains after the step.
        """
        if judge is None:
            raise ValueError("wta_chains: the loss chooses among chains, so training needs a judge; "
                             "call the loss head, or use wta_chains=1")
        y, *others = carry.latents
        keys, losses, ends = [], [], []
        for chain in range(self.chains):
            keys.append(chain_key(carry.noise_key, chain))
            after, logits, _ = self._recur((y, *(z[:, chain] for z in others)), x, keys[-1])
            losses.append(judge({"logits": logits}, carry.current_data))
            ends.append(after[1:])
        winner = torch.stack(losses).argmin(0)
        rows = torch.arange(len(winner), device=winner.device)
        start = (y, *(z[rows, winner] for z in others))
        return start, torch.stack(keys)[winner, rows], tuple(torch.stack(z, dim=1) for z in zip(*ends))

    @property
    def steps_known(self) -> int | None:
        """How many supervision steps each puzzle gets at evaluation. None: the model decides, by halting."""
        if self.config.act_inference and self.config.halt_max_steps > 1:
            return None
        return self.config.halt_max_steps

    def refill(self, carry: Carry, batch: dict[str, Tensor]) -> Carry:
        """Give each halted row its puzzle of the batch, the latents that this starts from, and a step count of 0."""
        puzzles = {name: where_rows(carry.halted, batch[name], old) for name, old in carry.current_data.items()}
        return replace(
            carry, latents=self.restarted(carry, puzzles), steps=carry.steps.masked_fill(carry.halted, 0),
            halted=torch.zeros_like(carry.halted), current_data=puzzles)

    def restarted(self, carry: Carry, puzzles: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The latents of the carry, in which each halted row has those that its puzzle starts from."""
        new, latents = carry.halted, self._with_initial_latents(carry)
        if not (self.training and self.config.anchor_fraction):
            return latents
        anchored, answers = self._anchors(puzzles, carry.noise_key)
        return where_rows(new & anchored, answers, latents[0]), *latents[1:]

    def _with_initial_latents(self, carry: Carry) -> tuple[Tensor, ...]:
        """The latents of the carry, in which each halted row has initial ones."""
        new, keys, on_cpu = carry.halted, carry.noise_key, carry.halted.device.type == "cpu"
        if on_cpu and self.chains == 1 and self.inner.draws_initial_latents and not torch.compiler.is_compiling():
            starts = self.inner.initial_latents(keys[new])  # for these rows only: no device is waited for
            return tuple(z.masked_scatter(new.view(-1, *[1] * (z.ndim - 1)), start)
                         for start, z in zip(starts, carry.latents))
        starts = (self.inner.initial_latents if on_cpu or not self.compiled_draw else self.compiled_draw)(keys)
        if self.chains > 1:
            others = [self.inner.initial_latents(keys, chain)[1:] for chain in range(self.chains)]
            starts = (starts[0], *(_as_chains(z, carry.latents[0]) for z in zip(*others)))
        return tuple(where_rows(new, start, z) for start, z in zip(starts, carry.latents))

    @torch.no_grad()
    def _anchors(self, puzzles: dict[str, Tensor], keys: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows (B,) start from an answer with errors, and these answers (B, …), embedded as questions are.

        A wrong cell has the token of another cell of the answer. Unlabelled cells have that of the question.
        """
        answer, inputs = puzzles["labels"], puzzles["inputs"]
        answer = torch.where(answer == IGNORE_LABEL_ID, inputs, answer)
        share = self.config.anchor_corruption * uniform(keys, ANCHORS)[:, None]
        wrong = uniforms(keys, ANCHORS, answer.shape[1]) < share
        others = answer.gather(1, (uniforms(keys, ANCHORS + 1, answer.shape[1]) * answer.shape[1]).long())
        embedded = self.inner.embed(puzzles | {"inputs": torch.where(wrong, others, answer)})
        return uniform(keys, ANCHORS + 1) < self.config.anchor_fraction, embedded.to(self.inner.dtype)

    def _sure(self, q: Tensor, before: Tensor, y: Tensor) -> Tensor:
        """Which rows (B,) may halt, by their halting logits q (B, 2) or by how y (B, …) moved in this step."""
        if self.config.halt_on == "residual":
            return relative_change(y, before) < self.config.halt_below
        return q[:, 0] > (0 if self.config.no_ACT_continue else q[:, 1])

    def _halt(self, steps: Tensor, sure: Tensor, key: Tensor) -> Tensor:
        """Which rows (B,) halt after this step. `sure` (B,): those that may halt before their last step."""
        config = self.config
        last = steps >= config.halt_max_steps
        in_training = config.act_enabled and (config.learns_halting or config.halt_on == "residual")
        adaptive = in_training if self.training else config.act_inference
        if not adaptive or config.halt_max_steps == 1:
            return last
        if not self.training:
            return last | sure
        # Exploration: some rows must take a random minimum of 2…N_sup steps, so that q_halt also learns of late steps.
        explore = uniform(key, 0) < config.halt_exploration_prob
        minimum = 2 + (uniform(key, 1) * (config.halt_max_steps - 1)).int()
        return last | sure & (~explore | (steps >= minimum))

    def _continue_target(self, after: Carry, x: Tensor) -> Tensor:
        """Target (B,) of q_continue, as in Q-learning: the greater of the two Q values of one more step. Where the last
        step is taken, the Q value of halting after one more."""
        _, _, q = self.inner(after.latents, x, after.noise_key)
        next_halt, next_continue = q[:, 0], q[:, 1]
        last = after.steps >= self.config.halt_max_steps
        return torch.sigmoid(torch.where(last, next_halt, torch.maximum(next_halt, next_continue)))
