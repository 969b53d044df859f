"""What shapes a network: nothing of what goes in, how often it is applied, or what is read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkConfig:
    """Blocks on states of ``tokens`` places and ``hidden_size`` channels, and how they are applied.

    ``inner_multiple``: a SwiGLU's inner width, about 2/3 ``expansion`` times the width, is rounded up to a multiple of
    it. ``rope_theta``: of rotary positions, None without. ``single_state``: there is a latent state and no answer
    state; then ``inject_last`` says whether the last application of a cycle adds the question, too. ``latent_width``
    and ``answer_width``: of states that are not as wide as the network, None where they are.

    Raises:
        ValueError: the parts do not go together.
    """

    tokens: int
    hidden_size: int
    num_layers: int
    num_heads: int = 1
    expansion: float = 4.0
    inner_multiple: int = 256
    mixing: Literal["mlp", "attention"] = "mlp"
    rope_theta: float | None = None
    causal: bool = False
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
        if self.mixing == "mlp" and self.causal:
            raise ValueError("causal needs mixing: attention; a token mixer sees every token")
        if self.mixing == "mlp" and self.rope_theta is not None:
            raise ValueError("positions: rope needs mixing: attention")

    def inner_size(self, width: int) -> int:
        """Inner width of a SwiGLU over ``width`` numbers, rounded up as published."""
        multiple = self.inner_multiple
        return -(-max(1, round(self.expansion * width * 2 / 3)) // multiple) * multiple
