"""The model's configuration: typed, validated, and counted before any weight exists."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator
from typing_extensions import Self

from trm_fast.labels import ArgumentKind, SlotKind, Tag
from trm_fast.models.halting import RULES
from trm_fast.nn.config import NetworkConfig

FIXED_KINDS = len(SlotKind)
"""Slots: kinds of a field's value before the known ones."""
FIELD_KINDS = len(ArgumentKind)
RUN_KINDS = int(ArgumentKind.SPANS)
"""Selection: kinds up to this one have a single run of words."""
TAGS = len(Tag)

GridShape = Annotated[tuple[int, int], Strict(False)]  # YAML and JSON have lists only

TEXT_NEAR = 4
"""Text: ways in which the stems near a place may speak for it."""
TEXT_WORTH = 4
"""Text: ways in which a place's own features may speak for it."""
TEXT_PLAIN = 5
"""Text: what else is known of two places: linked, follows by one and by two, was said in the row, and in the call."""
NEAR, REACH = 2, 6
"""Selection: how many words on either side tell what one is, and how far from a word of an argument its value may
stand."""


class Depth(NamedTuple):
    """How far a model recurs; its weights do not depend on it."""

    T_cycles: int
    n_latent_steps: int
    max_supervision_steps: int


class TRMConfig(BaseModel):
    """Everything that shapes a Tiny Recursive Model (arXiv 2510.04871, section 4).

    A supervision step runs ``T_cycles`` cycles, all but the last without gradient. A cycle is ``n_latent_steps``
    latent steps and one answer step, each an application of the same ``num_layers`` blocks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    inputs: Literal["tokens", "values", "bags"] = Field(
        "tokens", description="what an example's places hold; bags are several tokens a place, in no order"
    )
    outputs: Literal["tokens", "values", "text", "slots", "selection"] = Field(
        "tokens",
        description="what is predicted: for each place, or in text for the next one; a decision, a tool and fields "
        "with spans; or which of the row's own tools are called, with what arguments",
    )
    vocab_size: int = Field(11, ge=2, description="tokens, padding included")
    input_width: int = Field(1, ge=1, description="real numbers a place, where the inputs are values")
    output_width: int = Field(1, ge=1, description="real numbers a place, where the outputs are values")
    tolerance: float = Field(0.1, gt=0, description="values: an answer this far off still counts as right")
    seq_len: int = Field(81, ge=1, description="places of one example, without the puzzle prefix")
    roles: int = Field(
        0, ge=0, description="kinds of roles a place may have, embedded beside what it holds; 0 for none"
    )
    features: int = Field(0, ge=0, description="real numbers a place has beside what it holds; 0 for none")
    stems: int = Field(
        0, ge=0, description="selection, text: numbers of stems by which words and arguments meet; 0 for none"
    )
    row_symbols: int = Field(
        0, ge=0, description="text: symbols behind the vocabulary that only a row has, which can be copied alone"
    )
    num_tools: int = Field(1, ge=1, description="slots, selection: tools to choose from")
    known_tools: int = Field(
        0, ge=0, description="selection: a fixed classifier over so many tools; 0 to point at any tool's place"
    )
    num_fields: int = Field(1, ge=1, description="slots, selection: arguments and slots that may have a value")
    num_values: int = Field(0, ge=0, description="slots: values of a field known beside those that stand in the text")

    num_words: int = Field(1, ge=1, description="selection: places behind the first that a value may stand in")
    reasoning_dim: int = Field(
        64,
        ge=1,
        description="width of the latent state with state_widths: own; selection: in which tools meet the request",
    )
    action_dim: int = Field(
        32,
        ge=1,
        description="width of the answer state with state_widths: own; selection, text: in which values meet words",
    )

    hidden_size: int = Field(512, ge=1)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(8, ge=1, description="attention heads; unused by the token mixer")
    expansion: float = Field(4.0, gt=0, description="SwiGLU inner width is about 2/3 of this times the width")
    inner_multiple: int = Field(256, ge=1, description="SwiGLU inner width is rounded up to a multiple of this")

    mixing: Literal["mlp", "attention"] = "mlp"
    positions: Literal["none", "rope", "learned", "grid"] = "none"
    grid_shape: GridShape | None = Field(None, description="rows and columns; needed by grid positions")
    rope_theta: float = Field(1e4, gt=0)
    causal: bool = False

    norm: Literal["rms"] = "rms"
    norm_position: Literal["post", "pre"] = "post"
    norm_eps: float = Field(1e-5, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)

    state: Literal["dual", "single"] = "dual"
    state_widths: Literal["hidden", "own"] = Field(
        "hidden", description="whether the states are as wide as the network, or reasoning_dim and action_dim wide"
    )
    inject_last: bool = Field(True, description="single state: whether the last application of a cycle adds x, too")
    T_cycles: int = Field(3, ge=1)
    n_latent_steps: int = Field(6, ge=0)
    max_supervision_steps: int = Field(16, ge=1)
    q_threshold: float = Field(0.5, gt=0, lt=1, description="halt when sigmoid(q) exceeds this")

    halting: str = Field(
        "row",
        description="who halts (trm_fast.models.halting): each row by its own logit, as published, or with batch all "
        "rows that are computed together, when the mean of their probabilities exceeds q_threshold",
    )

    prefix_tokens: int = Field(0, ge=0, description="tokens of puzzle embedding put in front of the sequence")
    puzzle_embedding_size: int = Field(512, ge=1, description="numbers a puzzle row; the rest of the prefix is zero")
    num_puzzles: int = Field(1, ge=1, description="rows of the puzzle embedding")

    @field_validator("halting")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        if name not in RULES:
            raise ValueError(f"there is no such halting rule; there are: {', '.join(RULES)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.network  # noqa: B018 (raises ValueError where its parts do not go together)
        if self.positions == "grid" and (
            self.grid_shape is None or self.grid_shape[0] * self.grid_shape[1] != self.seq_len
        ):
            raise ValueError(f"positions: grid needs a grid_shape whose product is seq_len ({self.seq_len})")
        if not self.n_latent_steps and not (self.state == "single" and self.inject_last):
            raise ValueError("n_latent_steps: 0 needs state: single and inject_last, or the question never enters")
        if self.outputs == "text" and not self.causal:
            raise ValueError("outputs: text needs causal: true, or each place would see the next one")
        if self.outputs == "text" and self.stems and not self.features:
            raise ValueError("outputs: text with stems needs features, too")
        if self.outputs == "selection" and self.num_words >= self.seq_len:
            raise ValueError(f"num_words {self.num_words} must be less than seq_len {self.seq_len}")
        if self.prefix_tokens and self.puzzle_embedding_size > self.prefix_tokens * self.hidden_size:
            raise ValueError(
                f"puzzle_embedding_size {self.puzzle_embedding_size} does not fit into "
                f"prefix_tokens x hidden_size = {self.prefix_tokens * self.hidden_size}"
            )
        return self

    @property
    def total_tokens(self) -> int:
        """Tokens the blocks see: prefix and sequence."""
        return self.prefix_tokens + self.seq_len

    @property
    def latent_width(self) -> int:
        """Numbers a place of the latent state ``z``."""
        return self.hidden_size if self.state_widths == "hidden" else self.reasoning_dim

    @property
    def answer_width(self) -> int:
        """Numbers a place of the answer state ``y``; 0 in single state, which has none."""
        if self.state == "single":
            return 0
        return self.hidden_size if self.state_widths == "hidden" else self.action_dim

    @property
    def network(self) -> NetworkConfig:
        """What shapes the network alone."""
        own, dual = self.state_widths == "own", self.state == "dual"
        return NetworkConfig(
            tokens=self.total_tokens, hidden_size=self.hidden_size, num_layers=self.num_layers,
            num_heads=self.num_heads, expansion=self.expansion, inner_multiple=self.inner_multiple, mixing=self.mixing,
            rope_theta=self.rope_theta if self.positions == "rope" else None, causal=self.causal,
            norm_position=self.norm_position, norm_eps=self.norm_eps, dropout=self.dropout, single_state=not dual,
            inject_last=self.inject_last, latent_width=self.latent_width if own else None,
            answer_width=self.answer_width if own and dual else None,
        )  # fmt: skip

    @property
    def depth(self) -> Depth:
        return Depth(self.T_cycles, self.n_latent_steps, self.max_supervision_steps)

    @property
    def effective_depth(self) -> int:
        """Layers applied in one supervision step: T (n + 1) layers, 42 as published."""
        return self.T_cycles * (self.n_latent_steps + 1) * self.num_layers

    def inner_size(self, width: int) -> int:
        """Inner width of a SwiGLU over ``width`` numbers, rounded up as published."""
        multiple = self.inner_multiple
        return -(-max(1, round(self.expansion * width * 2 / 3)) // multiple) * multiple

    def gemm_flop(self, *, training: bool) -> int:
        """Matrix FLOP of one supervision step for one sample; in training the last cycle's backward counts twice."""
        L, D = self.total_tokens, self.hidden_size
        layer = 6 * L * D * self.inner_size(D)
        if self.mixing == "mlp":
            layer += 6 * L * D * self.inner_size(L)
        else:
            layer += 8 * L * D * D + 4 * L * L * D
        applications = self.T_cycles * (self.n_latent_steps + 1)
        if training:
            applications += 2 * (self.n_latent_steps + 1)
        return applications * self.num_layers * layer + self._port_flop(training=training)

    def _port_flop(self, *, training: bool) -> int:
        """What reading and writing states of their own widths adds."""
        if self.state_widths == "hidden":
            return 0
        n, z, y = self.n_latent_steps, self.latent_width, self.answer_width
        cycle = (2 * n + 1) * z + 2 * y if y else (2 * n + 2) * z
        numbers = self.T_cycles * cycle + (y or z)  # the heads read, too
        if training:  # no gradient flows into the states that the last cycle reads first
            numbers += 2 * (cycle + (y or z)) - (z + y)
        return 2 * self.total_tokens * self.hidden_size * numbers

    def num_parameters(self) -> int:
        """Trained numbers, the puzzle embedding included."""
        D, L = self.hidden_size, self.total_tokens
        mix = 3 * L * self.inner_size(L) if self.mixing == "mlp" else 4 * D * D
        positions = {"learned": L * D, "grid": sum(self.grid_shape or ()) * D}.get(self.positions, 0)
        puzzles = self.num_puzzles * self.puzzle_embedding_size if self.prefix_tokens else 0
        ends = D * (self.input_width if self.inputs == "values" else self.vocab_size)
        ends += D * (self.roles + self.features + self._outputs())
        if self.outputs == "selection":
            width, A = D + self.features, self.action_dim
            ends += (
                (0 if self.known_tools else self.features)
                + A * (width * (2 * NEAR + 1) + width + 1)
                + A * (A * (2 * NEAR + 1) + 1)
            )
            ends += A * 3 * (2 * REACH + 1) if self.stems else 0
            ends += (A + 1) * TAGS + (A + width + 1) * FIELD_KINDS
        if self.outputs == "text":
            width = D + self.features
            ends += self.features * ((2 * NEAR + 2) * self.action_dim + 1) + 1
            gates = TEXT_NEAR + TEXT_PLAIN + TEXT_WORTH
            met = 2 * TEXT_NEAR * (2 * REACH + 1) + TEXT_WORTH * self.features
            ends += met + gates * (width + 1) if self.stems else 0
        ports = 2 * D * (self.latent_width + self.answer_width) if self.state_widths == "own" else 0
        return self.num_layers * (mix + 3 * D * self.inner_size(D)) + ports + ends + D + 1 + positions + puzzles

    def _outputs(self) -> int:
        """Numbers that the answer head makes of a place."""
        fields = 2 + self.num_tools + self.num_fields * (FIXED_KINDS + self.num_values + 2)
        selection = self.known_tools + 1 if self.known_tools else 2 * self.reasoning_dim + 1
        made = {"values": self.output_width, "slots": fields, "selection": selection}
        made["text"] = self.vocab_size + (2 * NEAR + 2) * self.action_dim + 1
        return made.get(self.outputs, self.vocab_size)

    @classmethod
    def for_sudoku(cls, **changes: Any) -> TRMConfig:
        """The published mixer for 9x9 sudoku, without the puzzle prefix that sudoku does not need (81 tokens)."""
        return cls(**{"vocab_size": 11, "seq_len": 81, "grid_shape": (9, 9), **changes})

    @classmethod
    def for_maze(cls, **changes: Any) -> TRMConfig:
        """The published attention model for 30 x 30 mazes."""
        return cls(**(_LARGE_GRID | {"vocab_size": 6} | changes))

    @classmethod
    def for_arc_agi(cls, **changes: Any) -> TRMConfig:
        """The published attention model for ARC-AGI; set ``num_puzzles`` to the rows your data needs."""
        return cls(**(_LARGE_GRID | {"vocab_size": 12} | changes))


_LARGE_GRID: dict[str, Any] = {
    "seq_len": 900,
    "grid_shape": (30, 30),
    "mixing": "attention",
    "positions": "rope",
    "n_latent_steps": 4,
    "prefix_tokens": 16,
}
