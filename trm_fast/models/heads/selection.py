"""The head of a model that chooses among a row's own tools: it points at positions, so that any tool will do."""

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
RUN_KINDS = int(ArgumentKind.SPANS)
"""Kinds up to this one have a single run of words."""
NEAR, REACH = 2, 6
"""How many words on either side tell what one is, and how far from a word of an argument its value may stand."""
ARGUMENTS = 2.0
"""Weight of the arguments' loss beside that of the tools."""
GAIN = 10.0
"""Of the measures that count directly: an optimizer that moves all weights alike finds their size in a few steps."""
STEEP = 4.0
"""Of kinds and tags, for the same reason."""
STATE_INIT_SCALE = 0.1
"""Of weights that read the network's state, at first."""
UNREACHABLE = -1e4
OUTSIDE = 3.0
"""Initial logit of a word that belongs to no value: most do not."""


class Selection(NamedTuple):
    """Logits, float32, of B rows with T tools, P arguments of them and W words."""

    tools: Tensor  # (B, T): called or not; a place without a tool is out of reach
    kinds: Tensor  # (B, P, KINDS)
    tags: Tensor  # (B, P, W, TAGS)
    known: Tensor | None = None  # (B, T): the tools' logits by their features alone
    owners: Tensor | None = None  # (B, P): each argument's tool


class SelectionConfig(ArgumentsConfig):
    """Most of what a row may have, and the widths in which its parts meet."""

    kind: Literal["selection"] = "selection"
    num_tools: int = Field(1, ge=1, description="tools of a row")
    num_fields: int = Field(1, ge=1, description="arguments of all tools of a row")
    num_words: int = Field(1, ge=1, description="positions behind the first that a value may stand in")
    stems: int = Field(0, ge=0, description="numbers of stems by which words and arguments meet; 0 for none")
    known_tools: int = Field(
        0, ge=0, description="a fixed classifier over so many tools; 0 to point at any tool's position"
    )
    tool_width: int = Field(64, ge=1, description="in which the request meets the tools")
    value_width: int = Field(32, ge=1, description="in which words meet the arguments")

    def check(self, inputs: HeadInputs) -> None:
        if self.num_words >= inputs.seq_len:
            raise ValueError(f"num_words {self.num_words} must be less than seq_len {inputs.seq_len}")


@register("selection")
class SelectionHead(Head):
    """Which tools are called (``Pointer`` or ``Classifier``), and what their arguments are (``Values``).

    ``extra``: ``tool_places`` int (B, T) and ``field_places`` int (B, P), places in the sequence, 0 for none; ``mask``
    (B, L); in a model with features ``features`` (B, L, F); in one with stems what ``Values`` takes. Words are the
    places from 1 to the first tool. Labels are int (B, T + P + P W), tools 0 or 1, kinds, tags, ``IGNORE`` where there
    is nothing to learn; answers are the same with tools as logits in thousandths. Of an argument that has one run of
    words at most, the answer is the likeliest run, and no two arguments of a tool have the same words.
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
        places = answer[:, self.prefix_tokens :].float()
        logits, by_features = self.choice(places, tool_places, **extra)
        if "features" in extra:
            places = torch.cat((places, extra["features"].float()), -1)
        P, W = self.fields, self.words
        # What no row of the batch has need not be computed.
        if tool_places.device.type == "cpu" and not static_shapes:
            P = max(1, int((field_places > 0).sum(1).max()))
            W = min(W, max(1, int(tool_places[:, 0].max()) - 1))
        known_words = torch.arange(self.words, device=places.device) < tool_places[:, :1] - 1
        kinds, tags = self.values(places, field_places[:, :P], known_words[:, :W], **extra)
        # Up to all arguments and words that the model has; those not there are left out and outside.
        more = (0, self.fields - kinds.shape[1])
        kinds, tags = F.pad(kinds, (0, 0, *more)), F.pad(tags, (0, 0, 0, self.words - tags.shape[2], *more))
        # Of an argument or a word that is not there nothing is said, whatever else is in the batch.
        there = (field_places > 0)[..., None]
        nothing = UNREACHABLE * (torch.arange(TAGS, device=tags.device) > 0)
        tags = torch.where((there & known_words[:, None])[..., None], tags, nothing)
        return Selection(logits, kinds.masked_fill(~there, 0.0), tags, by_features, extra.get("field_tools"))

    def answers(self, prediction: Selection) -> Tensor:
        tools = (prediction.tools * SCORE_SCALE).round().long()
        kinds = prediction.kinds.argmax(-1)
        tags = _tags(prediction.tags, kinds, prediction.owners)
        return torch.cat([tools, kinds, tags.flatten(1)], 1)

    def loss(self, prediction: Selection, q: Tensor, labels: Tensor, *, last: bool = True, **extra: Tensor) -> Loss:
        """Binary cross-entropy of the tools, and ``ARGUMENTS`` times the means over the called tools' arguments of the
        kinds' cross-entropy and of the words': of an argument with one run of words against all other runs, of one with
        several the sum over its tags. A row is exactly right when all of them are."""
        tools, kinds, tags = (part.long() for part in labels.split(self.sizes, 1))
        known = tools != IGNORE
        cost = F.binary_cross_entropy_with_logits(prediction.tools, (tools == 1).float(), reduction="none")
        if prediction.known is not None:  # what is known counts also where the network has learnt the row by heart
            cost = cost + F.binary_cross_entropy_with_logits(prediction.known, (tools == 1).float(), reduction="none")
        answer = (cost * known).sum(-1) / known.sum(-1).clamp_min(1)
        kind_cost = cross_entropy(prediction.kinds, kinds).sum(-1) / (kinds != IGNORE).sum(-1).clamp_min(1)
        tags = tags.view(*kinds.shape, -1)
        told = (tags != IGNORE).any(-1)
        several = cross_entropy(prediction.tags.flatten(1, 2), tags.flatten(1)).view(tags.shape).sum(-1)
        one = told & (kinds > 0) & (kinds < RUN_KINDS)
        word_cost = torch.where(one, _run_cost(prediction.tags, tags).to(several.dtype), several)
        word_cost = (word_cost * told).sum(-1) / told.sum(-1).clamp_min(1)
        arguments = ARGUMENTS * (last or not self.last_alone)
        answer = (answer + arguments * (kind_cost + word_cost)).sum()
        said = self.answers(prediction)
        said[:, : self.sizes[0]] = (said[:, : self.sizes[0]] > 0).long()
        return joint_loss(answer, said == labels, labels != IGNORE, q)


class Pointer(nn.Module):
    """Any tool: its place and the request's agree, or what is known of it (``features``) speaks for it."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        D, R = inputs.hidden_size, config.tool_width
        self.request, self.tool, self.tool_bias = Linear(D, R), Linear(D, R), Linear(D, 1)
        self.shortcut = nn.Parameter(torch.zeros(inputs.features)) if inputs.features else None
        if inputs.features:
            # What is known says more at first than a network that has learnt nothing, and must not be drowned by it.
            with torch.no_grad():
                for layer in (self.tool, self.tool_bias):
                    layer.weight.mul_(STATE_INIT_SCALE)

    def forward(self, places: Tensor, tool_places: Tensor, **extra: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T), and those by features alone where there are any."""
        tools = rows_at(places, tool_places)
        agreement = torch.einsum("bd,btd->bt", self.request(places[:, 0]), self.tool(tools))
        logits = agreement * self.tool.weight.shape[0] ** -0.5 + self.tool_bias(tools).squeeze(-1)
        by_features = None
        if self.shortcut is not None:
            by_features = GAIN * (rows_at(extra["features"].float(), tool_places) @ self.shortcut)
            logits = logits + by_features
        return logits.masked_fill(tool_places == 0, UNREACHABLE), by_features


class Classifier(nn.Module):
    """Tools known from training, each by its number ``tool_ids`` int (B, T), 0 for one that is not: never called."""

    def __init__(self, config: SelectionConfig, inputs: HeadInputs) -> None:
        super().__init__()
        self.known = Linear(inputs.hidden_size, config.known_tools + 1)

    def forward(
        self, places: Tensor, tool_places: Tensor, *, tool_ids: Tensor, **extra: Any
    ) -> tuple[Tensor, Tensor | None]:
        logits = self.known(places[:, 0]).gather(1, tool_ids.long())
        return logits.masked_fill(tool_ids == 0, UNREACHABLE), None


class Values(nn.Module):
    """Which words are an argument's: two convolutions over the words, an argument at a time.

    The first one sees the words (B, L, E are their places and all others), the argument, and with ``stems`` int
    (B, L, S) where a word is one of the argument's name (the first half of its stems) or description, and how much of a
    word's clause is its tool's: ``field_tools`` int (B, P), ``shares`` (B, T, most words).
    """

    def __init__(self, places: int, features: int, hidden: int, stems: int) -> None:
        super().__init__()
        width = places + features
        self.words = nn.Conv1d(width, hidden, 2 * NEAR + 1, padding=NEAR, bias=False)
        self.field = nn.Linear(width, hidden)
        self.met = nn.Conv1d(3, hidden, 2 * REACH + 1, padding=REACH, bias=False) if stems else None
        self.mix = nn.Conv1d(hidden, hidden, 2 * NEAR + 1, padding=NEAR)
        self.tag, self.kind = nn.Linear(hidden, TAGS), nn.Linear(hidden + width, KINDS)
        with torch.no_grad():
            if features:
                for weight in (self.words.weight, self.field.weight, self.kind.weight[:, hidden:]):
                    weight[:, :places].mul_(STATE_INIT_SCALE)
            self.tag.bias.copy_(torch.tensor([OUTSIDE / STEEP, 0.0, 0.0]))

    def forward(self, places: Tensor, field_places: Tensor, known_words: Tensor, **extra: Any) -> tuple[Tensor, Tensor]:
        """Logits of kinds (B, P, KINDS) and tags (B, P, W, TAGS); ``known_words`` bool (B, W)."""
        W, real = known_words.shape[1], known_words[:, None, :, None]
        words = places[:, 1 : W + 1] * known_words[..., None]
        fields = rows_at(places, field_places)
        seen = self.words(words.transpose(1, 2)).transpose(1, 2)[:, None] + self.field(fields)[:, :, None]
        if self.met is not None:
            seen = seen + _over_words(self.met, _meeting(field_places, W, **extra))
        seen = F.gelu(_over_words(self.mix, F.gelu(seen) * real)) * real
        return STEEP * self.kind(torch.cat((seen.amax(2), fields), -1)), STEEP * self.tag(seen)


def _over_words(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over dimension 2 of (B, P, W, C)."""
    made = conv(x.flatten(0, 1).transpose(1, 2))
    return made.transpose(1, 2).unflatten(0, x.shape[:2])


def _meeting(
    field_places: Tensor, words: int, *, stems: Tensor, field_tools: Tensor, shares: Tensor, **rest: Any
) -> Tensor:
    """(B, P, W, 3): is the word in the argument's name, in its description, how much of its clause is the tool's."""
    mine, theirs = stems[:, 1 : words + 1, :1], rows_at(stems, field_places)
    met = (mine[:, None] == theirs[:, :, None]) & (mine[:, None] > 0)
    share = rows_at(shares, field_tools[:, : field_places.shape[1]])[..., :words]
    return torch.stack([*(part.any(-1).float() for part in met.chunk(2, -1)), share], -1)


def _tags(logits: Tensor, kinds: Tensor, owners: Tensor | None) -> Tensor:
    """Tags (B, P, W): of arguments with one run of words the likeliest run, of those with several values the likeliest
    of each word; of the others none. Where two arguments of a tool want the same words, the likelier run has them."""
    begins, inside = _odds(logits)
    first, last, score = _runs(begins, inside)
    words = torch.arange(logits.shape[2], device=logits.device)
    if owners is not None:
        wanted = (kinds > 0) & (kinds < RUN_KINDS)
        place = torch.arange(kinds.shape[1], device=kinds.device)
        loses = (score.mT > score) | ((score.mT == score) & (place < place[:, None]))
        rivals = loses & (owners[:, :, None] == owners[:, None]) & wanted[:, :, None] & wanted[:, None]
        taken = rivals.double() @ ((words >= first) & (words <= last)).double() > 0
        again = _runs(begins.masked_fill(taken, UNREACHABLE), inside.masked_fill(taken, UNREACHABLE))
        elsewhere = again[2] > UNREACHABLE / 2
        first, last = torch.where(elsewhere, again[0], first), torch.where(elsewhere, again[1], last)
    run = (words >= first) & (words <= last) & (score > UNREACHABLE / 2)
    one = torch.where(run, torch.where(words == first, 1, 2), 0)
    several = logits.argmax(-1) * (kinds == RUN_KINDS)[..., None]
    return torch.where((kinds < RUN_KINDS)[..., None], one, several)


def _run_cost(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy (B, P), float64, of each argument's run of words among all runs; tags (B, P, W) with one run each,
    those without any cost something that means nothing."""
    begins, inside = _odds(logits)
    total = inside.cumsum(-1)
    every = (total + (begins - total).logcumsumexp(-1)).logsumexp(-1)
    words = (tags == 1).double() * begins + (tags == 2).double() * inside
    return every - words.sum(-1)


def _odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log odds of beginning and of going on against being outside, (B, P, W) each. In float64: they are summed up over
    words, of which those that are not there are out of reach."""
    begins, inside = (logits[..., 1:] - logits[..., :1]).double().unbind(-1)
    return begins, inside


def _runs(begins: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest run of words: its first, its last and its log odds against no run, (B, P, 1) each. ``begins`` and
    ``inside`` (B, P, W): log odds of the words' tags against being outside."""
    total = inside.cumsum(-1)
    best, at = (begins - total).cummax(-1)
    score, last = (best + total).max(-1, keepdim=True)
    return at.gather(-1, last), last, score
