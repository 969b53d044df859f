"""What every answer head is: a module with a configuration of its own, registered under the name that asks for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from trm_fast.models.loss import Loss
from trm_fast.registry import Registry
from trm_fast.validation import Section

HEADS: Registry[type[Head]] = Registry("kind of head")
register = HEADS.register


class HeadInputs(NamedTuple):
    """What a head may know of the model that it reads: the answer state has ``prefix_tokens + seq_len`` positions of
    ``hidden_size`` channels."""

    hidden_size: int
    prefix_tokens: int
    seq_len: int
    vocab_size: int
    features: int
    causal: bool


class HeadConfig(Section):
    """The keys of ``model.head``; a subclass adds those of its head."""

    kind: str

    def check(self, inputs: HeadInputs) -> None:
        """ValueError where the head does not go together with its model."""

    @property
    def learns_from_last_step(self) -> bool:
        """Whether the loss differs at the last of several supervision steps, so that training must say which it is."""
        return False


class ArgumentsConfig(HeadConfig):
    """The keys of heads that choose a tool and its arguments."""

    arguments: Literal["every", "last"] = Field(
        "every", description="supervision steps that learn the arguments; last needs training.supervision: unrolled"
    )

    @property
    def learns_from_last_step(self) -> bool:
        return self.arguments == "last"


class Head(nn.Module, ABC):
    """Maps the answer state to a prediction, a prediction to the answer that a solver returns, and has the loss that
    teaches it.

    ``forward(answer, **extra)`` makes the prediction of the answer state (B, P + L, D). ``extra`` are ``inputs``,
    ``mask`` (or None) and the examples' further arrays, of which a head takes what it knows; ``precision`` for products
    in the state's dtype; and ``static_shapes``: whether no shape may depend on what an array holds.
    """

    Config: ClassVar[type[HeadConfig]]

    @abstractmethod
    def __init__(self, config: Any, inputs: HeadInputs) -> None:
        super().__init__()
        self.prefix_tokens = inputs.prefix_tokens

    @abstractmethod
    def answers(self, prediction: Any) -> Tensor:
        """The likeliest answer to each row, (B, ...)."""

    @abstractmethod
    def loss(self, prediction: Any, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        """Against the labels of the rows; ``last``: at the last of the supervision steps that are learned together."""


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, D) of values (B, L, D) at index (B, K)."""
    return values.gather(1, index.long()[..., None].expand(-1, -1, values.shape[-1]))
