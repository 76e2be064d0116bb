"""The base class of architectures: config, embedding of the puzzle, initial latents and output heads.

    x = √D · (puzzle embedding, then the tokens' embeddings [+ positions])   (B, P+L, D), the question of the paper
    y = z_H, the answer latent, and z = z_L, the reasoning latent, start from fixed vectors
    logits = lm_head(y), and two halting logits from y's first position

Regression data have floats in place of tokens. `embed_tokens` projects them, and `lm_head` gives the predictions. Both
compute in float32 whatever the dtype of the activations, because bfloat16 keeps only 8 significant bits: 2021 and 2024
would be the same number.

An architecture subclasses `Backbone` and adds its networks and its recursion. An example is in docs/your-own-model.md.
"""
import math
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import float8
from models.act import MASK32, mix32, normal
from models.layers import (
    ROPE_BASE,
    STD_OF_TRUNCATED_NORMAL,
    Block,
    Dropout,
    Embedding,
    Linear,
    OuterLinear,
    RotaryPositions,
    board_positions,
    matrices_of,
    truncated_normal_,
)
from models.sparse_embedding import SparseEmbedding

DROPOUT = 0x5D0B  # of a row's key, makes a key for dropout
Q_HEAD_BIAS = -5.0  # "almost surely wrong, do not halt" before anything is learned


class DerivedConfig(BaseModel):
    """What the data and the loss head decide about a model. These are not settings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # filled from the data: rows of a batch on one rank, sequence length L, tokens V, rows of the embedding table
    batch_size: int = 0
    seq_len: int = 0
    vocab_size: int = 0
    # for regression data, in place of V: floats at each position of the input, and of the target
    latent_dim: int = 0
    output_dim: int = 0
    num_puzzle_identifiers: int = 0

    # filled from the loss head: whether the halting logits are trained; if not, training gives every puzzle N_sup steps
    learns_halting: bool = True

    def notices(self) -> list[str]:
        """Warnings about settings that work but are probably not meant. They are printed at the start."""
        return []

    def check_tokens(self, **tokens: Iterable[int]) -> None:
        """Raise ValueError for data of floats, and for a token that they have not, by the option that names it."""
        if self.latent_dim:
            raise ValueError(f"{type(self).__name__.removesuffix('Config')} is for puzzles of tokens, and these data "
                             "hold floats; use arch=trm")
        for option, named in tokens.items():
            foreign = [token for token in named if self.vocab_size and not 0 <= token < self.vocab_size]
            if foreign:
                raise ValueError(f"{option}: there is no token {foreign[0]} among {self.vocab_size}; name others")


class BackboneConfig(DerivedConfig):
    """Options that all architectures share, under their published names."""

    # published keys that an architecture accepts without using them; they keep their defaults
    UNUSED_KEYS: ClassVar[tuple[str, ...]] = ()

    # width D of the latents
    hidden_size: int = Field(gt=0)
    # number of attention heads, each of width D / num_heads (unused with mlp_t)
    num_heads: int = Field(gt=0)
    # inner width of each SwiGLU as a multiple of its input width, before the factor 2/3 and rounding up to 256
    expansion: float = Field(gt=0)
    # normalise inside each SwiGLU, which Muon needs at high learning rates (arXiv 2601.19085)
    glu_norm: bool = False
    # blocks in the network
    L_layers: int = Field(gt=0)
    # how attention is told positions; rope2d: half of each head is rotated by the row and half by the column of a cell
    pos_encodings: Literal["none", "rope", "rope2d", "learned"]
    # of the slowest and the fastest rotation of rope and rope2d, the ratio of wave lengths
    rope_base: float = Field(ROPE_BASE, gt=1)
    # mix positions by a SwiGLU along the sequence instead of attention
    mlp_t: bool = False
    # let no position see later ones, as predicting the next latent needs; halting then reads the last position
    causal: bool = False
    # width of the puzzle embeddings; 0: no puzzle embeddings
    puzzle_emb_ndim: int = Field(ge=0)
    # positions P before the sequence that hold the puzzle embedding; 0: as many as its width needs
    puzzle_emb_len: int = Field(ge=0)
    # learned positions P before the sequence, the same for all puzzles, in place of a puzzle embedding; 0: none
    register_tokens: int = Field(0, ge=0)
    # standard deviation of their initial values in x, where those of tokens have 1
    register_std: float = Field(1.0, gt=0)
    # dtype of activations; auto: bfloat16 on CUDA and on a CPU with AMX, float32 elsewhere, and what it was where a run
    # goes on; float16 is for evaluating old checkpoints only, since small gradients vanish in it
    forward_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # N_sup, the most supervision (ACT) steps that a puzzle gets
    halt_max_steps: int = Field(gt=0)
    # probability that a row must take a random minimum of steps before it may halt
    halt_exploration_prob: float = Field(ge=0, le=1)
    # true: halt when q_halt > 0; false: when q_halt > q_continue, which learns from the next step's Q values
    no_ACT_continue: bool = True
    # chains of reasoning that a puzzle has in training, from starts of their own; only the one with the lowest loss
    # learns, and its answer goes on in all (arXiv 2601.19085). Evaluation has one chain
    wta_chains: int = Field(1, gt=0)
    # share of training's puzzles that start from an answer with errors, in place of the first latent (DEC's anchors)
    anchor_fraction: float = Field(0.0, ge=0, le=1)
    # the largest share of wrong cells in such an answer; each has a share of its own, drawn evenly from 0 on
    anchor_corruption: float = Field(0.0, ge=0, le=1)
    # what halts a puzzle before N_sup steps: q: its halting logit (`no_ACT_continue`); residual: its answer latent y
    # moves less than `halt_below` in a step, as a share of its largest entry (arXiv 2606.18206)
    halt_on: Literal["q", "residual"] = "q"
    # relative movement below which y counts as fixed, for halt_on: residual
    halt_below: float = Field(0.1, gt=0)
    # let training halt before N_sup steps
    act_enabled: bool = True
    # let evaluation halt before N_sup steps
    act_inference: bool = False
    # standard deviation of random initial latents, drawn for each puzzle; 0: fixed vectors (arXiv 2605.21488)
    initial_state_std: float = Field(0.0, ge=0)
    # λ of a pass z ← (1−λ)·z + λ·f(z + …); 1: z ← f(z + …)
    relaxation: float = Field(1.0, gt=0, le=1)
    # standard deviation of the noise that is added after each pass, at evaluation as well
    noise_scale: float = Field(0.0, ge=0)
    # probability that training drops a value which a part of a block adds to its input
    dropout: float = Field(0.0, ge=0, lt=1)
    # the same at evaluation
    eval_dropout: float = Field(0.0, ge=0, lt=1)
    # compute passes that have a gradient again in backward, which takes their time once more and saves their memory
    checkpoint_passes: bool = False
    # in training, multiply by weights in float8 in passes without gradient, but along the sequence (models/float8.py);
    # float8_emulated: the same numbers on any device, slowly
    no_grad_dtype: Literal["same", "float8", "float8_emulated"] = "same"

    def model_post_init(self, _context) -> None:
        for key in self.UNUSED_KEYS:
            setattr(self, key, type(self).model_fields[key].default)

    @model_validator(mode="after")
    def _check(self):
        if not self.mlp_t and self.hidden_size < self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} leaves no width for "
                             f"num_heads={self.num_heads}")
        if self.causal and self.mlp_t:
            raise ValueError("mlp_t=True mixes all positions, so nothing in it can be causal; use "
                             "mlp_t=False, or causal=False")
        if self.causal and self.act_inference:
            raise ValueError("act_inference=True halts by the whole sequence, so with "
                             "causal=True an early prediction would depend on later inputs; "
                             "use act_inference=False")
        if self.no_grad_dtype != "same" and self.hidden_size % float8.MULTIPLE:
            raise ValueError(f"no_grad_dtype={self.no_grad_dtype} needs a hidden_size that is a multiple of "
                             f"{float8.MULTIPLE}, and it is {self.hidden_size}")
        rope, turned = self.pos_encodings, {"rope": 2, "rope2d": 4}.get(self.pos_encodings)
        if turned and self.mlp_t:
            raise ValueError(f"pos_encodings={rope} has no effect with mlp_t=True; "
                             "use pos_encodings=none")
        if turned and self.head_width % turned:
            raise ValueError(f"pos_encodings={rope} turns pairs: hidden_size / num_heads = "
                             f"{self.head_width} must be "
                             + ("even" if turned == 2 else "a multiple of 4"))
        if not turned and self.rope_base != ROPE_BASE:
            raise ValueError(f"rope_base={self.rope_base} has no effect with pos_encodings={rope}; use "
                             "pos_encodings=rope or rope2d, or remove it")
        if self.puzzle_emb_len and self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            raise ValueError(f"puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit "
                             f"into puzzle_emb_len={self.puzzle_emb_len} positions "
                             f"of hidden_size={self.hidden_size}; use "
                             "puzzle_emb_len=0 for as many as needed")
        if self.register_tokens and (self.puzzle_emb_ndim or self.puzzle_emb_len):
            raise ValueError(f"register_tokens={self.register_tokens} stands in place of a puzzle embedding; "
                             "set puzzle_emb_ndim=0 and puzzle_emb_len=0, or register_tokens=0")
        if self.halt_on == "q" and self.halt_below != 0.1:
            raise ValueError(f"halt_below={self.halt_below} has no effect with halt_on=q; use halt_on=residual, "
                             "or remove it")
        if self.anchor_corruption and not self.anchor_fraction:
            raise ValueError(f"anchor_corruption={self.anchor_corruption} has no effect with anchor_fraction=0; "
                             "set anchor_fraction, or remove it")
        if self.anchor_fraction and self.latent_dim:
            raise ValueError(f"anchor_fraction={self.anchor_fraction}: puzzles start from answers of tokens, and these "
                             "data hold floats; use anchor_fraction=0")
        if not self.register_tokens and self.register_std != 1:
            raise ValueError(f"register_std={self.register_std} has no effect with register_tokens=0; "
                             "set register_tokens, or remove it")
        return self

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """Sizes of the data that the weights have, so that these cannot be asked puzzles which differ in them."""
        along = self.mlp_t or self.pos_encodings == "learned"
        return ("seq_len",) * along + ("vocab_size",) * (not self.latent_dim)

    def notices(self) -> list[str]:
        """See `DerivedConfig.notices`."""
        if self.mlp_t or self.hidden_size % self.num_heads == 0:
            return []
        return [f"arch.hidden_size={self.hidden_size} is no multiple of "
                f"arch.num_heads={self.num_heads}: heads are {self.head_width} wide, "
                f"{self.head_width * self.num_heads} together"]

    @property
    def prefix_len(self) -> int:
        """P, the positions before the sequence. The Q head reads the first. With neither registers nor a puzzle
        embedding, their x is zero."""
        return self.register_tokens or self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)


def q_head(width: int) -> OuterLinear:
    """From a latent (D,) to the two halting logits, which say at first that the answer is almost surely wrong."""
    head = OuterLinear(width, 2, bias=True)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, Q_HEAD_BIAS)
    return head


class Backbone(nn.Module):
    """The network of an architecture. Subclasses add their networks and `supervision_step`."""

    SHORT_CONV = False  # whether each SwiGLU also sees the position before (`models.layers.ConvSwiGLU`)

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        self.P = config.prefix_len
        self.dtype = getattr(torch, config.forward_dtype)
        self.scale = math.sqrt(config.hidden_size)
        self.build_ends()
        self.rotary = None
        if config.pos_encodings in ("rope", "rope2d"):
            self.rotary = RotaryPositions(self.places(), config.head_width, config.rope_base)
        self.latent_names: list[str] = []

    def build_ends(self) -> None:
        """Build what `embed` and `heads` need."""
        config, D = self.config, self.config.hidden_size
        if config.latent_dim:
            self.embed_tokens: nn.Module = OuterLinear(config.latent_dim, D, bias=True)
            with torch.no_grad():
                self.embed_tokens.weight /= self.scale  # small as an embedding's weights, since `embed` scales them up
            self.lm_head = OuterLinear(D, config.output_dim, bias=True)
        else:
            self.embed_tokens = Embedding(config.vocab_size, D, std=1 / self.scale,
                                          dtype=self.dtype)
            self.lm_head = OuterLinear(D, config.vocab_size)
        self.q_head = q_head(D)
        if config.puzzle_emb_ndim:
            self.puzzle_emb = SparseEmbedding(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        if config.register_tokens:
            self.registers = Embedding(self.P, D, std=config.register_std / self.scale, dtype=self.dtype)
        if config.pos_encodings == "learned":
            self.embed_pos = Embedding(self.P + config.seq_len, D, std=1 / self.scale, dtype=self.dtype)

    def places(self) -> int | Tensor:
        """Where the positions are that rotary encodings tell apart, as `RotaryPositions` takes it."""
        config = self.config
        return board_positions(self.P, config.seq_len) if config.pos_encodings == "rope2d" else self.P + config.seq_len

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of a latent of one puzzle: (P+L, D)."""
        return self.P + self.config.seq_len, self.config.hidden_size

    def add_initial_latent(self, name: str) -> None:
        """Draw the fixed vector (D,) that a latent starts from. It is saved with the weights and not trained.

        The first latent added is y.
        """
        self.register_buffer(name, truncated_normal_(torch.empty(self.config.hidden_size), std=1.0).to(self.dtype))
        self.latent_names.append(name)

    @property
    def draws_initial_latents(self) -> bool:
        """Whether initial latents are drawn for each row, and no fixed vectors."""
        return self.config.initial_state_std > 0

    def initial_latents(self, keys: Tensor | None = None, chain: int = 0) -> tuple[Tensor, ...]:
        """The fixed vectors (D,) or, with `initial_state_std`, latents (B, P+L, D) drawn from the rows' keys (B,).

        Each of the `wta_chains` chains has its own: the fixed vectors rolled by a part of their length, which makes
        them nearly orthogonal, or other draws.
        """
        c = self.config
        if keys is None or not self.draws_initial_latents:
            turn = chain * c.hidden_size // c.wta_chains
            return tuple(getattr(self, name).roll(turn) for name in self.latent_names)
        scale, first = c.initial_state_std / STD_OF_TRUNCATED_NORMAL, chain * len(self.latent_names)
        # Streams -1, -2, …: the noise of the passes has the streams from 0 on.
        return tuple(scale * normal(keys, -1 - first - i, *self.latent_shape, cut=2.0).to(self.dtype)
                     for i in range(len(self.latent_names)))

    def stack(self, layers: int) -> "Stack":
        c = self.config
        positions = self.P + c.seq_len
        stack = Stack([Block(c.hidden_size, positions, c.num_heads, c.expansion, c.mlp_t, self.SHORT_CONV, c.causal,
                            c.glu_norm) for _ in range(layers)])
        if c.no_grad_dtype != "same":
            stack.multiply_without_gradient_by(float8.PRODUCTS[c.no_grad_dtype])
        return stack

    def networks(self) -> list["Stack"]:
        return [module for module in self.modules() if isinstance(module, Stack)]

    def matrices(self) -> list[Tensor]:
        """See `models.layers.matrices_of`."""
        return matrices_of(self)

    def supervision_step(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: "Passes") -> tuple[Tensor, ...]:
        """Run the recursion and return the new latents, y first. Each pass is `update(network, z, injection)`."""
        raise NotImplementedError

    def passes(self, keys: Tensor | None) -> "Passes":
        """What computes the passes of one supervision step."""
        dropped = self.config.dropout if self.training else self.config.eval_dropout
        return Passes(self.config, self.rotary, keys, dropped)

    def started(self, latents: tuple[Tensor, ...], x: Tensor, new: Tensor) -> tuple[Tensor, ...]:
        """The latents that a supervision step starts from. `new`: which rows (B,) have a new puzzle. An architecture
        may let the question x go into these, with gradient; here they stay as they are."""
        return latents

    def forward(self, latents: tuple[Tensor, ...], x: Tensor, keys: Tensor | None = None):
        """Run one supervision step. Returns latents without gradient, logits (B, L, V) and halting logits (B, 2).

        `keys` (B,): random keys of the rows, for the noise of the passes.
        """
        latents = self.supervision_step(latents, x, self.passes(keys))
        return tuple(z.detach() for z in latents), *self.heads(latents[0])

    def embed(self, data: dict[str, Tensor]) -> Tensor:
        """The question x (B, P+L, D), from `inputs` and `puzzle_identifiers` (B,) of the batch. Inputs are tokens
        (B, L) or floats (B, [L,] width)."""
        inputs = data["inputs"]
        if self.config.latent_dim:
            inputs = inputs.view(len(inputs), self.config.seq_len, -1)
        x = self.embed_tokens(inputs).to(self.dtype)
        if self.P:
            x = torch.cat((self._prefix(data["puzzle_identifiers"], x), x), dim=1)
        if self.config.pos_encodings == "learned":
            x = (x + self.embed_pos.embedding_weight.to(self.dtype)) / math.sqrt(2)  # a sum of two doubles the variance
        return self.scale * x

    def _prefix(self, identifiers: Tensor, tokens: Tensor) -> Tensor:
        """The puzzle embeddings as P positions (B, P, D), padded with zeros, or the registers."""
        B, D = tokens.shape[0], self.config.hidden_size
        if self.config.register_tokens:
            return self.registers.embedding_weight.to(self.dtype).expand(B, self.P, D)
        if not self.config.puzzle_emb_ndim:
            return tokens.new_zeros(B, self.P, D)
        vector = self.puzzle_emb(identifiers).to(self.dtype)
        return F.pad(vector, (0, self.P * D - vector.shape[-1])).view(B, self.P, D)

    def heads(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V), or predictions (B, L, width) in float32, and the logits of halt and continue (B, 2), also
        in float32."""
        sees_all = y[:, -1 if self.config.causal else 0]
        answer = y.float() if self.config.latent_dim else y
        return self.lm_head(answer)[:, self.P:], self.q_head(sees_all).float()


class Passes:
    """Computes the passes of one supervision step: `z = update(network, z, injection)` is

        z ← (1−λ)·z + λ·f(z + injection) + ε

    with λ = `relaxation`, and noise ε of deviation `noise_scale`. f drops values with probability `dropped`. Noise and
    dropout are functions of the row's key and of the number of the pass in the step.
    """

    def __init__(self, config: BackboneConfig, rotary: RotaryPositions | None, keys: Tensor | None,
                 dropped: float = 0.0):
        self.config, self.rotary, self.keys, self.dropped = config, rotary, keys, dropped
        self.number = 0

    def __call__(self, network: "Stack", z: Tensor, injection: Tensor | int = 0) -> Tensor:
        config = self.config
        drop = () if self.keys is None or not self.dropped else (
            Dropout(mix32((self.keys + (DROPOUT + self.number)) & MASK32), self.dropped),)
        after = self._after(network, z, injection, drop)
        if config.relaxation != 1:
            after = torch.lerp(z, after, config.relaxation)
        if config.noise_scale:
            after = after + config.noise_scale * normal(self.keys, self.number, *z.shape[1:]).to(z.dtype)
        self.number += 1
        return after

    def _after(self, network: "Stack", z: Tensor, injection: Tensor | int, drop: tuple[Dropout, ...]) -> Tensor:
        """f(z + injection)."""
        def f(z: Tensor, injection: Tensor | int) -> Tensor:
            return network(z, injection, self.rotary, *drop)

        if self.config.checkpoint_passes and torch.is_grad_enabled():
            # The random numbers of a pass are functions of keys: no generator's state need be kept for backward.
            return checkpoint(f, z, injection, use_reentrant=False, preserve_rng_state=False)
        return f(z, injection)


class Stack(nn.Module):
    """A network f: it adds the injection to the latent and passes the sum through its blocks."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def multiply_without_gradient_by(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Let `product` compute the linear maps in training's passes without gradient."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.product_without_gradient = product

    def forward(self, z: Tensor, injection: Tensor | int, rotary: RotaryPositions | None,
                drop: Dropout | None = None) -> Tensor:
        z = z + injection
        for number, layer in enumerate(self.layers):
            z = layer(z, rotary) if drop is None else layer(z, rotary, drop, number)
        return z
