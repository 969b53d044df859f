"""The head of the task ``tool-select``: chooses among the tools that a request offers.

It points at their positions, so that it can choose tools that did not occur in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trm_fast.labels import IGNORE, SCORE_SCALE, ArgumentKind, Tag
from trm_fast.models.heads.base import ArgumentsConfig, Head, HeadConfig, HeadInputs, register, rows_at
from trm_fast.models.loss import Loss, cross_entropy, focal, joint_loss
from trm_fast.nn.layers import Linear

KINDS, TAGS = len(ArgumentKind), len(Tag)
SPANS = int(ArgumentKind.SPANS)
"""Kinds greater than ``ABSENT`` and less than this one have a single span of words."""
WORD_RADIUS, STEM_RADIUS = 2, 6
"""Radius in words of the convolutions over words, and of the convolution over shared stems."""
FEATURE_SCALE = 10.0
"""Factor of the logits that depend only on features. AdamATan2 changes all weights by similar amounts, so the factor
lets these logits grow to a useful size in a few steps."""
LOGIT_SCALE = 4.0
"""Factor of the logits of kinds and tags, for the same reason as ``FEATURE_SCALE``."""
STATE_INIT_SCALE = 0.1
"""Factor of the initial weights that read the network's state: an untrained state must not outweigh the features."""
MASKED_LOGIT = -1e4
"""Logit of a tool, span or tag that cannot be chosen."""
OUTSIDE_LOGIT = 3.0
"""Initial logit of the tag outside, which most words have."""


class Selection(NamedTuple):
    """Logits, float32, for B examples with T tools, P arguments of these tools, and W words."""

    tools: Tensor  # (B, T): the tool is called if this is above 0; MASKED_LOGIT if there is no tool
    kinds: Tensor  # (B, P, KINDS)
    tags: Tensor  # (B, P, W, TAGS)
    by_features: Tensor | None = None  # (B, T): the tools' logits from their features alone
    owners: Tensor | None = None  # (B, P): each argument's tool, by number


class SelectionConfig(ArgumentsConfig):
    """The maximum numbers of tools, arguments and words per example, and the widths in which they are compared."""

    kind: Literal["selection"] = "selection"
    num_tools: int = Field(1, ge=1, description="maximum number of tools per example")
    num_fields: int = Field(1, ge=1, description="maximum number of arguments per example, over all tools")
    num_words: int = Field(1, ge=1, description="maximum number of words per request")
    stems: int = Field(0, ge=0, description="stems per position by which words and arguments match; 0 for none")
    known_tools: int = Field(
        0, ge=0, description="size of a fixed classifier over tools; 0 to point at the position of any tool"
    )
    tool_width: int = Field(64, ge=1, description="width in which the request is compared with the tools")
    value_width: int = Field(32, ge=1, description="width in which words are compared with the arguments")

    tool_weight: float = Field(1.0, ge=0, description="weight of the tools' loss")
    argument_weight: float = Field(2.0, ge=0, description="weight of the arguments' loss")

    @property
    def smooths_labels(self) -> bool:
        return True

    def check(self, inputs: HeadInputs) -> None:
        if self.num_words >= inputs.seq_len:
            raise ValueError(f"num_words {self.num_words} must be less than seq_len {inputs.seq_len}")


@register("selection")
class SelectionHead(Head):
    """Chooses the tools to call (``Pointer`` or ``Classifier``) and their arguments (``Values``).

    ``extra`` holds ``tool_places`` int (B, T) and ``field_places`` int (B, P), the positions of tools and arguments, 0
    for none; ``mask`` bool (B, L); ``features`` float (B, L, F) if the model has features; and the arrays of ``Values``
    if the head has stems. Positions from 1 up to the first tool are the words.

    Labels are integers (B, T + P + P W): whether each tool is called (1 or 0), the kind of each argument, and the tag
    of each word for each argument. Entries without a label are ``IGNORE``. Answers have the same layout, except that
    the tools have logits in thousandths. An argument with a single span gets the most likely span. Two arguments of a
    tool never share a word.
    """

    Config: ClassVar[type[HeadConfig]] = SelectionConfig
    loss_parts = ("tool", "argument")

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        self.words, self.fields = config.num_words, config.num_fields
        self.config = config
        self.sizes = (config.num_tools, config.num_fields, config.num_fields * config.num_words)
        self.array_names = ("tool_places", "field_places")
        self.array_names += ("tool_ids",) if config.known_tools else ()
        self.array_names += ("stems", "field_tools", "shares") if config.stems else ()
        choice = Classifier if config.known_tools else Pointer
        self.choice = choice(config, inputs)
        self.values = Values(inputs.hidden_size, inputs.features, config.value_width, config.stems)

    def forward(
        self, answer: Tensor, *, tool_places: Tensor, field_places: Tensor, mask: Tensor | None = None,
        static_shapes: bool = False, **extra: Any,
    ) -> Selection:  # fmt: skip
        states = answer[:, self.prefix_tokens :].float()
        logits, by_features = self.choice(states, tool_places, **extra)
        if "features" in extra:
            states = torch.cat((states, extra["features"].float()), -1)
        P, W = self.fields, self.words
        # Compute only as many arguments and words as the examples of the batch have.
        if tool_places.device.type == "cpu" and not static_shapes:
            P = max(1, int((field_places > 0).sum(1).max()))
            W = min(W, max(1, int(tool_places[:, 0].max()) - 1))
        is_word = torch.arange(self.words, device=states.device) < tool_places[:, :1] - 1
        kinds, tags = self.values(states, field_places[:, :P], is_word[:, :W], **extra)
        # Pad the prediction to the configured numbers of arguments and words.
        padding = (0, self.fields - kinds.shape[1])
        kinds, tags = F.pad(kinds, (0, 0, *padding)), F.pad(tags, (0, 0, 0, self.words - tags.shape[2], *padding))
        # Missing arguments and words get fixed logits, which do not depend on the other examples of the batch.
        present = (field_places > 0)[..., None]
        only_outside = MASKED_LOGIT * (torch.arange(TAGS, device=tags.device) > 0)
        tags = torch.where((present & is_word[:, None])[..., None], tags, only_outside)
        return Selection(logits, kinds.masked_fill(~present, 0.0), tags, by_features, extra.get("field_tools"))

    def answers(self, prediction: Selection) -> Tensor:
        tools = (prediction.tools * SCORE_SCALE).round().long()
        kinds = prediction.kinds.argmax(-1)
        tags = _tags(prediction.tags, kinds, prediction.owners)
        return torch.cat([tools, kinds, tags.flatten(1)], 1)

    def masked_parts(self, labels: Tensor) -> dict[str, Tensor]:
        if not self.config.masked_means:
            return {}
        tools, kinds, _ = labels.split(self.sizes, 1)
        return {"tool": (tools != IGNORE).any(1), "argument": (kinds != IGNORE).any(1)}

    def loss(
        self,
        prediction: Selection,
        q: Tensor,
        labels: Tensor,
        *,
        last: bool = True,
        label_smoothing: float = 0.0,
        scales: Mapping[str, Tensor] | None = None,
        **extra: Tensor,
    ) -> Loss:
        """Binary cross-entropy of the tools, plus the mean cross-entropies of the kinds and of the words of the called
        tools' arguments, with the weights of the configuration.

        For an argument with a single span, the loss of its words is the cross-entropy of the span among all spans; for
        one with several spans, it is the sum of the cross-entropies of the words' tags. An example is exactly right if
        all its tools, kinds and tags are. ``label_smoothing`` s makes the target of a called tool 1 - s / 2 and that of
        another one s / 2.
        """
        c, scales = self.config, scales or {}
        tools, kinds, tags = (part.long() for part in labels.split(self.sizes, 1))
        labeled = tools != IGNORE
        called = (tools == 1).float()
        target = called * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else called
        cost = self._tool_cost(prediction.tools, called, target)
        if prediction.by_features is not None:  # the features still learn when the network has memorized the example
            cost = cost + self._tool_cost(prediction.by_features, called, target)
        tool_cost = (cost * labeled).sum(-1) / labeled.sum(-1).clamp_min(1)
        kind_cost = cross_entropy(prediction.kinds, kinds).sum(-1) / (kinds != IGNORE).sum(-1).clamp_min(1)
        tags = tags.view(*kinds.shape, -1)
        has_tags = (tags != IGNORE).any(-1)
        several = cross_entropy(prediction.tags.flatten(1, 2), tags.flatten(1)).view(tags.shape).sum(-1)
        one = has_tags & (kinds > 0) & (kinds < SPANS)
        word_cost = torch.where(one, _span_cost(prediction.tags, tags).to(several.dtype), several)
        word_cost = (word_cost * has_tags).sum(-1) / has_tags.sum(-1).clamp_min(1)
        arguments, has_arguments = kind_cost + word_cost, last or not c.learns_from_last_step
        answer = c.tool_weight * (tool_cost * scales.get("tool", 1.0))
        answer = answer + c.argument_weight * has_arguments * (arguments * scales.get("argument", 1.0))
        answers = self.answers(prediction)
        answers[:, : self.sizes[0]] = (answers[:, : self.sizes[0]] > 0).long()
        parts = {
            "tool": (tool_cost, labeled.any(1)),
            "argument": (arguments, (kinds != IGNORE).any(1) & has_arguments),
        }
        return joint_loss(answer, answers == labels, labels != IGNORE, q, parts)

    def _tool_cost(self, logits: Tensor, called: Tensor, target: Tensor) -> Tensor:
        """The focal loss (B, T) of logits: binary cross-entropy with ``target``, weighted by the probability of being
        right about ``called``."""
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if not self.config.focal_gamma:
            return cost
        plain = F.binary_cross_entropy_with_logits(logits, called, reduction="none")
        return focal(cost, self.config.focal_gamma, plain)


class Pointer(nn.Module):
    """Scores any tool by the product of its state with the request's state, and by its features."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        D, R = inputs.hidden_size, config.tool_width
        self.request, self.tool, self.tool_bias = Linear(D, R), Linear(D, R), Linear(D, 1)
        self.shortcut = nn.Parameter(torch.zeros(inputs.features)) if inputs.features else None
        if inputs.features:
            with torch.no_grad():
                for layer in (self.tool, self.tool_bias):
                    layer.weight.mul_(STATE_INIT_SCALE)

    def forward(self, states: Tensor, tool_places: Tensor, **extra: Any) -> tuple[Tensor, Tensor | None]:
        """Returns the logits (B, T), and those from the features alone (B, T), or None without features."""
        tools = rows_at(states, tool_places)
        agreement = torch.einsum("bd,btd->bt", self.request(states[:, 0]), self.tool(tools))
        logits = agreement * self.tool.weight.shape[0] ** -0.5 + self.tool_bias(tools).squeeze(-1)
        by_features = None
        if self.shortcut is not None:
            by_features = FEATURE_SCALE * (rows_at(extra["features"].float(), tool_places) @ self.shortcut)
            logits = logits + by_features
        return logits.masked_fill(tool_places == 0, MASKED_LOGIT), by_features


class Classifier(nn.Module):
    """Scores tools that occurred in training, by their numbers ``tool_ids`` int (B, T). Other tools have number 0 and
    are never called."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        self.known = Linear(inputs.hidden_size, config.known_tools + 1)  # name in state_dict

    def forward(
        self, states: Tensor, tool_places: Tensor, *, tool_ids: Tensor, **extra: Any
    ) -> tuple[Tensor, Tensor | None]:
        logits = self.known(states[:, 0]).gather(1, tool_ids.long())
        return logits.masked_fill(tool_ids == 0, MASKED_LOGIT), None


class Values(nn.Module):
    """Scores for each argument which words are its value, with two convolutions over the words.

    The first convolution reads the states of the words and of the argument. With ``stems`` int (B, L, S) it also reads
    which words occur in the argument's name (the first half of its stems) and in its description (the second half), and
    how much of each word's clause belongs to the argument's tool: ``field_tools`` int (B, P), the number of each
    argument's tool, and ``shares`` float (B, T, W).
    """

    def __init__(self, hidden_size: int, features: int, hidden: int, stems: int) -> None:
        super().__init__()
        width = hidden_size + features
        self.words = nn.Conv1d(width, hidden, 2 * WORD_RADIUS + 1, padding=WORD_RADIUS, bias=False)
        self.field = nn.Linear(width, hidden)
        self.met = nn.Conv1d(3, hidden, 2 * STEM_RADIUS + 1, padding=STEM_RADIUS, bias=False) if stems else None
        self.mix = nn.Conv1d(hidden, hidden, 2 * WORD_RADIUS + 1, padding=WORD_RADIUS)
        self.tag, self.kind = nn.Linear(hidden, TAGS), nn.Linear(hidden + width, KINDS)
        with torch.no_grad():
            if features:
                for weight in (self.words.weight, self.field.weight, self.kind.weight[:, hidden:]):
                    weight[:, :hidden_size].mul_(STATE_INIT_SCALE)
            self.tag.bias.copy_(torch.tensor([OUTSIDE_LOGIT / LOGIT_SCALE, 0.0, 0.0]))

    def forward(self, states: Tensor, field_places: Tensor, is_word: Tensor, **extra: Any) -> tuple[Tensor, Tensor]:
        """Returns logits of kinds (B, P, KINDS) and of tags (B, P, W, TAGS) for states (B, L, E), features included,
        and ``is_word`` bool (B, W)."""
        W, word_mask = is_word.shape[1], is_word[:, None, :, None]
        words = states[:, 1 : W + 1] * is_word[..., None]
        fields = rows_at(states, field_places)
        hidden = self.words(words.transpose(1, 2)).transpose(1, 2)[:, None] + self.field(fields)[:, :, None]
        if self.met is not None:
            hidden = hidden + _over_words(self.met, _shared_stems(field_places, W, **extra))
        hidden = F.gelu(_over_words(self.mix, F.gelu(hidden) * word_mask)) * word_mask
        return LOGIT_SCALE * self.kind(torch.cat((hidden.amax(2), fields), -1)), LOGIT_SCALE * self.tag(hidden)


def _over_words(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Applies a convolution over dimension 2 of x (B, P, W, C)."""
    convolved = conv(x.flatten(0, 1).transpose(1, 2))
    return convolved.transpose(1, 2).unflatten(0, x.shape[:2])


def _shared_stems(
    field_places: Tensor, words: int, *, stems: Tensor, field_tools: Tensor, shares: Tensor, **rest: Any
) -> Tensor:
    """Features (B, P, W, 3): whether the word is in the argument's name, whether it is in its description, and the
    tool's share of the word's clause."""
    word_stems, field_stems = stems[:, 1 : words + 1, :1], rows_at(stems, field_places)
    shared = (word_stems[:, None] == field_stems[:, :, None]) & (word_stems[:, None] > 0)
    share = rows_at(shares, field_tools[:, : field_places.shape[1]])[..., :words]
    return torch.stack([*(part.any(-1).float() for part in shared.chunk(2, -1)), share], -1)


def _tags(logits: Tensor, kinds: Tensor, owners: Tensor | None) -> Tensor:
    """The most likely tags (B, P, W): for an argument with a single span, the most likely span; for one with several
    spans, the most likely tag of each word; for the others, no words. If the spans of two arguments of a tool overlap,
    the more likely one keeps its words, and the other gets its most likely span among the remaining words."""
    begins, inside = _odds(logits)
    first, last, score = _best_span(begins, inside)
    words = torch.arange(logits.shape[2], device=logits.device)
    if owners is not None:
        single = (kinds > 0) & (kinds < SPANS)
        order = torch.arange(kinds.shape[1], device=kinds.device)
        loses = (score.mT > score) | ((score.mT == score) & (order < order[:, None]))
        rivals = loses & (owners[:, :, None] == owners[:, None]) & single[:, :, None] & single[:, None]
        taken = rivals.double() @ ((words >= first) & (words <= last)).double() > 0
        alternative = _best_span(begins.masked_fill(taken, MASKED_LOGIT), inside.masked_fill(taken, MASKED_LOGIT))
        exists = alternative[2] > MASKED_LOGIT / 2
        first, last = torch.where(exists, alternative[0], first), torch.where(exists, alternative[1], last)
    in_span = (words >= first) & (words <= last) & (score > MASKED_LOGIT / 2)
    one = torch.where(in_span, torch.where(words == first, 1, 2), 0)
    several = logits.argmax(-1) * (kinds == SPANS)[..., None]
    return torch.where((kinds < SPANS)[..., None], one, several)


def _span_cost(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy (B, P), float64, of each argument's span among all spans. It is meaningless for arguments whose
    ``tags`` (B, P, W) do not have exactly one span."""
    begins, inside = _odds(logits)
    total = inside.cumsum(-1)
    all_spans = (total + (begins - total).logcumsumexp(-1)).logsumexp(-1)
    words = (tags == 1).double() * begins + (tags == 2).double() * inside
    return all_spans - words.sum(-1)


def _odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log odds of each word beginning a value, and of it continuing one, against being outside, (B, P, W) each. They
    are float64, because they are summed over words, some of which have ``MASKED_LOGIT``."""
    begins, inside = (logits[..., 1:] - logits[..., :1]).double().unbind(-1)
    return begins, inside


def _best_span(begins: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely span: its first word, its last word, and its log odds against no span, (B, P, 1) each. ``begins``
    and ``inside`` (B, P, W) are the results of ``_odds``."""
    total = inside.cumsum(-1)
    best, first = (begins - total).cummax(-1)
    score, last = (best + total).max(-1, keepdim=True)
    return first.gather(-1, last), last, score
