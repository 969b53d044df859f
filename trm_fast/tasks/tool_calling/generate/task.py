"""The task ``tool-generate``: writes the next turn of a conversation symbol by symbol, within a grammar of calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from trm_fast.errors import UserError
from trm_fast.registry import suggest
from trm_fast.tasks.base import Array, DataConfig, Decoder, Examples, Question, Solution, SolverLike
from trm_fast.tasks.statistics import add_share
from trm_fast.tasks.tool_calling.call_metrics import flags, measure_calls, tables
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool
from trm_fast.tasks.tool_calling.data.variants import Variants
from trm_fast.tasks.tool_calling.generate.decoding import Decoded, DecodingRow, Search, generate
from trm_fast.tasks.tool_calling.generate.grammar import Grammar
from trm_fast.tasks.tool_calling.generate.transcript import (
    ARRAYS,
    NUM_ROLES,
    RowLimits,
    Transcript,
    in_canonical_order,
    without_next_turn,
)
from trm_fast.tasks.tool_calling.select.encoding import NUM_FEATURES, NUM_STEMS
from trm_fast.tasks.tool_calling.task import Prediction, RequestConfig, ToolTask
from trm_fast.tasks.tool_calling.text.lexicon import LEXICON_FILE, Lexicon
from trm_fast.tasks.tool_calling.text.tokenizer import FIRST_BYTE, UNKNOWN
from trm_fast.validation import validated


class ToolGenerateConfig(RequestConfig):
    """The keys of ``tool-generate``, in addition to those of ``RequestConfig``.

    Training modifies the conversations again each time it reads them.

    Attributes:
        replies: whether the model may also answer in words.
        thoughts: whether ``<think>`` and ``</think>`` in an assistant's text are one symbol each. A call may follow a
            thought.
        reply_weight: the weight of the assistant's words in the loss.
        call_weight: the weight of calls in the loss.
        beams: the number of partial answers that the search keeps.
        temperature: the temperature of sampling; 0: the most likely symbol.
        top_p: the share of the probability that sampling draws from, the most likely symbols first.
        most_tokens: the maximum number of symbols that the search writes.
        generate_count: the number of conversations that an evaluation answers by generating.
    """

    name: str = "tool-generate"
    vocab_size: int = Field(default=4096, ge=32)
    seq_len: int = Field(default=384, ge=16)
    tools: int = Field(default=16, ge=1)
    arguments: int = Field(default=96, ge=1)
    replies: bool = False
    thoughts: bool = False
    reply_weight: float = Field(default=1.0, ge=0)
    call_weight: float = Field(default=2.0, ge=0)
    beams: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    most_tokens: int = Field(default=160, ge=1)
    generate_count: int = Field(default=100, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_penalty(cls, keys: Any) -> Any:
        """Accepts the option ``penalty`` of earlier versions if it is 0. Other values are no longer supported."""
        if not isinstance(keys, Mapping):
            return keys
        if keys.get("penalty"):
            raise ValueError("penalty was removed: leave it out")
        return {name: value for name, value in keys.items() if name != "penalty"}


@dataclass(frozen=True)
class Generated:
    """A solver's answer (``Solution``): the symbols, their mean probability, and the supervision steps of each."""

    raw: Array = field(repr=False)
    confidence: float
    steps: int


class ToolGenerate(ToolTask):
    """Writes calls to the tools that come with a request."""

    name: ClassVar[str] = "tool-generate"
    Config: ClassVar[type[ToolGenerateConfig]] = ToolGenerateConfig
    more_steps_help: ClassVar[bool] = False
    asset_file = LEXICON_FILE
    cut_note = "do not fit: first turns or last arguments are left out"

    def __init__(self, config: ToolGenerateConfig | None = None) -> None:
        c = self.config = config or ToolGenerateConfig()
        self.lexicon = Lexicon(0, {})
        self.limits = RowLimits(c.seq_len, c.tools, c.arguments, c.bag, c.vocab_size, c.thoughts)
        self.sets, self.vocab_size, self.seq_len = c.sets, self.limits.first_position, c.seq_len
        if self.seq_len < 2 * (1 + 2 * c.tools + c.arguments):
            raise UserError(f"task.seq_len {c.seq_len} is too small for {c.tools} tools and {c.arguments} arguments")
        self._variants: Variants | None = None
        self.search_seed = 0

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        head = {"kind": "text", "row_symbols": self.seq_len, "stems": NUM_STEMS}
        return super().model_keys(data) | {
            "inputs": "bags", "causal": True, "mixing": "attention", "roles": NUM_ROLES, "features": NUM_FEATURES,
            "head": head,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return self.lexicon.to_json()

    def restore(self, saved: Any) -> None:
        self.lexicon = Lexicon.from_json(saved)

    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        if self._tokenizer is None:
            self.learn_tokenizer(train)
            self.lexicon = Lexicon.of(tool for c in train for tool in c.tools)
        self._variants = Variants(train, self.config.distractors, self.config.exchanged)
        return train

    def examples(self, rows: Sequence[Transcript], sources: Sequence[Conversation]) -> Examples:
        role_weights = {"assistant": self.config.reply_weight, "tool_call": self.config.call_weight}
        labels, weights = zip(*(row.labels(role_weights) for row in rows), strict=True)
        extra = {name: np.stack([getattr(row, name) for row in rows]) for name in ARRAYS}
        inputs = extra.pop("inputs")
        extra["weights"] = np.stack(weights)
        extra["mask"] = np.arange(self.seq_len) < np.array([[row.length] for row in rows])
        extra["row"] = np.arange(len(rows), dtype=np.int32)
        return Examples(inputs, np.stack(labels), np.zeros(len(rows), dtype=np.int32), extra, sources)

    def has_lesson(self, conversation: Conversation) -> bool:
        """Every turn of the assistant is a lesson, not only the answer to the last user turn."""
        answers = any(turn.role in ("assistant", "tool_call") for turn in conversation.turns)
        return answers or conversation.decision is not None

    def encode_row(self, conversation: Conversation, max_positions: int | None = None) -> Transcript:
        return Transcript(
            in_canonical_order(conversation, self.lexicon), self.tokenizer, self.lexicon, self.limits, max_positions
        )

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Encodes the conversations again with other tools and values, and replaces random tokens with the unknown
        token."""
        if self._variants is not None and (self.config.distractors or self.config.exchanged):
            numbers = examples.extra["row"]
            rows = [self.encode_row(self._variants.of(examples.sources[i], rng)) for i in numbers]
            changed = self.examples(rows, examples.sources)
            examples = replace(changed, extra={**changed.extra, "row": numbers})
        if not self.config.token_dropout:
            return examples
        drawn = rng.random(examples.inputs.shape, dtype=np.float32) < self.config.token_dropout
        hidden = drawn & (examples.inputs >= FIRST_BYTE)
        return replace(examples, inputs=np.where(hidden, np.int32(UNKNOWN), examples.inputs))

    def measures(self, solver: SolverLike, examples: Examples, answers: Array) -> dict[str, float]:
        """Metrics of what the model generates after the last user turn of ``generate_count`` evenly spaced examples.

        ``offered`` is the share of calls that name an offered tool, ``generated`` the number of examples.
        """
        count = min(self.config.generate_count, len(examples))
        chosen = np.linspace(0, len(examples), count, endpoint=False).astype(np.intp)
        rows = [examples.sources[i] for i in examples.extra["row"][chosen]]
        calls = [self.decode(solver, without_next_turn(row))[0].calls for row in rows]
        if not rows:
            return {}
        metrics = {"generated": float(count)} | measure_calls(rows, calls, self.lexicon)
        offered = [
            call.name in {tool.name for tool in row.tools}
            for row, row_calls in zip(rows, calls, strict=True)
            for call in row_calls
        ]
        add_share(metrics, "offered", flags(offered))
        return metrics

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics)

    def set_search(self, *, seed: int = 0, **options: Any) -> None:
        """Changes how answers are searched for.

        Args:
            seed: the seed of sampling.
            options: values of ``beams``, ``temperature``, ``top_p``, ``replies`` and ``most_tokens``; the others stay.

        Raises:
            UserError: an option is unknown or its value is not valid, or several beams and a temperature are given.
        """
        names = ("beams", "temperature", "top_p", "replies", "most_tokens")
        if unknown := [name for name in options if name not in names]:
            raise UserError(f"unknown option {unknown[0]!r} of the search; {suggest(unknown[0], names)}")
        keys = {name: getattr(self.config, name) for name in type(self.config).model_fields} | options
        config = validated(type(self.config), keys, "task", "the search")
        if config.beams > 1 and config.temperature:
            raise UserError("several beams keep the most likely symbols: use either beams or a temperature")
        if config.top_p < 1 and not config.temperature:
            raise UserError("top_p limits sampling: it needs a temperature above 0")
        self.config, self.search_seed = config, seed

    def decode(self, model: Decoder, conversation: Conversation) -> tuple[Prediction, Decoded]:
        """Generates the next turn of a conversation. Its calls always name offered tools, with values of their types.

        Args:
            model: a model of this task, or a solver.
            conversation: the conversation up to the turn to generate.

        Returns:
            The prediction, and the symbols that write it.
        """
        c = self.config
        search = Search(c.most_tokens, c.beams, c.temperature, c.top_p, self.search_seed)
        transcript = self.encode_row(conversation, self.seq_len - min(search.max_symbols, self.seq_len // 2))
        grammar = Grammar(transcript, replies=c.replies)
        decoded = generate(DecodingRow(model.incremental(), transcript), [], grammar.allowed, search)
        reply, calls = grammar.reply(decoded.symbols), grammar.calls(decoded.symbols)
        return Prediction.of_calls(calls, conversation.tools, reply=reply), decoded

    def predict(self, solver: SolverLike, conversation: Conversation) -> tuple[Prediction, Solution]:
        self.check(conversation)
        prediction, decoded = self.decode(solver, without_next_turn(conversation))
        raw = np.array(decoded.symbols, dtype=np.int32)
        return prediction, Generated(raw, math.exp(decoded.mean), solver.incremental().steps)

    def ask(self, conversation: Conversation) -> Question:
        return super().ask(without_next_turn(conversation))

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        raise UserError("a tool-generate model generates its answers: use trm-fast call", usage_error=True)

    def format(self, question: Question, answer: Array) -> str:
        """The text of the most likely next piece at each position. Generated text comes from ``decode``."""
        symbols = np.asarray(answer)[question.extra["mask"]]
        return self.tokenizer.decode(symbols[symbols < self.tokenizer.size].tolist())
