"""The task ``tool-select``: which of the tools that come with a request are called, and with which arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.labels import SCORE_SCALE
from trm_fast.tasks.base import Array, DataConfig, Examples, Question
from trm_fast.tasks.tool_calling.call_metrics import measure_calls, tables
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool
from trm_fast.tasks.tool_calling.data.variants import Variants
from trm_fast.tasks.tool_calling.matching import expected_calls
from trm_fast.tasks.tool_calling.select import encoding
from trm_fast.tasks.tool_calling.select.calls import decode_calls, encode_labels
from trm_fast.tasks.tool_calling.select.encoding import EncodedRequest
from trm_fast.tasks.tool_calling.select.request import Request, RequestLimits
from trm_fast.tasks.tool_calling.task import Prediction, RequestConfig, ToolTask
from trm_fast.tasks.tool_calling.text.lexicon import LEXICON_FILE, Lexicon
from trm_fast.tasks.tool_calling.text.tokenizer import UNKNOWN

ARRAYS = ("roles", "features", "stems", "tool_places", "tool_ids", "field_places", "field_tools", "shares")


class ToolSelectConfig(RequestConfig):
    """The keys of ``tool-select``, in addition to those of ``RequestConfig``.

    Attributes:
        words: the maximum number of words in a request.
        variants: the number of modified copies per training conversation.
        uncalled: the number of copies without the called tools, as a share of the training conversations; they teach a
            model to call none.
        tool_choice: a pointer to any offered tool, or a classifier over tools seen in training, which never calls any
            other.
        known_tools: the maximum number of tools of that classifier.
    """

    name: str = "tool-select"
    words: int = Field(default=160, ge=4)
    variants: int = Field(default=3, ge=0)
    uncalled: float = Field(default=0.1, ge=0)
    tool_choice: Literal["pointer", "classifier"] = "pointer"
    known_tools: int = Field(default=4096, ge=1)


class ToolSelect(ToolTask):
    """Chooses among the tools that come with a request, and copies their arguments from its words."""

    name: ClassVar[str] = "tool-select"
    Config: ClassVar[type[ToolSelectConfig]] = ToolSelectConfig
    more_steps_help: ClassVar[bool] = False
    asset_file = LEXICON_FILE
    cut_note = "do not fit: first words or last arguments are left out"

    def __init__(self, config: ToolSelectConfig | None = None) -> None:
        c = self.config = config or ToolSelectConfig()
        if c.seq_len < 1 + c.words + 2 * c.tools:
            raise UserError(f"task.seq_len {c.seq_len} is too small for task.words {c.words} and task.tools {c.tools}")
        self.sets, self.vocab_size, self.seq_len = c.sets, c.vocab_size, c.seq_len
        self.limits = RequestLimits(c.seq_len, c.words, c.tools, c.arguments, c.bag)
        self._classifies = c.tool_choice == "classifier"
        self.lexicon = Lexicon(0, {})
        self._called: frozenset[str] = frozenset()

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        limits = self.limits
        head = {
            "kind": "selection", "num_tools": limits.tools, "num_fields": limits.arguments, "num_words": limits.words,
            "stems": encoding.NUM_STEMS, "known_tools": self.config.known_tools if self._classifies else 0,
        }  # fmt: skip
        keys = {"inputs": "bags", "roles": encoding.NUM_ROLES, "features": encoding.NUM_FEATURES, "head": head}
        return super().model_keys(data) | keys

    def to_json(self) -> dict[str, Any]:
        return self.lexicon.to_json() | {"called": sorted(self._called)}

    def restore(self, saved: Any) -> None:
        self.lexicon, self._called = Lexicon.from_json(saved), frozenset(saved["called"])

    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        """Learns lexicon and tokenizer. A loaded task keeps both and makes no copies."""
        if self._tokenizer is not None:
            return train
        self.lexicon = Lexicon.of(tool for conversation in train for tool in conversation.tools)
        self._called = frozenset(call.name for conversation in train for call in expected_calls(conversation))
        if self._classifies and len(self._called) > self.config.known_tools:
            count, limit = len(self._called), self.config.known_tools
            raise UserError(
                f"the training data calls {count} tools, more than task.known_tools = {limit}; raise it to at least "
                f"{count}"
            )
        self.learn_tokenizer(train)
        return [*train, *self._copies(train, seed)]

    def _copies(self, train: Sequence[Conversation], seed: int) -> list[Conversation]:
        config, rng = self.config, np.random.default_rng(seed)
        variants = Variants(train, config.distractors, config.exchanged)
        copies = [variants.of(conversation, rng) for conversation in [*train] * config.variants]
        for i in rng.permutation(len(train))[: round(config.uncalled * len(train))]:
            copies.append(variants.uncalled(train[i], rng))
        return [conversation for conversation in copies if conversation.tools]

    def examples(self, rows: Sequence[Request], sources: Sequence[Conversation]) -> Examples:
        # The numbers of a classifier's tools; 0 is an unknown tool.
        numbers = {name: i for i, name in enumerate(sorted(self._called), 1)} if self._classifies else {}
        encode = lru_cache(maxsize=None)(lambda text: self.tokenizer.ids(text))
        encoded = []
        for request in rows:
            encoded.append(EncodedRequest(request, self.limits, self.lexicon, encode))
            encoded[-1].tool_ids[: len(request.tools)] = [numbers.get(tool.name, 0) for tool in request.tools]
        extra = {name: np.stack([getattr(example, name) for example in encoded]) for name in ARRAYS}
        extra["mask"] = np.arange(self.seq_len) < np.array([[example.length] for example in encoded])
        extra["row"] = np.arange(len(rows), dtype=np.int32)
        inputs = np.stack([example.bags for example in encoded])
        labels = [
            encode_labels(request, expected_calls(conversation), self.limits)
            for request, conversation in zip(rows, sources, strict=True)
        ]
        return Examples(inputs, np.stack(labels), np.zeros(len(rows), dtype=np.int32), extra, tuple(sources))

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Replaces random tokens with the unknown token."""
        if not self.config.token_dropout:
            return examples
        bags = examples.inputs
        hidden = (rng.random(bags.shape, dtype=np.float32) < self.config.token_dropout) & (bags > UNKNOWN)
        hidden[:, 0] = False
        return replace(examples, inputs=np.where(hidden, np.int32(UNKNOWN), bags))

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        """Compares answers with labels. A tool whose logit is above 0 is called."""
        decided = np.array(answers)
        decided[:, : self.limits.tools] = decided[:, : self.limits.tools] > 0
        return labels == decided

    def encode_row(self, conversation: Conversation) -> Request:
        return Request.of(conversation.query, conversation.tools, self.limits, self.lexicon)

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        conversations = [examples.sources[i] for i in examples.extra["row"]]
        requests, answers = [self.encode_row(conversation) for conversation in conversations], np.asarray(answers)
        calls = [decode_calls(*pair, self.limits) for pair in zip(requests, answers, strict=True)]
        calls_with_count = [
            decode_calls(request, answer, self.limits, count=len({call.name for call in expected_calls(conversation)}))
            for conversation, request, answer in zip(conversations, requests, answers, strict=True)
        ]
        metrics = measure_calls(conversations, calls, self.lexicon, calls_with_count, self._called)
        if self._classifies:
            trained = [tool.name in self._called for conversation in conversations for tool in conversation.tools]
            metrics["known"] = sum(trained) / max(1, len(trained))
        return metrics

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics)

    def check(self, conversation: Conversation) -> None:
        super().check(conversation)
        if not conversation.tools:
            raise UserError(
                f"{conversation.where or 'the conversation'} offers no tools: there is nothing to choose from"
            )

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        request = Request.of(question.text, tools, self.limits, self.lexicon)
        prediction = Prediction.of_calls(decode_calls(request, answer, self.limits), tools)
        unknown = [tool.name for tool in tools if self._classifies and tool.name not in self._called]
        warnings = tuple(f"{name} was not called in training: this classifier never calls it" for name in unknown)
        return replace(prediction, problems=prediction.problems + warnings)

    def format(self, question: Question, answer: Array) -> str:
        """The logits of the tools, in the order of their names, as JSON."""
        tools = np.flatnonzero(question.extra["tool_places"])
        return json.dumps({"tools": [round(float(answer[i]) / SCORE_SCALE, 3) for i in tools]})
