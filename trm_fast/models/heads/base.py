"""The base class of answer heads: modules with their own configuration, registered under their kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from trm_fast.models.loss import Loss
from trm_fast.registry import Registry
from trm_fast.validation import Section

HEADS: Registry[type[Head]] = Registry("kind of head")
register = HEADS.register


class HeadInputs(NamedTuple):
    """The properties of a model that its head needs. The answer state has ``prefix_tokens + seq_len`` positions and
    ``hidden_size`` channels. ``features`` is the number of features per position, 0 for none. ``grouped``: whether
    positions differ only by their groups. ``symbols``: if not 0, each position has that many vectors, one for each of
    the last tokens of the vocabulary."""

    hidden_size: int
    prefix_tokens: int
    seq_len: int
    vocab_size: int
    features: int
    causal: bool
    grouped: bool = False
    symbols: int = 0


class HeadConfig(Section):
    """The keys of ``model.head``. Each head has a subclass that adds its own keys."""

    kind: str
    """The kind of the head, which follows from the task."""

    def check(self, inputs: HeadInputs) -> None:
        """Checks that the head fits its model.

        Raises:
            ValueError: it does not; the message says why.
        """

    @property
    def learns_from_last_step(self) -> bool:
        """Whether the loss depends on ``last``: whether a supervision step is the last before an optimizer step."""
        return False

    @property
    def smooths_labels(self) -> bool:
        """Whether the head's ``loss`` takes ``label_smoothing``."""
        return False


class ArgumentsConfig(HeadConfig):
    """The keys shared by the heads that choose a tool and its arguments."""

    arguments: Literal["every", "last"] = Field(
        "every",
        description="supervision steps whose loss includes the arguments; last needs training.supervision: unrolled",
    )

    focal_gamma: float = Field(
        0.0, ge=0, le=10,
        description="exponent of the focal loss, in which confidently right examples count little; 0: cross-entropy",
    )  # fmt: skip
    masked_means: bool = Field(
        False,
        description="divide the losses of tool and arguments by the number of rows of the batch that have a label for "
        "them; False: by all rows",
    )

    @property
    def learns_from_last_step(self) -> bool:
        return self.arguments == "last"


class Head(nn.Module, ABC):
    """Turns the answer state into a prediction, turns the prediction into an answer, and computes the loss.

    ``forward(answer, **extra)`` computes the prediction from the answer state (B, P + L, D), where P is the number of
    prefix positions. ``extra`` holds ``inputs``, ``mask`` (or None), and further arrays of the examples by name, of
    which a head uses those that it needs. It also holds ``precision``, the dtypes of products, and ``static_shapes``:
    if True, no shape may depend on the values in an array. ``array_names`` are those that a head cannot do without.
    """

    Config: ClassVar[type[HeadConfig]]
    array_names: tuple[str, ...] = ()
    loss_parts: tuple[str, ...] = ()
    """Names of the parts of the loss that are logged apart, in ``Loss.parts``."""

    @abstractmethod
    def __init__(self, config: Any, inputs: HeadInputs) -> None:
        super().__init__()
        self.prefix_tokens = inputs.prefix_tokens

    def masked_parts(self, labels: Tensor) -> dict[str, Tensor]:
        """The parts of the loss whose means are over the rows with a label for them, and which rows these are, bool
        (B,). ``loss`` takes factors for these parts, ``scales``."""
        return {}

    def scales(
        self, labels: Tensor, rows: int, sum_: Callable[[Tensor], Tensor] = lambda counts: counts
    ) -> dict[str, Tensor]:
        """The factors that turn means over all rows into means over the rows with a label, for ``loss``.

        Args:
            labels: of the batch, or of this process's share of it.
            rows: the number of rows of the whole batch.
            sum_: adds the counts of all processes.
        """
        masks = self.masked_parts(labels)
        if not masks:
            return {}
        counts = sum_(torch.stack([mask.sum() for mask in masks.values()]).float())
        return dict(zip(masks, rows / counts.clamp_min(1), strict=True))

    @abstractmethod
    def answers(self, prediction: Any) -> Tensor:
        """The most likely answer of each example, shape (B, ...)."""

    @abstractmethod
    def loss(self, prediction: Any, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Any) -> Loss:
        """The loss of a prediction.

        Args:
            prediction: what ``forward`` returned.
            q: the halting logits, shape (B,).
            labels: the labels of the examples, shape (B, ...).
            last: whether this is the last supervision step before the optimizer step.
            extra: further arrays of the examples, by name.
        """


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """The rows of ``values`` (B, L, D) at the positions ``index`` (B, K), shape (B, K, D)."""
    return values.gather(1, index.long()[..., None].expand(-1, -1, values.shape[-1]))
