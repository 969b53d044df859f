"""The task tool-select: which of a row's own tools a request calls, and with which arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, DataConfig, Dataset, Examples, Question
from trm_fast.tasks.tool_calling import files, selection
from trm_fast.tasks.tool_calling.calls import calls_of, labels_of, wanted_calls
from trm_fast.tasks.tool_calling.conversation import Conversation, Tool, Turn, checked
from trm_fast.tasks.tool_calling.drawing import draw_conversation
from trm_fast.tasks.tool_calling.formats import READERS, format_of
from trm_fast.tasks.tool_calling.interface import Prediction, ToolConfig, ToolTask, read_asset
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.select_metrics import accepted_calls, measure, tables
from trm_fast.tasks.tool_calling.selection import Places, Request, Sizes
from trm_fast.tasks.tool_calling.tokenizer import UNKNOWN, load_tokenizer
from trm_fast.tasks.tool_calling.variants import Variants

LEXICON_FILE = "lexicon.json"
ARRAYS = ("roles", "features", "stems", "tool_places", "tool_ids", "field_places", "field_tools", "shares")


class ToolSelectConfig(ToolConfig):
    """``sets``: which sets of a folder to learn, ``SET_train`` and ``SET_val`` each. ``words``, ``tools``,
    ``arguments`` and ``seq_len``: most of a row; ``bag``: tokens of a place. ``variants``: copies of each training
    row; ``distractors`` is the chance that a copy's tools that are not called come from other rows, ``exchanged`` that
    a value which stands in the request is another row's. ``uncalled``: copies, as a share of the rows, without the
    called tools, so that a model learns to call none. ``token_dropout``: share of tokens made unknown in training.
    ``tool_choice``: a pointer to any tool that is offered, or a classifier over the tools called in training, at most
    ``known_tools``: it never calls another one."""

    name: str = "tool-select"
    sets: list[str] = Field(default=["xlam_swift", "sealtools_swift"], min_length=1)
    vocab_size: int = Field(default=8192, ge=32)
    seq_len: int = Field(default=256, ge=16)
    words: int = Field(default=160, ge=4)
    tools: int = Field(default=8, ge=1)
    arguments: int = Field(default=40, ge=1)
    bag: int = Field(default=16, ge=1)
    variants: int = Field(default=3, ge=0)
    distractors: float = Field(default=0.3, ge=0, le=1)
    exchanged: float = Field(default=0.5, ge=0, le=1)
    uncalled: float = Field(default=0.1, ge=0)
    token_dropout: float = Field(default=0.1, ge=0, lt=1)
    tool_choice: Literal["pointer", "classifier"] = "pointer"
    known_tools: int = Field(default=4096, ge=1)


class ToolSelect(ToolTask):
    name: ClassVar[str] = "tool-select"
    Config: ClassVar[type[ToolSelectConfig]] = ToolSelectConfig
    more_steps_help: ClassVar[bool] = False

    def __init__(self, config: ToolSelectConfig | None = None) -> None:
        c = self.config = config or ToolSelectConfig()
        if c.seq_len < 1 + c.words + 2 * c.tools:
            raise UserError(f"task.seq_len {c.seq_len} is too small for {c.words} words and {c.tools} tools")
        self.vocab_size, self.seq_len = c.vocab_size, c.seq_len
        self.sizes = Sizes(c.seq_len, c.words, c.tools, c.arguments, c.bag)
        self._lexicon: Lexicon | None = None
        self._called: frozenset[str] = frozenset()
        self._rows: list[Conversation] = []  # what ``extra["row"]`` numbers: measures compare calls, not labels

    @property
    def _classifies(self) -> bool:
        return self.config.tool_choice == "classifier"

    @property
    def _numbers(self) -> dict[str, int]:
        """Of the tools that a classifier knows, from 1."""
        return {name: i for i, name in enumerate(sorted(self._called), 1)} if self._classifies else {}

    @property
    def lexicon(self) -> Lexicon:
        if self._lexicon is None:
            raise UserError("this model has no lexicon: it was neither trained nor loaded")
        return self._lexicon

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        sizes = self.sizes
        return super().model_keys(data) | {
            "inputs": "bags", "outputs": "selection", "roles": selection.NUM_ROLES, "features": selection.NUM_FEATURES,
            "stems": selection.NUM_STEMS, "known_tools": self.config.known_tools if self._classifies else 0,
            "num_tools": sizes.tools, "num_fields": sizes.fields, "num_words": sizes.words,
        }  # fmt: skip

    def save_assets(self, folder: Path) -> None:
        kept = self.lexicon.to_json() | {"called": sorted(self._called)}
        (folder / LEXICON_FILE).write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
        self.tokenizer.save(folder)

    def load_assets(self, folder: Path) -> None:
        self._lexicon, self._called = read_asset(
            folder / LEXICON_FILE, lambda kept: (Lexicon.from_json(kept), frozenset(kept["called"]))
        )
        self._tokenizer = load_tokenizer(folder)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Rows of the training files with their variants, and those of ``data.test``, of the folder's validation
        files, or held out by request. A task that is loaded keeps its tokenizer and makes no variants."""
        train, test, notes = read_sets(self.name, data, self.config.sets, seed)
        if self._lexicon is None:
            self._lexicon = Lexicon.of(tool for c in train for tool in c.tools)
            self._called = frozenset(call.name for c in train for call in wanted_calls(c))
            if self._classifies and len(self._called) > self.config.known_tools:
                raise UserError(f"{len(self._called)} tools are called: set task.known_tools to that")
            self.learn_tokenizer(train)
            train = [*train, *self._copies(train, seed)]
        parts = []
        for rows, name in ((train, "training"), (test, "test")):
            examples, cut = self._examples(rows)
            parts.append(examples)
            if cut:
                notes.append(f"{cut} of {len(rows)} {name} rows do not fit: first words or last arguments are left out")
        return Dataset(parts[0], parts[1], str(data.source), notes)

    def _copies(self, train: Sequence[Conversation], seed: int) -> list[Conversation]:
        c, rng = self.config, np.random.default_rng(seed)
        variants = Variants(train, c.distractors, c.exchanged)
        made = [variants.of(row, rng) for row in [*train] * c.variants]
        for i in rng.permutation(len(train))[: round(c.uncalled * len(train))]:
            made.append(variants.uncalled(train[i], rng))
        return [row for row in made if row.tools]

    def _examples(self, conversations: Sequence[Conversation], *, labelled: bool = True) -> tuple[Examples, int]:
        """Rows, and how many of them were cut."""
        sizes, made, labels, cut = self.sizes, [], [], 0
        numbers = self._numbers
        encode = lru_cache(maxsize=None)(lambda text: self.tokenizer.encode(text).ids)
        for conversation in conversations:
            request = Request.of(conversation.query, conversation.tools, sizes, self.lexicon)
            made.append(Places.of(request, sizes, self.lexicon, encode))
            made[-1].tool_ids[: len(request.tools)] = [numbers.get(tool.name, 0) for tool in request.tools]
            cut += request.cut
            if labelled:
                labels.append(labels_of(request, accepted_calls(conversation), sizes))
        first = len(self._rows)
        self._rows += conversations if labelled else []
        extra = {
            **{name: np.stack([getattr(m, name) for m in made]) for name in ARRAYS},
            "mask": np.arange(sizes.places) < np.array([[m.length] for m in made]),
        }  # fmt: skip
        if labelled:
            extra["row"] = np.arange(first, first + len(made), dtype=np.int32)
        answers = np.stack(labels) if labelled else np.zeros((len(made), 0), dtype=np.int32)
        return Examples(np.stack([m.bags for m in made]), answers, np.zeros(len(made), dtype=np.int32), extra), cut

    def read(self, source: str) -> Examples:
        """Every row of a file, or of the validation files of a folder."""
        return self._examples(_read(source, self.config.sets))[0]

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """Tokens made unknown at random."""
        if not self.config.token_dropout:
            return examples
        bags = examples.inputs
        gone = (rng.random(bags.shape, dtype=np.float32) < self.config.token_dropout) & (bags > UNKNOWN)
        gone[:, 0] = False
        return replace(examples, inputs=np.where(gone, np.int32(UNKNOWN), bags))

    def right(self, labels: Array, answers: Array) -> npt.NDArray[np.bool_]:
        """A tool's answer is a logit: above zero it is called."""
        said = np.array(answers)
        said[:, : self.sizes.tools] = said[:, : self.sizes.tools] > 0
        return labels == said

    def _request(self, conversation: Conversation) -> Request:
        return Request.of(conversation.query, conversation.tools, self.sizes, self.lexicon)

    def metrics(self, examples: Examples, answers: Array) -> dict[str, float]:
        rows = [self._rows[i] for i in examples.extra["row"]]
        requests = [self._request(row) for row in rows]
        found = measure(rows, requests, np.asarray(answers), self.sizes, self.lexicon, self._called)
        if self._classifies:
            offered = [tool.name in self._called for row in rows for tool in row.tools]
            found["known"] = sum(offered) / max(1, len(offered))
        return found

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics)

    def known_tools(self) -> tuple[Tool, ...]:
        raise UserError("this model chooses among the tools it is given: give --tools FILE or JSON", wrong_use=True)

    def ask(self, conversation: Conversation) -> Question:
        if not conversation.query.strip():
            raise UserError(f"{conversation.where or 'the conversation'} has no user turn: there is nothing to answer")
        if not conversation.tools:
            raise UserError(f"{conversation.where or 'the conversation'} offers no tools to choose from")
        rows, _ = self._examples([conversation], labelled=False)
        extra = {name: array[0] for name, array in rows.extra.items()}
        return Question(conversation.query, rows.inputs[0], conversation.where, extra=extra)

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        request = Request.of(question.text, tools, self.sizes, self.lexicon)
        made = Prediction.of_calls(calls_of(request, answer, self.sizes), tools)
        unknown = [tool.name for tool in tools if self._classifies and tool.name not in self._called]
        said = tuple(f"{name} was not called in training: this classifier never calls it" for name in unknown)
        return replace(made, problems=made.problems + said)

    def parse(self, text: str, where: str = "") -> Question:
        """A conversation as JSON in any known format, its tools with it."""
        return self.ask(read_one(text, where))

    def questions(self, source: str | Path) -> Iterator[Question]:
        for conversation in files.load_sound(source).conversations:
            yield self.ask(conversation)

    def format(self, question: Question, answer: Array) -> str:
        """Scores of the tools by their place; ``prediction`` makes calls of them."""
        places = np.flatnonzero(question.extra["tool_places"])
        return json.dumps({"tools": [round(float(answer[i]) / 1000, 3) for i in places]})

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        asked = Conversation((), (Turn("user", question.text),), question.where)
        return draw_conversation(asked) if answer is None else self.format(question, answer)


def read_sets(
    name: str, data: DataConfig, sets: Sequence[str], seed: int
) -> tuple[list[Conversation], list[Conversation], list[str]]:
    """Training and test conversations of a file, or of sets of a folder, and notes of rows that could not be read."""
    if data.source is None:
        raise UserError(f"{name} learns from files: give --data FOLDER or FILE", wrong_use=True)
    train: list[Conversation] = []
    test: list[Conversation] = []
    notes: list[str] = []
    for part in sets if Path(data.source).is_dir() else [""]:
        source, held = files.find(data.source, part)
        loaded = files.load_sound(source)
        notes += files.refusal_note(loaded, source)
        mine = loaded.conversations
        if data.test is None and held is None:
            mine, other = files.split_rows(mine, data.holdout, seed)
            test += other
        elif data.test is None and held is not None:
            test += files.load_sound(held).conversations
        train += mine
    if data.test is not None:
        test = _read(data.test, sets)
    return train, test, notes


def _read(source: str, sets: Sequence[str]) -> list[Conversation]:
    if not Path(source).is_dir():
        return files.load_sound(source).conversations
    pairs = [files.find(source, name) for name in sets]
    return [c for train, held in pairs for c in files.load_sound(held or train).conversations]


def read_one(text: str, where: str) -> Conversation:
    """A conversation from its JSON in any known format; UserError where it is none."""
    try:
        row = json.loads(text)
        return checked(READERS[format_of(row)](row, where))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where or 'the question'}: {error} (a request needs its tools: give a conversation as JSON, or use "
            "trm-fast call --tools)",
            wrong_use=True,
        ) from None
