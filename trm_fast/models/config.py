"""The configuration of a model: the keys of a run's ``model:`` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SerializeAsAny,
    Strict,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from trm_fast.models.halting import RULES
from trm_fast.models.heads import HEADS, HeadConfig, HeadInputs, TokensConfig
from trm_fast.nn.config import NetworkConfig
from trm_fast.nn.groups import PARTITIONS, Grid, partitions
from trm_fast.nn.precision import auto_dtype
from trm_fast.validation import Section, explain

MAX_SIZE = 1 << 20
"""The largest width, number of tokens or number of positions."""

MAX_STEPS = 1_000_000
"""The largest number of supervision steps."""

MAX_DEPTH = 100_000
"""The largest number of layers that a supervision step applies."""

GridShape = Annotated[tuple[PositiveInt, PositiveInt], Strict(False)]  # YAML and JSON have no tuples


def _head(section: Any) -> HeadConfig:
    """Validates ``model.head`` with the configuration class of its ``kind``, by default ``tokens``."""
    if isinstance(section, HeadConfig):
        return section
    if not isinstance(section, Mapping):
        raise ValueError("a head must be a section of keys")
    config = HEADS[HEADS.require(section.get("kind", "tokens"))].Config
    try:
        return config.model_validate(section)
    except ValidationError as error:
        raise ValueError(explain(error, config, "")) from None


AnyHead = Annotated[SerializeAsAny[HeadConfig], BeforeValidator(_head)]


class Depth(NamedTuple):
    """The depth of recursion. The shapes of the weights do not depend on it."""

    T_cycles: int
    n_latent_steps: int
    max_supervision_steps: int


class TRMConfig(Section):
    """The configuration of a Tiny Recursive Model (arXiv 2510.04871, section 4).

    A supervision step runs ``T_cycles`` cycles, all but the last without gradient. A cycle has ``n_latent_steps``
    latent steps and one answer step. Each of these steps applies the same ``num_layers`` layers once.

    Raises:
        ValueError: a value is invalid, or values contradict each other.

    Examples:
        >>> TRMConfig.for_sudoku().effective_depth
        42
    """

    inputs: Literal["tokens", "values", "bags"] = "tokens"
    """The content of each position: a token, numbers, or an unordered bag of tokens."""
    head: AnyHead = Field(default_factory=TokensConfig)
    """The head that makes the answer: its kind (``trm_fast.models.heads``) and its keys."""
    vocab_size: int = Field(11, ge=2, le=MAX_SIZE)
    """Number of tokens, padding included."""
    input_width: int = Field(1, ge=1, le=MAX_SIZE)
    """Numbers per position, for ``inputs: values``."""
    seq_len: int = Field(81, ge=1, le=MAX_SIZE)
    """Number of positions per example, without the prefix."""
    roles: int = Field(0, ge=0, le=MAX_SIZE)
    """Number of roles, one of which each position has; they are added to the embedding. 0: none."""
    features: int = Field(0, ge=0, le=MAX_SIZE)
    """Further numbers per position, which are added to the embedding. 0: none."""

    hidden_size: int = Field(512, ge=1, le=MAX_SIZE)
    """Channels of every position, D."""
    num_layers: int = Field(2, ge=1, le=256)
    """Number of layers that each latent step and each answer step applies."""
    num_heads: int = Field(8, ge=1, le=MAX_SIZE)
    """Number of attention heads; not used by the token mixer."""
    expansion: float = Field(4.0, gt=0, le=1000)
    """A SwiGLU's inner width is about 2/3 of this times its width."""
    inner_multiple: int = Field(256, ge=1, le=MAX_SIZE)
    """A SwiGLU's inner width is rounded up to a multiple of this."""
    activation: Literal["swiglu", "gated_norm"] = "swiglu"
    """``gated_norm``: sigmoid(gate) * RMSNorm(gate * up) in the place of silu(gate) * up (arXiv 2601.19085), which
    large steps of Muon need. No fused kernel computes it."""

    mixing: Literal["mlp", "attention", "groups"] = "mlp"
    """Tokens exchange information by a SwiGLU over tokens, by attention, or by means over groups of positions."""
    groups: Annotated[
        tuple[Annotated[str, AfterValidator(PARTITIONS.require)], ...], Strict(False), Field(max_length=16)
    ] = ()
    """Partitions of the positions (``trm_fast.nn.groups``), for ``mixing: groups``; by default those of the task."""
    group_scale: float = Field(1.5, gt=0, le=1e6)
    """Factor of the means over groups."""
    symbols: Literal["plain", "equivariant"] = "plain"
    """``equivariant``: the state has a vector for each symbol at each position, and the model treats all symbols
    alike. Only with ``mixing: groups``."""
    special_tokens: int = Field(0, ge=0, le=MAX_SIZE)
    """Number of tokens, the first of the vocabulary, that are no symbols, such as padding."""
    positions: Literal["none", "rope", "learned", "grid"] = "none"
    """How positions are told apart: not at all, by rotary embeddings (``rope``, in attention), by a learned embedding
    of each position, or by learned embeddings of its row and its column (``grid``)."""
    grid_shape: GridShape | None = None
    """Rows and columns, for ``positions: grid`` and ``mixing: groups``."""
    box_shape: GridShape | None = None
    """Rows and columns of a box of the grid, for the partitions that are made of boxes."""
    rope_theta: float = Field(1e4, gt=0, le=1e12)
    """Base of the rotary embeddings' wavelengths, for ``positions: rope``."""
    causal: bool = False
    """Whether each position reads only itself and earlier ones, as a model that writes text must."""

    norm_position: Literal["post", "pre"] = "post"
    """Where a sublayer is normalized: ``post``, after the residual addition, as published, or ``pre``, at its input."""
    norm_eps: float = Field(1e-5, gt=0, le=1)
    """Added to the mean square in RMSNorm, so that it is never 0."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each sublayer's output that training sets to 0."""

    state: Literal["dual", "single"] = "dual"
    """``dual``: an answer state y and a latent state z, as published; ``single``: one state for both."""
    latent_width: int | None = Field(None, ge=1, le=MAX_SIZE)
    """Channels of the latent state, which linear maps convert to ``hidden_size``; None: ``hidden_size``."""
    answer_width: int | None = Field(None, ge=1, le=MAX_SIZE)
    """Channels of the answer state, as ``latent_width``. Only with ``state: dual``."""
    inject_last: bool = True
    """With ``state: single``: whether the last application of the network in a cycle also adds x."""
    initial_states: int = Field(1, ge=1, le=1024)
    """Number of initial states, K, each with vectors of its own. With several, training advances all K states of an
    example, and only the one with the lowest loss learns (winner-takes-all, arXiv 2601.19085)."""
    T_cycles: int = Field(3, ge=1, le=1000)
    """Cycles per supervision step, T; all but the last run without gradient."""
    n_latent_steps: int = Field(6, ge=0, le=1000)
    """Latent steps per cycle, n; one answer step follows them."""
    max_supervision_steps: int = Field(16, ge=1, le=MAX_STEPS)
    """Maximum number of supervision steps per example in training."""
    q_threshold: float = Field(0.5, gt=0, lt=1)
    """Confidence, sigmoid(q), above which a row halts."""

    halting: Annotated[str, AfterValidator(RULES.require)] = "row"
    """The halting rule (``trm_fast.models.halting``). ``row``: each row halts by its own logit, as published;
    ``batch``: all rows halt when the mean of their confidences exceeds ``q_threshold``; ``never``: no row halts before
    ``max_supervision_steps``."""

    prefix_tokens: int = Field(0, ge=0, le=MAX_SIZE)
    """Positions before the sequence that hold the puzzle embedding."""
    puzzle_embedding_size: int = Field(512, ge=1, le=MAX_SIZE)
    """Size of a puzzle's embedding; the rest of the prefix is zero."""
    num_puzzles: int = Field(1, ge=1, le=1 << 30)
    """Number of rows of the puzzle embedding."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.symbols == "equivariant":
            self._check_symbols()
        if self.total_tokens > MAX_SIZE or self.effective_depth > MAX_DEPTH:
            raise ValueError(
                f"the network has {self.total_tokens:,} positions and an effective depth of {self.effective_depth:,}; "
                f"the limits are {MAX_SIZE:,} and {MAX_DEPTH:,}"
            )
        for name, needed in (
            ("positions: grid", self.positions == "grid"),
            ("mixing: groups", self.mixing == "groups"),
        ):
            if needed and (self.grid_shape is None or self.grid_shape[0] * self.grid_shape[1] != self.seq_len):
                raise ValueError(f"{name} needs a grid_shape whose product is seq_len ({self.seq_len})")
        self.network  # noqa: B018 (raises ValueError if its values contradict each other)
        if not self.n_latent_steps and not (self.state == "single" and self.inject_last):
            raise ValueError(
                "n_latent_steps: 0 needs state: single and inject_last, or the network never reads the question"
            )
        if self.state == "single" and self.answer_width:
            raise ValueError("answer_width needs state: dual; a single state is the latent one")
        if self.state == "dual" and (self.latent_width is None) != (self.answer_width is None):
            raise ValueError("latent_width and answer_width go together: give both or none")
        if self.initial_states > 1 and self.latent_width:
            raise ValueError("initial_states above 1 needs states of hidden_size: those of other widths start at zero")
        self.head.check(self.head_inputs)
        if self.prefix_tokens and self.puzzle_embedding_size > self.prefix_tokens * self.hidden_size:
            raise ValueError(
                f"puzzle_embedding_size {self.puzzle_embedding_size} does not fit into "
                f"prefix_tokens x hidden_size = {self.prefix_tokens * self.hidden_size}"
            )
        return self

    def _check_symbols(self) -> None:
        """Checks what an axis of symbols needs.

        Raises:
            ValueError: the options do not allow it.
        """
        if self.inputs != "tokens" or self.head.kind != "tokens":
            raise ValueError("symbols: equivariant needs inputs: tokens and the tokens head")
        if self.special_tokens >= self.vocab_size:
            raise ValueError(f"special_tokens {self.special_tokens} leaves no symbol of {self.vocab_size} tokens")
        if self.positions != "none" or self.prefix_tokens or self.roles or self.features:
            raise ValueError("symbols: equivariant has neither positions, prefix_tokens, roles nor features")

    @property
    def num_symbols(self) -> int:
        """Symbols at each position of the state; 0 without an axis of symbols."""
        return self.vocab_size - self.special_tokens if self.symbols == "equivariant" else 0

    def auto_dtype(self, device: torch.device) -> torch.dtype:
        """The dtype that activations have on ``device`` unless a user chooses one."""
        return auto_dtype(device, real_numbers=self.inputs == "values" or self.head.kind == "values")

    @property
    def total_tokens(self) -> int:
        """Number of positions that the layers process: prefix and sequence, times the number of symbols if there is an
        axis of symbols."""
        return (self.prefix_tokens + self.seq_len) * max(1, self.num_symbols)

    @property
    def network(self) -> NetworkConfig:
        """The configuration of the network."""
        return NetworkConfig(
            tokens=self.total_tokens, hidden_size=self.hidden_size, num_layers=self.num_layers,
            num_heads=self.num_heads, expansion=self.expansion, inner_multiple=self.inner_multiple, mixing=self.mixing,
            activation=self.activation,
            rope_theta=self.rope_theta if self.positions == "rope" else None, causal=self.causal,
            norm_position=self.norm_position, norm_eps=self.norm_eps, dropout=self.dropout,
            single_state=self.state == "single", inject_last=self.inject_last, latent_width=self.latent_width,
            answer_width=self.answer_width, groups=self.groups, group_scale=self.group_scale,
            grid=Grid(self.grid_shape or (0, 0), self.box_shape or (0, 0)), prefix=self.prefix_tokens,
            symbols=self.num_symbols,
        )  # fmt: skip

    @property
    def head_inputs(self) -> HeadInputs:
        """The properties of the model that its head needs."""
        return HeadInputs(
            self.hidden_size, self.prefix_tokens, self.seq_len, self.vocab_size, self.features, self.causal,
            self.mixing == "groups", self.num_symbols,
        )  # fmt: skip

    @property
    def depth(self) -> Depth:
        """The depth of recursion."""
        return Depth(self.T_cycles, self.n_latent_steps, self.max_supervision_steps)

    @property
    def effective_depth(self) -> int:
        """Number of layers applied in one supervision step: layers x T x (n + 1), 42 as published."""
        return self.T_cycles * (self.n_latent_steps + 1) * self.num_layers

    def gemm_flop(self, *, training: bool) -> int:
        """Matrix FLOP of one supervision step of one example, without embedding and head. Training adds the backward of
        the last cycle, which needs twice the FLOP of its forward."""
        L, D = self.total_tokens, self.hidden_size
        inner_size = self.network.inner_size
        layer = 6 * L * D * inner_size(D)
        if self.mixing == "mlp":
            layer += 6 * L * D * inner_size(L)
        elif self.mixing == "attention":
            layer += 8 * L * D * D + 4 * L * L * D
        else:  # the products of the groups' means
            network = self.network
            groups = partitions(network.groups, network.grid, network.prefix, network.symbols)
            layer += 4 * D * inner_size(D) * int((groups.amax(1) + 1).sum())
        applications = self.T_cycles * (self.n_latent_steps + 1)
        if training:
            applications += 2 * (self.n_latent_steps + 1)
        return applications * self.num_layers * layer + self._port_flop(training=training)

    def _port_flop(self, *, training: bool) -> int:
        """Matrix FLOP of the linear maps that convert states to and from the network's width."""
        if self.latent_width is None:
            return 0
        n, z, y = self.n_latent_steps, self.latent_width, self.answer_width or 0
        cycle = (2 * n + 1) * z + 2 * y if y else (2 * n + 2) * z
        numbers = self.T_cycles * cycle + (y or z)  # the heads also read a state
        if training:  # no gradient flows into the states at the start of the last cycle
            numbers += 2 * (cycle + (y or z)) - (z + y)
        return 2 * self.total_tokens * self.hidden_size * numbers

    @classmethod
    def for_sudoku(cls, **changes: Any) -> TRMConfig:
        """The published token-mixer model for 9x9 sudoku, without the prefix, which sudoku does not need."""
        return cls(**{"vocab_size": 11, "seq_len": 81, "grid_shape": (9, 9), **changes})

    @classmethod
    def for_maze(cls, **changes: Any) -> TRMConfig:
        """The published attention model for 30 x 30 mazes."""
        return cls(**(_LARGE_GRID | {"vocab_size": 6} | changes))

    @classmethod
    def for_arc_agi(cls, **changes: Any) -> TRMConfig:
        """The published attention model for ARC-AGI. Set ``num_puzzles`` to the number of puzzles in your data."""
        return cls(**(_LARGE_GRID | {"vocab_size": 12} | changes))


def check_kinds(config: TRMConfig, task: str, keys: Mapping[str, Any]) -> None:
    """Checks that a model has the inputs and the head that its task needs. A head of another program fits any task.

    Args:
        config: the configuration of the model.
        task: the name of the task, for the message.
        keys: the keys that the task determines (``Task.model_keys``).

    Raises:
        ValueError: it has others.
    """
    inputs, kind = keys.get("inputs", "tokens"), keys.get("head", {}).get("kind", "tokens")
    if config.inputs != inputs:
        raise ValueError(f"model.inputs = {config.inputs!r} contradicts task {task}, which needs {inputs}")
    head = HEADS[config.head.kind]
    if head.__module__.startswith("trm_fast.") and not issubclass(head, HEADS[kind]):
        raise ValueError(f"model.head.kind = {config.head.kind!r} contradicts task {task}, which needs {kind}")


_LARGE_GRID: dict[str, Any] = {
    "seq_len": 900,
    "grid_shape": (30, 30),
    "mixing": "attention",
    "positions": "rope",
    "n_latent_steps": 4,
    "prefix_tokens": 16,
}
