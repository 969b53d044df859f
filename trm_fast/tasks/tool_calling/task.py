"""What the tasks of tool-calling models have in common, whatever kind of model it is."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from trm_fast.errors import UserError
from trm_fast.tasks.base import (
    Array,
    DataConfig,
    Dataset,
    Examples,
    Question,
    Solution,
    Solving,
    Task,
    TaskConfig,
)
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.data.drawing import draw_conversation
from trm_fast.tasks.tool_calling.data.loading import load_sound, read_folder, read_one, read_sets
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer, load_tokenizer, texts, train_tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """What a model would do next. ``problems``: what keeps its calls from being valid against the offered tools."""

    decision: str
    calls: tuple[Call, ...] = ()
    slots: dict[str, str | None] = field(default_factory=dict)
    reply: str = ""
    problems: tuple[str, ...] = ()

    @classmethod
    def of_calls(cls, calls: Sequence[Call], tools: Sequence[Tool], **more: Any) -> Prediction:
        wrong = tuple(problem for call in calls for problem in problems(call, tools))
        return cls("tool_call" if calls else "direct_answer", tuple(calls), problems=wrong, **more)

    def to_json(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "calls": [call.to_json() for call in self.calls],
            "slots": self.slots,
            "reply": self.reply,
            "problems": list(self.problems),
        }


class ToolConfig(TaskConfig):
    """``tokenizer``: a folder; without one a tokenizer of ``tokenizer_kind`` with ``vocab_size`` pieces is learnt from
    the training rows. ``retired``: keys of earlier versions with the only value that still means the same."""

    retired: ClassVar[Mapping[str, Any]] = {}

    tokenizer: str | None = None
    tokenizer_kind: Literal["bpe", "unigram", "char"] = "bpe"
    vocab_size: int = Field(default=8192, ge=32)

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            return keys
        for name, value in cls.retired.items():
            if name in keys and keys[name] != value:
                raise ValueError(f"{name} is no longer there: leave it out")
        return {name: value for name, value in keys.items() if name not in cls.retired}


class ToolTask(Task):
    """A task whose questions are conversations. ``noun`` and the rest are those of ``Task``."""

    noun = "conversations"
    config: Any  # a ToolConfig
    _tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UserError("this model has no tokenizer: it was neither trained nor loaded")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def learn_tokenizer(self, train: Sequence[Conversation]) -> None:
        """Of the configuration's folder, or from training rows."""
        c = self.config
        if c.tokenizer:
            self._tokenizer = load_tokenizer(Path(c.tokenizer))
        else:
            self._tokenizer = train_tokenizer(texts(train), c.vocab_size, c.tokenizer_kind)
        if self._tokenizer.size > c.vocab_size:
            raise UserError(f"the tokenizer has {self._tokenizer.size} pieces: set task.vocab_size to that")

    @abstractmethod
    def known_tools(self) -> tuple[Tool, ...]:
        """Tools to offer where none are named; UserError in a model that knows none by itself."""

    @abstractmethod
    def ask(self, conversation: Conversation) -> Question:
        """The question what comes next; UserError where the model can't serve it."""

    def predict(self, solver: Solving, conversation: Conversation) -> tuple[Prediction, Solution]:
        """What a solver of this task's model says comes next, and its answer, with ``confidence`` and ``steps``."""
        question = self.ask(conversation)
        answer = solver.solve(question)
        return self.prediction(question, answer.raw, conversation.tools), answer

    @abstractmethod
    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        """What an answer of the model means."""

    def parse(self, text: str, where: str = "") -> Question:
        """A conversation as JSON in any known format, its tools with it."""
        return self.ask(read_one(text, where))

    def questions(self, source: str | Path) -> Iterator[Question]:
        for conversation in load_sound(source).conversations:
            yield self.ask(conversation)

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        shown = Conversation((), (Turn("user", question.text),), question.where)
        return draw_conversation(shown) if answer is None else self.format(question, answer)


class RequestTask(ToolTask):
    """A task that learns from sets of conversations, each of which becomes a row that may be too long."""

    left_out: ClassVar[str]
    """Which part of a row that does not fit."""

    @abstractmethod
    def learn(self, train: list[Conversation], seed: int) -> list[Conversation]:
        """Takes what the task needs from training conversations, unless it is loaded; those to train on."""

    @abstractmethod
    def row_of(self, conversation: Conversation) -> Any:
        """The row of a conversation: ``cut`` says whether something is left out."""

    @abstractmethod
    def examples(self, rows: Sequence[Any], sources: Sequence[Conversation]) -> Examples:
        """Rows, and the conversations that they are of."""

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Conversations of the training files, and those of ``data.test``, of the folder's validation files, or held
        out by request."""
        train, test, notes = read_sets(self.name, data, self.config.sets, seed)
        train = self.learn(train, seed)
        conversations = (*train, *test)
        rows = [self.row_of(conversation) for conversation in conversations]
        training, testing = slice(len(train)), slice(len(train), None)
        for part, name in ((training, "training"), (testing, "test")):
            if cut := sum(row.cut for row in rows[part]):
                notes.append(f"{cut} of {len(rows[part])} {name} rows do not fit: {self.left_out} are left out")
        both = self.examples(rows, conversations)
        return Dataset(both.take(training), both.take(testing), str(data.source), notes)

    def read(self, source: str) -> Examples:
        """Every row of a file, or of the validation files of a folder."""
        conversations = tuple(read_folder(source, self.config.sets))
        return self.examples([self.row_of(conversation) for conversation in conversations], conversations)

    def check(self, conversation: Conversation) -> None:
        """UserError where nothing is asked."""
        if not conversation.query.strip():
            raise UserError(f"{conversation.where or 'the conversation'} has no user turn: there is nothing to answer")


def read_asset(path: Path, decode: Callable[[Any], T]) -> T:
    """What a JSON file beside a model's weights holds."""
    try:
        return decode(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from None
