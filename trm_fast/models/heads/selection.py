"""The head of ``tool-select``: it chooses among the tools that come with a request by pointing at their positions, so
it can choose tools that it never saw in training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trm_fast.labels import IGNORE, SCORE_SCALE, ArgumentKind, Tag
from trm_fast.models.heads.base import ArgumentsConfig, Head, HeadConfig, HeadInputs, register, rows_at
from trm_fast.models.loss import Loss, cross_entropy, joint_loss
from trm_fast.nn.layers import Linear

KINDS, TAGS = len(ArgumentKind), len(Tag)
SPANS = int(ArgumentKind.SPANS)
"""The kinds between ``ABSENT`` and this one have a single span of words."""
NEAR, REACH = 2, 6
"""Words on either side that the convolutions over words see, and that the convolution over shared stems sees."""
ARGUMENTS = 2.0
"""Weight of the arguments in the loss; the tools have weight 1."""
GAIN = 10.0
"""Factor of the logits that are read from the features alone. AdamATan2 moves all weights by similar amounts, so a
factor lets these logits grow to a useful size in a few steps."""
STEEP = 4.0
"""Factor of the logits of kinds and tags, which lets them grow quickly, as ``GAIN`` does."""
STATE_INIT_SCALE = 0.1
"""Initial factor of the weights that read the network's state: an untrained network must not drown the features."""
UNREACHABLE = -1e4
"""Logit of a choice that does not exist."""
OUTSIDE = 3.0
"""Initial logit of a word that belongs to no value, as most words do."""


class Selection(NamedTuple):
    """Logits, float32, for B examples with T tools, P arguments of these tools and W words."""

    tools: Tensor  # (B, T): above 0, the tool is called; UNREACHABLE if there is no tool
    kinds: Tensor  # (B, P, KINDS)
    tags: Tensor  # (B, P, W, TAGS)
    by_features: Tensor | None = None  # (B, T): the tools' logits from their features alone
    owners: Tensor | None = None  # (B, P): the number of each argument's tool


class SelectionConfig(ArgumentsConfig):
    """The maximum numbers of tools, arguments and words per example, and the widths of the products between them."""

    kind: Literal["selection"] = "selection"
    num_tools: int = Field(1, ge=1, description="maximum number of tools per example")
    num_fields: int = Field(1, ge=1, description="maximum number of arguments per example, of all tools together")
    num_words: int = Field(1, ge=1, description="maximum number of words per request")
    stems: int = Field(0, ge=0, description="stems of a position by which words and arguments match; 0 for none")
    known_tools: int = Field(
        0, ge=0, description="size of a fixed classifier over tools; 0 to point at the position of any tool"
    )
    tool_width: int = Field(64, ge=1, description="width in which the request is compared with the tools")
    value_width: int = Field(32, ge=1, description="width in which words are compared with the arguments")

    def check(self, inputs: HeadInputs) -> None:
        if self.num_words >= inputs.seq_len:
            raise ValueError(f"num_words {self.num_words} must be less than seq_len {inputs.seq_len}")


@register("selection")
class SelectionHead(Head):
    """Chooses which tools are called (``Pointer`` or ``Classifier``) and what their arguments are (``Values``).

    ``extra`` holds ``tool_places`` int (B, T) and ``field_places`` int (B, P), the positions of tools and arguments, 0
    for none; ``mask`` bool (B, L); ``features`` float (B, L, F) if the model has features; and what ``Values`` takes if
    it has stems. The words are the positions from 1 to the first tool.

    Labels are integers (B, T + P + P W): each tool called (1) or not (0), the kind of each argument, and the tag of
    each word for each argument; ``IGNORE`` where there is nothing to learn. Answers have the same layout, with the
    tools' logits in thousandths. The answer for an argument with a single span is the most likely span. Two arguments
    of a tool never have words in common.
    """

    Config: ClassVar[type[HeadConfig]] = SelectionConfig

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__(config, inputs)
        self.words, self.fields = config.num_words, config.num_fields
        self.last_alone = config.learns_from_last_step
        self.sizes = (config.num_tools, config.num_fields, config.num_fields * config.num_words)
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
        # Arguments and words that no example of the batch has need not be computed.
        if tool_places.device.type == "cpu" and not static_shapes:
            P = max(1, int((field_places > 0).sum(1).max()))
            W = min(W, max(1, int(tool_places[:, 0].max()) - 1))
        is_word = torch.arange(self.words, device=states.device) < tool_places[:, :1] - 1
        kinds, tags = self.values(states, field_places[:, :P], is_word[:, :W], **extra)
        # The prediction has all P arguments and W words of the configuration, whatever the batch has.
        more = (0, self.fields - kinds.shape[1])
        kinds, tags = F.pad(kinds, (0, 0, *more)), F.pad(tags, (0, 0, 0, self.words - tags.shape[2], *more))
        # Missing arguments and words get fixed logits, so that they do not depend on the other examples of the batch.
        present = (field_places > 0)[..., None]
        outside = UNREACHABLE * (torch.arange(TAGS, device=tags.device) > 0)
        tags = torch.where((present & is_word[:, None])[..., None], tags, outside)
        return Selection(logits, kinds.masked_fill(~present, 0.0), tags, by_features, extra.get("field_tools"))

    def answers(self, prediction: Selection) -> Tensor:
        tools = (prediction.tools * SCORE_SCALE).round().long()
        kinds = prediction.kinds.argmax(-1)
        tags = _tags(prediction.tags, kinds, prediction.owners)
        return torch.cat([tools, kinds, tags.flatten(1)], 1)

    def loss(self, prediction: Selection, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        """Binary cross-entropy of the tools, and ``ARGUMENTS`` times the mean cross-entropies of the kinds and the
        words of the called tools' arguments. For an argument with a single span the words' cost is the cross-entropy of
        the span among all spans; for one with several spans it is the sum over its words' tags. An example is exactly
        right when all its tools, kinds and tags are."""
        tools, kinds, tags = (part.long() for part in labels.split(self.sizes, 1))
        labeled = tools != IGNORE
        called = (tools == 1).float()
        cost = F.binary_cross_entropy_with_logits(prediction.tools, called, reduction="none")
        if prediction.by_features is not None:  # the features keep learning when the network has memorized the example
            cost = cost + F.binary_cross_entropy_with_logits(prediction.by_features, called, reduction="none")
        answer = (cost * labeled).sum(-1) / labeled.sum(-1).clamp_min(1)
        kind_cost = cross_entropy(prediction.kinds, kinds).sum(-1) / (kinds != IGNORE).sum(-1).clamp_min(1)
        tags = tags.view(*kinds.shape, -1)
        has_tags = (tags != IGNORE).any(-1)
        several = cross_entropy(prediction.tags.flatten(1, 2), tags.flatten(1)).view(tags.shape).sum(-1)
        one = has_tags & (kinds > 0) & (kinds < SPANS)
        word_cost = torch.where(one, _span_cost(prediction.tags, tags).to(several.dtype), several)
        word_cost = (word_cost * has_tags).sum(-1) / has_tags.sum(-1).clamp_min(1)
        arguments = ARGUMENTS * (last or not self.last_alone)
        answer = (answer + arguments * (kind_cost + word_cost)).sum()
        answers = self.answers(prediction)
        answers[:, : self.sizes[0]] = (answers[:, : self.sizes[0]] > 0).long()
        return joint_loss(answer, answers == labels, labels != IGNORE, q)


class Pointer(nn.Module):
    """Scores any tool: by the product of its state with the request's state, and by its features."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        D, R = inputs.hidden_size, config.tool_width
        self.request, self.tool, self.tool_bias = Linear(D, R), Linear(D, R), Linear(D, 1)
        self.shortcut = nn.Parameter(torch.zeros(inputs.features)) if inputs.features else None
        if inputs.features:
            # At first the features say more than the untrained network, which must not drown them.
            with torch.no_grad():
                for layer in (self.tool, self.tool_bias):
                    layer.weight.mul_(STATE_INIT_SCALE)

    def forward(self, states: Tensor, tool_places: Tensor, **extra: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T), and the logits from the features alone (B, T), None without features."""
        tools = rows_at(states, tool_places)
        agreement = torch.einsum("bd,btd->bt", self.request(states[:, 0]), self.tool(tools))
        logits = agreement * self.tool.weight.shape[0] ** -0.5 + self.tool_bias(tools).squeeze(-1)
        by_features = None
        if self.shortcut is not None:
            by_features = GAIN * (rows_at(extra["features"].float(), tool_places) @ self.shortcut)
            logits = logits + by_features
        return logits.masked_fill(tool_places == 0, UNREACHABLE), by_features


class Classifier(nn.Module):
    """Scores the tools known from training by their numbers ``tool_ids`` int (B, T). Tools with number 0 are unknown
    and never called."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        self.known = Linear(inputs.hidden_size, config.known_tools + 1)  # name in state_dict

    def forward(
        self, states: Tensor, tool_places: Tensor, *, tool_ids: Tensor, **extra: Any
    ) -> tuple[Tensor, Tensor | None]:
        logits = self.known(states[:, 0]).gather(1, tool_ids.long())
        return logits.masked_fill(tool_ids == 0, UNREACHABLE), None


class Values(nn.Module):
    """Scores which words are the value of an argument: two convolutions over the words, for each argument.

    The first convolution sees the states of the words and of the argument. With ``stems`` int (B, L, S) it also sees
    which words occur in the argument's name (the first half of its stems) or in its description (the second half), and
    the share of each word's clause that belongs to the argument's tool: ``field_tools`` int (B, P) and ``shares``
    float (B, T, W).
    """

    def __init__(self, hidden_size: int, features: int, hidden: int, stems: int) -> None:
        super().__init__()
        width = hidden_size + features
        self.words = nn.Conv1d(width, hidden, 2 * NEAR + 1, padding=NEAR, bias=False)
        self.field = nn.Linear(width, hidden)
        self.met = nn.Conv1d(3, hidden, 2 * REACH + 1, padding=REACH, bias=False) if stems else None
        self.mix = nn.Conv1d(hidden, hidden, 2 * NEAR + 1, padding=NEAR)
        self.tag, self.kind = nn.Linear(hidden, TAGS), nn.Linear(hidden + width, KINDS)
        with torch.no_grad():
            if features:
                for weight in (self.words.weight, self.field.weight, self.kind.weight[:, hidden:]):
                    weight[:, :hidden_size].mul_(STATE_INIT_SCALE)
            self.tag.bias.copy_(torch.tensor([OUTSIDE / STEEP, 0.0, 0.0]))

    def forward(self, states: Tensor, field_places: Tensor, is_word: Tensor, **extra: Any) -> tuple[Tensor, Tensor]:
        """Logits of kinds (B, P, KINDS) and tags (B, P, W, TAGS), from states (B, L, E), features included, and
        ``is_word`` bool (B, W)."""
        W, real = is_word.shape[1], is_word[:, None, :, None]
        words = states[:, 1 : W + 1] * is_word[..., None]
        fields = rows_at(states, field_places)
        seen = self.words(words.transpose(1, 2)).transpose(1, 2)[:, None] + self.field(fields)[:, :, None]
        if self.met is not None:
            seen = seen + _over_words(self.met, _shared_stems(field_places, W, **extra))
        seen = F.gelu(_over_words(self.mix, F.gelu(seen) * real)) * real
        return STEEP * self.kind(torch.cat((seen.amax(2), fields), -1)), STEEP * self.tag(seen)


def _over_words(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over dimension 2 of (B, P, W, C)."""
    convolved = conv(x.flatten(0, 1).transpose(1, 2))
    return convolved.transpose(1, 2).unflatten(0, x.shape[:2])


def _shared_stems(
    field_places: Tensor, words: int, *, stems: Tensor, field_tools: Tensor, shares: Tensor, **rest: Any
) -> Tensor:
    """(B, P, W, 3): whether the word is in the argument's name, whether it is in its description, and the tool's share
    of the word's clause."""
    of_words, of_fields = stems[:, 1 : words + 1, :1], rows_at(stems, field_places)
    met = (of_words[:, None] == of_fields[:, :, None]) & (of_words[:, None] > 0)
    share = rows_at(shares, field_tools[:, : field_places.shape[1]])[..., :words]
    return torch.stack([*(part.any(-1).float() for part in met.chunk(2, -1)), share], -1)


def _tags(logits: Tensor, kinds: Tensor, owners: Tensor | None) -> Tensor:
    """Tags (B, P, W). An argument with a single span gets the most likely span, one with several spans the most likely
    tag of each word, the others get none. If the spans of two arguments of a tool overlap, the more likely one keeps
    its words, and the other takes its most likely span among the remaining words."""
    begins, inside = _odds(logits)
    first, last, score = _likeliest_span(begins, inside)
    words = torch.arange(logits.shape[2], device=logits.device)
    if owners is not None:
        single = (kinds > 0) & (kinds < SPANS)
        order = torch.arange(kinds.shape[1], device=kinds.device)
        loses = (score.mT > score) | ((score.mT == score) & (order < order[:, None]))
        rivals = loses & (owners[:, :, None] == owners[:, None]) & single[:, :, None] & single[:, None]
        taken = rivals.double() @ ((words >= first) & (words <= last)).double() > 0
        other = _likeliest_span(begins.masked_fill(taken, UNREACHABLE), inside.masked_fill(taken, UNREACHABLE))
        elsewhere = other[2] > UNREACHABLE / 2
        first, last = torch.where(elsewhere, other[0], first), torch.where(elsewhere, other[1], last)
    in_span = (words >= first) & (words <= last) & (score > UNREACHABLE / 2)
    one = torch.where(in_span, torch.where(words == first, 1, 2), 0)
    several = logits.argmax(-1) * (kinds == SPANS)[..., None]
    return torch.where((kinds < SPANS)[..., None], one, several)


def _span_cost(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy (B, P), float64, of each argument's span among all spans. Tags (B, P, W) must have a single span
    for each argument; the cost of arguments without one is meaningless."""
    begins, inside = _odds(logits)
    total = inside.cumsum(-1)
    every = (total + (begins - total).logcumsumexp(-1)).logsumexp(-1)
    words = (tags == 1).double() * begins + (tags == 2).double() * inside
    return every - words.sum(-1)


def _odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log odds of each word to begin a value, and to continue one, against being outside, (B, P, W) each. In float64,
    since they are summed over words, some of which are ``UNREACHABLE``."""
    begins, inside = (logits[..., 1:] - logits[..., :1]).double().unbind(-1)
    return begins, inside


def _likeliest_span(begins: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely span: its first word, its last word, and its log odds against no span, (B, P, 1) each. ``begins``
    and ``inside`` (B, P, W) are the log odds of the words' tags against being outside."""
    total = inside.cumsum(-1)
    best, first = (begins - total).cummax(-1)
    score, last = (best + total).max(-1, keepdim=True)
    return first.gather(-1, last), last, score
