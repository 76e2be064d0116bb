"""LDT, the Lattice Deduction Transformer (arXiv 2605.08605): its state is the set of candidates of every cell.

    h₀ = linear(candidates);  `loops` times: h ← LN(h + h₀ + g(h + h₀))      heads at each loop: keep, digit, conflict
    then, without gradient: drop the candidates whose keep is improbable, and fix one open cell to a drawn digit (with
    `decide=stuck` only where none was dropped, which is not published: a few loops then do the work of many)

g is a pre-norm transformer, which reads the cells and one position more (CLS). Its head says whether the candidates are
in conflict: some cell no longer holds its true digit. A row ends where each cell has one candidate left (solved), where
it is in conflict, or after `halt_max_steps` steps. In training, where answers are known, a conflict ends it only if it
is one in truth: no known solution is left. evaluators/chains.py solves by many chains, of which those in conflict start
over.

A puzzle may have several solutions, of which the data know K (`labels` and `other_labels`). A solution is possible as
long as each of its tokens is a candidate. What is true of a row is the union of the solutions that are possible or, if
none is, of those that have lost the fewest tokens (`Truth`).

The network sees another symmetric view of the board in every pass (`turns`, `relabel`). All random numbers are drawn
from the keys of the rows.

    python pretrain.py arch=ldt augment=fresh data_paths="[data/…]"
"""
import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dataset.symmetry import dihedral_indices
from models.act import MASK32, WEYL, ACTModel, Carry, Judge, mix32, uniforms, where_rows
from models.backbone import BackboneConfig, DerivedConfig
from models.guesses import guessed, judged, taken_back
from models.layers import (
    Dropout,
    Embedding,
    LayerNorm,
    OuterLinear,
    PreNormBlock,
    RotaryPositions,
    board_positions,
    matrices_of,
)
from models.truth import Truth
from models.views import drawn_view, permuted

# Streams of random numbers of a row's key. A supervision step has up to two passes, of many loops each.
DROPOUT, ENDS = 1_000, 600  # 100 and 200 are those of models/views.py, 300 to 500 those of models/guesses.py
CLS_STD = 0.02  # of the published code


class LDTConfig(DerivedConfig):
    """Options of LDT."""

    UNUSED_KEYS: ClassVar[tuple[str, ...]] = ()

    # width D of the cells
    hidden_size: int = Field(gt=0)
    # number of attention heads, each of width D / num_heads
    num_heads: int = Field(gt=0)
    # inner width of the feed-forward part of a block, as a multiple of D
    expansion: float = Field(gt=0)
    # blocks in the network g
    L_layers: int = Field(gt=0)
    # loops of a supervision step, each with a loss
    loops: int = Field(gt=0)
    # how cells are told apart; learned2d: a learned vector for each row and column; rope2d: attention turns by both
    pos_encodings: Literal["learned2d", "rope2d"]
    # token of the cells that an answer fills in; all others are given
    blank: int = Field(ge=0)
    # tokens that such a cell may hold; []: all tokens after the blank
    fills: list[int]
    # drop candidates whose probability to be kept is below
    drop_below: float = Field(gt=0, lt=1)
    # temperature of the distribution that the digit of the fixed cell is drawn from
    temperature: float = Field(gt=0)
    # when a step fixes a digit: always, as published; stuck: only where nothing more is deduced, by few loops a step
    decide: Literal["always", "stuck"] = "always"
    # which open cell it fixes: any, as published; fewest: one of those with the fewest candidates; surest: that whose
    # most probable digit is the most probable
    decide_cell: Literal["any", "fewest", "surest"] = "any"
    # share of training's decisions that take the true digit, so that fuller boards are seen soon; 0: none, as published
    true_decisions: float = Field(0.0, ge=0, le=1)
    # a row is in conflict, too, where a cell with one candidate would keep it with a probability below, and solved only
    # once a pass has seen the complete board; 0: the conflict head alone tells, and a board is solved as soon as
    # deduction completes it, as published
    doubt_below: float = Field(0.0, ge=0, lt=1)
    # doubt counts on boards of at most so many open cells: the fewer there are, the surer the network is; null: on all
    doubt_open: int | None = Field(None, ge=0)
    # in training, the probability that a step ends a row which has no known solution left, seen or not; 0: it goes on
    # until the conflict is seen, as published, and soon most rows are such
    lost_ends: float = Field(0.0, ge=0, le=1)
    # guesses of a row that can be taken back, at evaluation: a row in conflict goes on from the state before its latest
    # guess, without the guessed digit, and ends only where none is left; 0: it ends, as published
    backtrack: int = Field(0, ge=0)
    # a conflict is seen where its probability is above, in training
    conflict_above: float = Field(ge=0, le=1)
    # the same at evaluation
    eval_conflict_above: float = Field(ge=0, le=1)
    # draw candidates to drop and the digit to fix from a pass of their own without dropout, as published, which costs a
    # third more; false: from the last loop of the pass that is trained
    second_pass: bool
    # dihedral transforms (numbered in dataset/symmetry.py) of which each pass sees the board by a random one; []: none
    turns: list[int]
    # rename the tokens of `fills` at random in each pass
    relabel: bool
    # probability that training drops a value which a part of a block adds to its input
    dropout: float = Field(ge=0, lt=1)
    # the same at evaluation
    eval_dropout: float = Field(ge=0, lt=1)
    # supervision steps that a row gets at most
    halt_max_steps: int = Field(gt=0)
    # dtype of activations; auto: bfloat16 on CUDA, float32 elsewhere; float16 is for evaluation only
    forward_dtype: Literal["auto", "float32", "bfloat16", "float16"]

    @model_validator(mode="after")
    def _check(self):
        turned = 4 if self.pos_encodings == "rope2d" else 1
        if self.num_heads and (self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % turned):
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}"
                             + (", and each head of width 4, for pos_encodings=rope2d" if turned > 1 else ""))
        if not {*self.turns} <= {*range(8)}:
            raise ValueError(f"turns={self.turns}: there are the transforms 0 to 7")
        self.check_tokens(blank=[self.blank], fills=self.fills)
        return self

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """See `models.backbone.BackboneConfig.fixed_sizes`."""
        return ("seq_len",) * (self.pos_encodings == "learned2d") + ("vocab_size",)

    def __getattr__(self, name: str):
        """An option of other architectures that this one cannot be told has the value at which it is off."""
        option = BackboneConfig.model_fields.get(name)
        if option is None or option.is_required():
            return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers
        return option.default


class LDTNetwork(nn.Module):
    """From candidates (B, L, V) to the logits of each loop."""

    P = 0  # there is no position before the cells in the latents
    latent_names: tuple[str, ...] = ()
    draws_initial_latents = False
    fills: Tensor  # (V,) bool, tokens that a cell which is not given may hold
    playable: Tensor  # (V,) bool, tokens that some cell may hold: all but padding and the blank, which is no answer
    turned: Tensor  # (turns, L), the cell that stands at each place

    def __init__(self, config: LDTConfig):
        super().__init__()
        self.config = c = config
        self.dtype, V = getattr(torch, c.forward_dtype), c.vocab_size
        places = board_positions(1, c.seq_len)  # CLS comes first, and lies apart from the board
        tokens, self.ways = torch.arange(V), sorted(set(c.fills)) or [*range(c.blank + 1, V)]  # ways to fill a cell
        self.register_buffer("fills", torch.isin(tokens, torch.tensor(self.ways)), persistent=False)
        self.register_buffer("playable", self.fills | (tokens > 0) & (tokens != c.blank), persistent=False)
        self.register_buffer("turned", torch.from_numpy(dihedral_indices(math.isqrt(c.seq_len)))[c.turns or [0]],
                             persistent=False)
        self.build(places)

    def build(self, places: Tensor) -> None:
        """Make all that has weights. `places` (1 + L, 2): row and column of CLS and of each cell."""
        c, D, V = self.config, self.config.hidden_size, self.config.vocab_size
        self.embed_candidates = OuterLinear(V, D, bias=True)
        self.cls = Embedding(1, D, std=CLS_STD, dtype=self.dtype)
        self.rotary = RotaryPositions(places, D // c.num_heads) if c.pos_encodings == "rope2d" else None
        if self.rotary is None:
            side = math.isqrt(c.seq_len)
            self.embed_rows, self.embed_columns = (Embedding(side, D, std=1.0, dtype=self.dtype) for _ in range(2))
        self.layers = nn.ModuleList(PreNormBlock(D, c.num_heads, c.expansion) for _ in range(c.L_layers))
        self.loop_norm = LayerNorm(D)
        self.keep_head, self.digit_head = OuterLinear(D, V, bias=True), OuterLinear(D, V, bias=True)
        self.conflict_head = OuterLinear(D, 1, bias=True)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of a latent of one puzzle: (L, V)."""
        return self.config.seq_len, self.config.vocab_size

    def initial_latents(self, keys: Tensor | None = None) -> tuple[Tensor, ...]:
        """None: the candidates start from the puzzle (`start`)."""
        return ()

    def matrices(self) -> list[Tensor]:
        """See `models.layers.matrices_of`."""
        return matrices_of(self)

    def networks(self) -> list[nn.Module]:
        """What `compile_scope=stack` compiles by itself."""
        return list(self.layers)

    def start(self, inputs: Tensor) -> Tensor:
        """The candidates (B, L, V) of puzzles (B, L): what is given, and all `fills` in the other cells."""
        given = F.one_hot(inputs.long(), self.config.vocab_size).bool()
        return torch.where((inputs == self.config.blank)[..., None], self.fills, given).to(self.dtype)

    def forward(self, candidates: Tensor, keys: Tensor, number: int, dropped: float, every_loop: bool
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep and digit logits (B, n, L, V) and conflict logits (B, n), float32, of all n loops or the last alone.

        `number`: of the pass in its supervision step; `dropped`: the probability of dropout.
        """
        cells, names = self._view(keys, number)
        x = self.embed(permuted(candidates, cells, names))
        h, found = x, []
        for loop in range(self.config.loops):
            drop = Dropout(mix32((keys + (DROPOUT * (number + 1) + loop)) & MASK32), dropped) if dropped else None
            h, whole = self.loop(h + x, drop)
            if every_loop or loop == self.config.loops - 1:
                found.append(self.heads(h, whole))
        keep, digit, conflict = (torch.stack(parts, 1).float() for parts in zip(*found))
        back = cells.argsort(1), names.argsort(1)
        return permuted(keep, *back), permuted(digit, *back), conflict

    def embed(self, candidates: Tensor) -> Tensor:
        """h₀ of the paper, (B, L, D)."""
        return self.embed_candidates(candidates)

    def loop(self, h: Tensor, drop: Dropout | None) -> tuple[Tensor, Tensor]:
        """LN(h + g(h)) (B, L, D), and what g makes of CLS (B, D), which stands for the whole board."""
        cls = self.cls.embedding_weight.to(self.dtype).expand(len(h), 1, -1)
        z = self.through_layers(torch.cat((cls, h if self.rotary else h + self._positions()), 1), drop)
        return self.loop_norm(h + z[:, 1:]), z[:, 0]

    def through_layers(self, z: Tensor, drop: Dropout | None) -> Tensor:
        """What the layers of g make of z."""
        for number, layer in enumerate(self.layers):
            # a tensor: torch.compile would make another graph for each int, here one for all layers
            z = layer(z, self.rotary) if drop is None else layer(z, self.rotary, drop,
                                                                 torch.full_like(drop.keys, number))
        return z

    def heads(self, h: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits to keep a candidate and of the digit, (B, L, V), and of a conflict (B,)."""
        return self.keep_head(h), self.digit_head(h), self.conflict_head(whole)[:, 0]

    def _positions(self) -> Tensor:
        """(L, D)"""
        rows, columns = (table.embedding_weight.to(self.dtype) for table in (self.embed_rows, self.embed_columns))
        return (rows[:, None] + columns[None]).flatten(0, 1)

    def _view(self, keys: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Which own cell stands at each place (B, L), and which own token has each name (B, V), in this pass."""
        return drawn_view(keys, number, self.turned, self.fills, len(self.ways) if self.config.relabel else 0)


class LDT(ACTModel):
    """Latents of the carry, zeros and ones: the candidates (B, L, V), and those that deduction removed. At evaluation
    with `backtrack` also the states (B, backtrack, L, V) to go back to, latest first; one without candidates is none.
    """

    Config, Recursion, GUESSES = LDTConfig, LDTNetwork, True
    config: LDTConfig
    inner: LDTNetwork

    def __init__(self, config: dict):
        super().__init__(config)
        if self.config.learns_halting:
            raise ValueError("arch.name=recursive_reasoning.ldt@LDT halts by its candidates and learns from its loops; "
                             "set arch.loss.name=losses@LatticeLossHead")

    @property
    def steps_known(self) -> None:
        """Candidates and conflicts decide, in training and at evaluation."""
        return None

    def compile_recursion(self, scope: str = "recursion", cuda_graphs: bool = False) -> None:
        """See `ACTModel.compile_recursion`. Raises ValueError for CUDA graphs, which hold one shape of results."""
        if cuda_graphs:
            raise ValueError("cuda_graphs=True: LDT's passes give results of two shapes; leave it out")
        super().compile_recursion(scope)

    def initial_carry(self, batch: dict[str, Tensor], seed: int = 0, first_row: int = 0) -> Carry:
        carry = super().initial_carry(batch, seed, first_row)
        nothing = torch.zeros_like(self.inner.start(batch["inputs"]))
        latents: tuple[Tensor, ...] = (nothing, nothing.clone())
        if self.config.backtrack and not self.training:
            latents += (nothing[:, None].repeat(1, self.config.backtrack, 1, 1),)
        return replace(carry, latents=latents)

    def forward(self, carry: Carry, batch: dict[str, Tensor],
                judge: Judge | None = None) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step. Of the outputs, `logits` are the last loop's for the digit of each cell (B, L, V),
        `q_halt_logits` (B,) those for "no conflict", `candidates` (B, L, V) are left after the step, and `solved`
        (B,) says that each cell has one. The logits of all loops and what they were computed from serve the loss.
        """
        carry, c = self.refill(carry, batch), self.config
        seen, removed, *others = (latent.bool() for latent in carry.latents)
        keep, digit, conflict = self.inner(carry.latents[0], carry.noise_key, 0,
                                           c.dropout if self.training else c.eval_dropout, self.training)
        outputs = {"keep_logits": keep, "digit_logits": digit, "conflict_logits": conflict, "seen": seen}
        with torch.no_grad():
            if self.training and c.second_pass:
                keep, digit, conflict = self.inner(carry.latents[0], carry.noise_key, 1, 0.0, False)
            keep, digit, conflict = (every.detach()[:, -1] for every in (keep, digit, conflict))
            dropped = seen & (keep.sigmoid() < c.drop_below) & (carry.current_data["inputs"] == c.blank)[..., None]
            left = seen & ~dropped
            limit = c.conflict_above if self.training else c.eval_conflict_above
            in_conflict, solved = judged(seen, left, keep, conflict.sigmoid() > limit, c.doubt_below, c.doubt_open)
            waits = in_conflict | solved
            if c.decide == "stuck":
                waits |= dropped.flatten(1).any(1)
            taught = (carry.current_data["labels"], c.true_decisions if self.training else 0.0)
            guess = guessed(left, digit, carry.noise_key, c.temperature, c.decide_cell, taught)
            after = torch.where(waits[:, None, None], left, guess)
            steps, removed = carry.steps + 1, removed | dropped
            if others:
                after, others, in_conflict = taken_back(left, after, others[0], in_conflict)
                removed &= ~after
            latents = (after, removed, *others)
            carry = replace(carry, latents=tuple(latent.to(self.inner.dtype) for latent in latents),
                            steps=steps, noise_key=(carry.noise_key + 2 * WEYL) & MASK32,
                            halted=self._ended(solved, in_conflict, after, steps, carry))
        return carry, outputs | {"logits": digit, "q_halt_logits": -conflict, "candidates": after, "removed": removed,
                                 "solved": solved}

    def restarted(self, carry: Carry, puzzles: dict[str, Tensor]) -> tuple[Tensor, ...]:
        candidates, *others = carry.latents
        return (where_rows(carry.halted, self.inner.start(puzzles["inputs"]), candidates),
                *(where_rows(carry.halted, torch.zeros_like(latent), latent) for latent in others))

    def _ended(self, solved: Tensor, in_conflict: Tensor, after: Tensor, steps: Tensor, carry: Carry) -> Tensor:
        """Which rows (B,) are done with their puzzle."""
        if self.training:
            lost = Truth(after, carry.current_data).lost
            in_conflict = lost & (in_conflict | (uniforms(carry.noise_key, ENDS, 1)[:, 0] < self.config.lost_ends))
        return solved | in_conflict | (steps >= self.config.halt_max_steps)
