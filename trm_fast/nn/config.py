"""The configuration of the network: its layers, and how the recursion applies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trm_fast.nn.groups import NO_GRID, PARTITIONS, Grid


@dataclass(frozen=True)
class NetworkConfig:
    """The configuration of layers for states with ``tokens`` positions and ``hidden_size`` channels. With an axis of
    symbols, each symbol of a cell is a position.

    Attributes:
        activation: how an MLP combines the halves of its first product: silu(gate) * up or ``layers.gated_norm``.
        expansion: a SwiGLU's inner width is about 2/3 of this times its width.
        inner_multiple: a SwiGLU's inner width is rounded up to a multiple of this.
        rope_theta: base of the rotary positions; None: no rotary positions.
        groups: names of the partitions whose group means ``mixing: groups`` reads (``nn.groups``).
        group_scale: factor of these means.
        grid: the grid that the positions after the prefix form, for ``mixing: groups``.
        prefix: number of positions before the grid.
        symbols: number of symbols per cell; 0: the state has no axis of symbols.
        single_state: whether there is only a latent state and no answer state.
        inject_last: in single state, whether the last application of a cycle also adds the input embedding.
        latent_width, answer_width: channels of the states; None: ``hidden_size``.

    Raises:
        ValueError: the values contradict each other.
    """

    tokens: int
    hidden_size: int
    num_layers: int
    num_heads: int = 1
    expansion: float = 4.0
    inner_multiple: int = 256
    mixing: Literal["mlp", "attention", "groups"] = "mlp"
    activation: Literal["swiglu", "gated_norm"] = "swiglu"
    rope_theta: float | None = None
    causal: bool = False
    groups: tuple[str, ...] = ()
    group_scale: float = 1.0
    grid: Grid = NO_GRID
    prefix: int = 0
    symbols: int = 0
    norm_position: Literal["post", "pre"] = "post"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    single_state: bool = False
    inject_last: bool = True
    latent_width: int | None = None
    answer_width: int | None = None

    def __post_init__(self) -> None:
        if self.mixing == "attention" and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.mixing == "attention" and self.rope_theta is not None and self.hidden_size // self.num_heads % 2:
            raise ValueError("rope needs an even number of channels a head")
        if self.mixing != "attention" and self.causal:
            raise ValueError("causal needs mixing: attention; the other kinds see every token")
        if self.mixing != "attention" and self.rope_theta is not None:
            raise ValueError("positions: rope needs mixing: attention")
        if (self.mixing == "groups") != bool(self.groups):
            raise ValueError(
                "mixing: groups and groups go together: name partitions of the positions, such as "
                f"groups: [rows, columns]; there are {', '.join(sorted(PARTITIONS))}"
            )
        if self.symbols and self.mixing != "groups":
            raise ValueError("symbols: equivariant needs mixing: groups; the other kinds tell the symbols apart")
        for name in self.groups:
            PARTITIONS[PARTITIONS.require(name)](self.grid)  # raises ValueError if it needs boxes

    def inner_size(self, width: int) -> int:
        """The inner width of a SwiGLU over ``width`` numbers, rounded up as published.

        Examples:
            >>> NetworkConfig(tokens=81, hidden_size=512, num_layers=2).inner_size(512)
            1536
        """
        multiple = self.inner_multiple
        return -(-max(1, round(self.expansion * width * 2 / 3)) // multiple) * multiple
