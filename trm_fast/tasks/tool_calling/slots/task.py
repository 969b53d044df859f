"""The task tool-slots: from a history, whether to call a tool, which one, with which arguments, and the slots."""

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
from trm_fast.tasks.tool_calling.data.loading import find, load_sound
from trm_fast.tasks.tool_calling.slots.encoding import NUM_ROLES, Row, encode
from trm_fast.tasks.tool_calling.slots.fields import Fields, SlotLabels
from trm_fast.tasks.tool_calling.slots.metrics import measure, tables
from trm_fast.tasks.tool_calling.slots.variants import value_bank, variant
from trm_fast.tasks.tool_calling.task import Prediction, ToolConfig, ToolTask
from trm_fast.tasks.tool_calling.text.tokenizer import PAD, UNKNOWN


class ToolSlotsConfig(ToolConfig):
    """``set``: which set of a folder to learn, ``SET_train`` and ``SET_val``. ``tokenizer``: a folder or file of one
    made before; by default one of ``vocab_size`` pieces is learnt from the training rows. ``response_tokens``: how many
    tokens of a tool's result are read. ``variants``: copies of each training row with other slot values.
    ``word_dropout``: share of tokens that training makes unknown."""

    name: str = "tool-slots"
    set: str = "sgd"
    vocab_size: int = Field(default=2048, ge=32)
    seq_len: int = Field(default=256, ge=8)
    response_tokens: int = Field(default=24, ge=0)
    variants: int = Field(default=3, ge=0)
    word_dropout: float = Field(default=0.05, ge=0, lt=1)


class ToolSlots(ToolTask):
    name: ClassVar[str] = "tool-slots"
    Config: ClassVar[type[ToolSlotsConfig]] = ToolSlotsConfig
    more_steps_help: ClassVar[bool] = False
    asset_file = "fields.json"

    def __init__(self, config: ToolSlotsConfig | None = None) -> None:
        c = self.config = config or ToolSlotsConfig()
        self.sets, self.vocab_size, self.seq_len = [c.set], c.vocab_size, c.seq_len
        self.cut_note = f"are longer than {c.seq_len} tokens: their first turns are cut"
        self.fields = Fields((), (), (), (), {})

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """Sizes of tools and fields come from the training file; a run whose file has gone keeps those it has."""
        head: dict[str, Any] = {"kind": "slots"}
        try:
            fields = self.fields if self.fields.tools else self._fields_of(data)
            head |= {"num_tools": len(fields.tools), "num_fields": fields.count, "num_values": fields.most_values}
        except UserError:
            pass  # the dataset says so
        return super().model_keys(data) | {"roles": NUM_ROLES, "head": head}

    def to_json(self) -> dict[str, Any]:
        return self.fields.to_json()

    def restore(self, saved: Any) -> None:
        self.fields = Fields.from_json(saved)

    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        """A task that is loaded keeps its tokenizer and makes no variants."""
        if self._tokenizer is not None:
            return train
        self.fields = self._fields_of(data)
        self.learn_tokenizer(train)
        return [*train, *self._variants(train, seed)]

    def _fields_of(self, data: DataConfig) -> Fields:
        """Of the whole training file, rows that are held out included."""
        if data.source is None:
            raise UserError("tool-slots learns from files: give --data FOLDER or FILE", wrong_use=True)
        source = Path(find(data.source, self.config.set)[0])
        return _read_fields(source, source.stat().st_mtime_ns if source.is_file() else 0)

    def _variants(self, train: Sequence[Conversation], seed: int) -> list[Conversation]:
        rng = np.random.default_rng(seed)
        closed = {n for t in self.fields.tools for n, schema in t.parameters["properties"].items() if "enum" in schema}
        bank = value_bank(train, [name for name in self.fields.slots if name not in closed])
        return [variant(c, bank, rng) for _ in range(self.config.variants) for c in train]

    def row_of(self, conversation: Conversation) -> Row:
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

    def read(self, source: str) -> Examples:
        """Every row of a file, or of a folder's validation set."""
        train, held = find(source, self.config.set)
        loaded = load_sound(held or train)
        if loaded.refused:
            raise UserError(str(loaded.refused[0]))
        if missing := next((c for c in loaded.conversations if c.decision is None), None):
            raise UserError(f"{missing.where}: decision: is missing: this model is measured on decisions")
        return self.examples([self.row_of(c) for c in loaded.conversations], loaded.conversations)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Tokens made unknown at random, those of values aside."""
        if not self.config.word_dropout:
            return examples
        inputs, roles = examples.inputs, examples.extra["roles"]
        kept = np.zeros(inputs.shape, dtype=np.bool_)
        labels, positions = SlotLabels.of(examples.labels), np.arange(inputs.shape[1])
        for field in range(self.fields.count):
            kept |= (positions >= labels.starts[:, field, None]) & (positions <= labels.ends[:, field, None])
        gone = (rng.random(inputs.shape, dtype=np.float32) < self.config.word_dropout) & ~kept & (roles > 0)
        return replace(examples, inputs=np.where(gone, np.int32(UNKNOWN), inputs))

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        return measure(examples, answers, self.fields, self.tokenizer)

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics, self.fields)

    def known_tools(self) -> tuple[Tool, ...]:
        return self.fields.tools

    def check(self, conversation: Conversation) -> None:
        if not conversation.turns:
            raise UserError(f"{conversation.where or 'the conversation'} has no turns: there is nothing to answer")
        known = [tool.name for tool in self.fields.tools]
        if unknown := [tool.name for tool in conversation.tools if tool.name not in known]:
            raise UserError(
                f"this model knows the tools {', '.join(known)} alone, not {', '.join(unknown)}: "
                "it chooses among those it was trained with"
            )

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        call = self.fields.call(answer, question.inputs, self.tokenizer) if tools else None
        slots = self.fields.slot_values(answer, question.inputs, self.tokenizer)
        filled = {name: value for name, value in slots.items() if value != ""}
        return Prediction.of_calls([call] if call else [], tools, slots=filled)

    def parse(self, text: str, where: str = "") -> Question:
        """A row as JSON, or what a user says, with all tools on offer."""
        conversation = Conversation(self.fields.tools, (Turn("user", text.strip()),), where)
        if text.lstrip().startswith("{"):
            try:
                conversation = read_slots(json.loads(text) | {"decision": "direct_answer"}, where)
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
    """Of a file as it was when it was ``changed``."""
    rows = [c for c in load_sound(source).conversations if c.decision is not None]
    if not rows:
        raise UserError(f"{source} has no rows with a decision")
    return Fields.of(rows)
