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
from trm_fast.tasks.base import IGNORE, Array, DataConfig, Dataset, Examples, Question
from trm_fast.tasks.tool_calling.data import loading
from trm_fast.tasks.tool_calling.data.conversation import Conversation, Refused, Tool, Turn
from trm_fast.tasks.tool_calling.data.formats.slots import read_slots
from trm_fast.tasks.tool_calling.slots.encoding import NUM_ROLES, encode
from trm_fast.tasks.tool_calling.slots.fields import Fields, SlotLabels
from trm_fast.tasks.tool_calling.slots.metrics import measure, tables
from trm_fast.tasks.tool_calling.slots.variants import value_bank, variant
from trm_fast.tasks.tool_calling.task import Prediction, ToolConfig, ToolTask, read_asset
from trm_fast.tasks.tool_calling.text.tokenizer import PAD, UNKNOWN, load_tokenizer

FIELDS_FILE = "fields.json"


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

    def __init__(self, config: ToolSlotsConfig | None = None) -> None:
        self.config = config or ToolSlotsConfig()
        self.vocab_size, self.seq_len = self.config.vocab_size, self.config.seq_len
        self._fields: Fields | None = None

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            raise UserError("this model has no fields: it was neither trained nor loaded")
        return self._fields

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        """Sizes of tools and fields come from the training file; a run whose file has gone keeps those it has."""
        head: dict[str, Any] = {"kind": "slots"}
        try:
            fields = self._fields or _fields_of(_training_file(data, self.config.set))
            head |= {"num_tools": len(fields.tools), "num_fields": fields.count, "num_values": fields.most_values}
        except UserError:
            pass  # the dataset says so
        return super().model_keys(data) | {"roles": NUM_ROLES, "head": head}

    def save_assets(self, folder: Path) -> None:
        text = json.dumps(self.fields.to_json(), ensure_ascii=False, indent=1)
        (folder / FIELDS_FILE).write_text(text + "\n", encoding="utf-8")
        self.tokenizer.save(folder)

    def load_assets(self, folder: Path) -> None:
        self._fields = read_asset(folder / FIELDS_FILE, Fields.from_json)
        self.tokenizer = load_tokenizer(folder)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Rows of the training file, each with its variants, and those of ``data.test``, of the folder's validation
        file, or held out by dialogue. A task that is loaded keeps its tokenizer and makes no variants."""
        source, held = _training_file(data, self.config.set), data.test
        if held is None and data.source is not None:
            held = loading.find(data.source, self.config.set)[1]
        loaded = _load(source)
        notes = loading.refusal_note(loaded, source)
        train = loaded.conversations
        if held is None:
            train, test = loading.split_rows(train, data.holdout, seed)
        else:
            other = _load(held)
            notes += loading.refusal_note(other, held)
            test = other.conversations
        learning = self._fields is None
        if learning:
            self._fields = _fields_of(source)
            self.learn_tokenizer(train)
            train = [*train, *self._variants(train, seed)]
        parts = [self._examples(part) for part in (train, test)]
        for (_, cut), rows, name in zip(parts, (train, test), ("training", "test"), strict=True):
            if cut:
                notes.append(
                    f"{cut} of {len(rows)} {name} rows are longer than {self.seq_len} tokens: their first turns are cut"
                )
        return Dataset(parts[0][0], parts[1][0], source, notes)

    def _variants(self, train: Sequence[Conversation], seed: int) -> list[Conversation]:
        rng = np.random.default_rng(seed)
        closed = {
            name: any("enum" in t.parameters["properties"].get(name, {}) for t in self.fields.tools)
            for name in self.fields.slots
        }
        bank = value_bank(train, closed)
        return [variant(c, bank, rng) for _ in range(self.config.variants) for c in train]

    def _examples(self, conversations: Sequence[Conversation], *, labelled: bool = True) -> tuple[Examples, int]:
        """Rows, and how many of them were cut."""
        N, L = len(conversations), self.seq_len
        inputs, roles = np.full((N, L), PAD, dtype=np.int32), np.zeros((N, L), dtype=np.int32)
        offered = np.zeros((N, len(self.fields.tools)), dtype=np.bool_)
        labels = np.full((N, 2 + 3 * self.fields.count if labelled else 0), IGNORE, dtype=np.int32)
        cut = 0
        for i, conversation in enumerate(conversations):
            row = encode(conversation, self.tokenizer, L, self.config.response_tokens)
            inputs[i, : len(row.ids)], roles[i, : len(row.ids)] = row.ids, row.roles
            offered[i] = self.fields.offered(conversation)
            cut += row.cut
            if labelled:
                labels[i] = self.fields.labels(conversation, row, self.tokenizer)
        mask = np.arange(L) < (inputs != PAD).sum(1, keepdims=True)
        extra = {"roles": roles, "mask": mask, "offered": offered}
        return Examples(inputs, labels, np.zeros(N, dtype=np.int32), extra), cut

    def read(self, source: str) -> Examples:
        """Every row of a file, or of a folder's validation set."""
        path = loading.find(source, self.config.set)
        loaded = _load(path[1] or path[0])
        if loaded.refused:
            first = loaded.refused[0]
            raise UserError(f"{first.where}: {first.field}: {first.reason}")
        if missing := next((c for c in loaded.conversations if c.decision is None), None):
            raise UserError(f"{missing.where}: decision: is missing: this model is measured on decisions")
        return self._examples(loaded.conversations)[0]

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

    def ask(self, conversation: Conversation) -> Question:
        if not conversation.turns:
            raise UserError(f"{conversation.where or 'the conversation'} has no turns: there is nothing to answer")
        known = [tool.name for tool in self.fields.tools]
        if unknown := [tool.name for tool in conversation.tools if tool.name not in known]:
            raise UserError(
                f"this model knows the tools {', '.join(known)} alone, not {', '.join(unknown)}: "
                "it chooses among those it was trained with"
            )
        rows, _ = self._examples([conversation], labelled=False)
        extra = {name: array[0] for name, array in rows.extra.items()}
        return Question(conversation.query, rows.inputs[0], conversation.where, extra=extra)

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        call = self.fields.call(answer, question.inputs, self.tokenizer) if tools else None
        slots = self.fields.slot_values(answer, question.inputs, self.tokenizer)
        filled = {name: value for name, value in slots.items() if value != ""}
        return Prediction.of_calls([call] if call else [], tools, slots=filled)

    def parse(self, text: str, where: str = "") -> Question:
        """A row as JSON, or what a user says, with all tools on offer."""
        return self.ask(self._conversation(text, where))

    def _conversation(self, text: str, where: str) -> Conversation:
        if text.lstrip().startswith("{"):
            try:
                return read_slots(json.loads(text) | {"decision": "direct_answer"}, where)
            except (ValueError, Refused) as error:
                raise UserError(f"{where or 'the row'}: {error}") from None
        if not text.strip():
            raise UserError(f"{where or 'the question'} is empty")
        return Conversation(self.fields.tools, (Turn("user", text.strip()),), where)

    def format(self, question: Question, answer: Array) -> str:
        tools = [t for t, on in zip(self.fields.tools, question.extra["offered"], strict=True) if on]
        return json.dumps(self.prediction(question, answer, tools).to_json(), ensure_ascii=False)


def _training_file(data: DataConfig, name: str) -> str:
    if data.source is None:
        raise UserError("tool-slots learns from files: give --data FOLDER or FILE", wrong_use=True)
    return loading.find(data.source, name)[0]


def _load(source: str) -> loading.Loaded:
    path = Path(source)
    return _read(source, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=4)
def _read(source: str, changed: int) -> loading.Loaded:
    return loading.load_sound(source)


def _fields_of(source: str) -> Fields:
    rows = [c for c in _load(source).conversations if c.decision is not None]
    if not rows:
        raise UserError(f"{source} has no rows with a decision")
    return Fields.of(rows)
