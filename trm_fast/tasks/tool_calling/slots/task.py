"""The task ``tool-slots``: from a history, whether to call a tool, which one, its arguments, and the slots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.tasks.base import IGNORE, Array, DataConfig, Examples, Question
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.data.loading import find_files, load_nonempty
from trm_fast.tasks.tool_calling.slots.encoding import NUM_ROLES, Row, encode
from trm_fast.tasks.tool_calling.slots.fields import Fields, SlotLabels
from trm_fast.tasks.tool_calling.slots.metrics import measure, tables
from trm_fast.tasks.tool_calling.slots.variants import value_bank, variant
from trm_fast.tasks.tool_calling.task import Prediction, ToolConfig, ToolTask
from trm_fast.tasks.tool_calling.text.tokenizer import PAD, UNKNOWN


class ToolSlotsConfig(ToolConfig):
    """The keys of ``tool-slots``, in addition to those of ``ToolConfig``.

    Attributes:
        set: the data set of a folder to train on, with files ``SET_train`` and ``SET_val``.
        seq_len: the maximum number of tokens per example.
        response_tokens: the number of tokens of a tool's result that are read.
        variants: the number of copies of each training conversation with other slot values.
        word_dropout: the share of tokens that training replaces with the unknown token.
    """

    name: str = "tool-slots"
    set: str = "sgd"
    vocab_size: int = Field(default=2048, ge=32)
    seq_len: int = Field(default=256, ge=8)
    response_tokens: int = Field(default=24, ge=0)
    variants: int = Field(default=3, ge=0)
    word_dropout: float = Field(default=0.05, ge=0, lt=1)


class ToolSlots(ToolTask):
    """Chooses among a fixed set of tools, and fills arguments and slots with spans or known values."""

    name: ClassVar[str] = "tool-slots"
    Config: ClassVar[type[ToolSlotsConfig]] = ToolSlotsConfig
    more_steps_help: ClassVar[bool] = False
    asset_file = "fields.json"
    answer_meaning = "an answer is the row's decision"

    def __init__(self, config: ToolSlotsConfig | None = None) -> None:
        c = self.config = config or ToolSlotsConfig()
        self.sets, self.vocab_size, self.seq_len = [c.set], c.vocab_size, c.seq_len
        self.cut_note = f"are longer than {c.seq_len} tokens: their first turns are cut"
        self.fields = Fields((), (), (), (), {})

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """The numbers of tools, fields and values come from the training file. If it is missing, the configuration
        keeps its numbers."""
        head: dict[str, Any] = {"kind": "slots"}
        try:
            fields = self.fields if self.fields.tools else self._training_fields(data)
            head |= {"num_tools": len(fields.tools), "num_fields": fields.count, "num_values": fields.max_values}
            head["num_arguments"] = len(fields.arguments)
        except UserError:
            pass  # ``dataset`` raises the same error, for commands that need the file
        return super().model_keys(data) | {"roles": NUM_ROLES, "head": head}

    def to_json(self) -> dict[str, Any]:
        return self.fields.to_json()

    def restore(self, saved: Any) -> None:
        self.fields = Fields.from_json(saved)

    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        """Learns fields and tokenizer. A loaded task keeps both and makes no copies."""
        if self._tokenizer is not None:
            return train
        self.fields = self._training_fields(data)
        if isinstance(self._trained, ToolSlots):
            self.fields.check_same_order(self._trained.fields)
        self.learn_tokenizer(train)
        return [*train, *self._variants(train, seed)]

    def _training_fields(self, data: DataConfig) -> Fields:
        """The fields of the whole training file, held-out conversations included."""
        if data.source is None:
            raise UserError("tool-slots learns from files: give --data FOLDER or FILE", usage_error=True)
        source = Path(find_files(data.source, self.config.set)[0])
        return _read_fields(source, source.stat().st_mtime_ns if source.is_file() else 0)

    def _variants(self, train: Sequence[Conversation], seed: int) -> list[Conversation]:
        rng = np.random.default_rng(seed)
        closed = {n for t in self.fields.tools for n, schema in t.arguments.items() if "enum" in schema}
        bank = value_bank(train, [name for name in self.fields.slots if name not in closed])
        return [variant(c, bank, rng) for _ in range(self.config.variants) for c in train]

    def encode_row(self, conversation: Conversation) -> Row:
        return encode(conversation, self.tokenizer, self.seq_len, self.config.response_tokens)

    def examples(self, rows: Sequence[Row], sources: Sequence[Conversation]) -> Examples:
        N, L = len(rows), self.seq_len
        inputs, roles = np.full((N, L), PAD, dtype=np.int32), np.zeros((N, L), dtype=np.int32)
        offered = np.zeros((N, len(self.fields.tools)), dtype=np.bool_)
        labels = np.full((N, 2 + 3 * self.fields.count), IGNORE, dtype=np.int32)
        for i, (row, conversation) in enumerate(zip(rows, sources, strict=True)):
            inputs[i, : len(row.ids)], roles[i, : len(row.ids)] = row.ids, row.roles
            offered[i] = self.fields.offered(conversation)
            labels[i] = self.fields.labels(conversation, row, self.tokenizer)
        mask = np.arange(L) < (inputs != PAD).sum(1, keepdims=True)
        return Examples(inputs, labels, np.zeros(N, dtype=np.int32), {"roles": roles, "mask": mask, "offered": offered})

    def has_answer(self, conversation: Conversation) -> bool:
        return conversation.decision is not None

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Replaces random tokens, except those of values, with the unknown token."""
        if not self.config.word_dropout:
            return examples
        inputs, roles = examples.inputs, examples.extra["roles"]
        kept = np.zeros(inputs.shape, dtype=np.bool_)
        labels, positions = SlotLabels.of(examples.labels), np.arange(inputs.shape[1])
        for field in range(self.fields.count):
            kept |= (positions >= labels.starts[:, field, None]) & (positions <= labels.ends[:, field, None])
        dropped = (rng.random(inputs.shape, dtype=np.float32) < self.config.word_dropout) & ~kept & (roles > 0)
        return replace(examples, inputs=np.where(dropped, np.int32(UNKNOWN), inputs))

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        return measure(examples, answers, self.fields, self.tokenizer)

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics, self.fields)

    def known_tools(self) -> tuple[Tool, ...]:
        return self.fields.tools

    def check(self, conversation: Conversation) -> None:
        if not conversation.turns:
            raise UserError(f"{conversation.where or 'the conversation'} has no turns: there is nothing to answer")
        names = [tool.name for tool in self.fields.tools]
        if unknown := [tool.name for tool in conversation.tools if tool.name not in names]:
            raise UserError(
                f"this model only knows the tools that it was trained with, {', '.join(names)}, "
                f"not {', '.join(unknown)}"
            )

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        call = self.fields.call(answer, question.inputs, self.tokenizer) if tools else None
        slots = self.fields.slot_values(answer, question.inputs, self.tokenizer)
        filled = {name: value for name, value in slots.items() if value != ""}
        return Prediction.of_calls([call] if call else [], tools, slots=filled)

    def parse(self, text: str, where: str = "") -> Question:
        """The question of a row as JSON, or of a user's text, with all tools offered."""
        conversation = Conversation(self.fields.tools, (Turn("user", text.strip()),), where)
        if text.lstrip().startswith("{"):
            try:
                conversation = read_slots(json.loads(text) | {"decision": "direct_answer", "tool": {}}, where)
            except ValueError as error:
                raise UserError(f"{where or 'the row'}: {error}") from None
        elif not text.strip():
            raise UserError(f"{where or 'the question'} is empty")
        return self.ask(conversation)

    def format(self, question: Question, answer: Array) -> str:
        tools = [t for t, on in zip(self.fields.tools, question.extra["offered"], strict=True) if on]
        return json.dumps(self.prediction(question, answer, tools).to_json(), ensure_ascii=False)


@lru_cache(maxsize=4)
def _read_fields(source: Path, changed: int) -> Fields:
    """The fields of a file; ``changed``, its modification time, makes the cache read a changed file again."""
    rows = [c for c in load_nonempty(source).conversations if c.decision is not None]
    if not rows:
        raise UserError(f"{source} has no rows with a decision")
    return Fields.of(rows)
