"""What the tasks of tool-calling models have in common, whatever kind of model it is."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

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
from trm_fast.tasks.tool_calling.call_metrics import tables
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.data.drawing import draw_conversation
from trm_fast.tasks.tool_calling.data.loading import load_sound, read_folder, read_one, read_sets
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer, load_tokenizer, texts, train_tokenizer


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
    the training rows."""

    tokenizer: str | None = None
    tokenizer_kind: Literal["bpe", "unigram", "char"] = "bpe"
    vocab_size: int = Field(default=8192, ge=32)


class RequestConfig(ToolConfig):
    """``sets``: which sets of a folder to learn, ``SET_train`` and ``SET_val`` each. ``tools``, ``arguments`` and
    ``seq_len``: most of a row; ``bag``: tokens of a position. Of a row that is changed for training ``distractors`` is
    the chance that its tools that are not called come from other rows, ``exchanged`` that a value which stands in the
    request is another row's. ``token_dropout``: share of tokens made unknown in training."""

    sets: list[str] = Field(default=["xlam_swift", "sealtools_swift"], min_length=1)
    seq_len: int = Field(default=256, ge=16)
    tools: int = Field(default=8, ge=1)
    arguments: int = Field(default=40, ge=1)
    bag: int = Field(default=16, ge=1)
    distractors: float = Field(default=0.3, ge=0, le=1)
    exchanged: float = Field(default=0.5, ge=0, le=1)
    token_dropout: float = Field(default=0.1, ge=0, lt=1)


class ToolTask(Task):
    """A task whose questions are conversations, each of which becomes a row that may be too long.

    ``noun`` and the rest are those of ``Task``. ``asset_file``: what holds ``to_json`` beside a model's weights.
    """

    noun = "conversations"
    asset_file: ClassVar[str]
    config: Any  # a ToolConfig
    sets: Sequence[str]
    """The sets of a folder that it learns, ``SET_train`` and ``SET_val`` each."""
    cut_note: str
    """What is wrong with rows that are cut."""
    _tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UserError("this model has no tokenizer: it was neither trained nor loaded")
        return self._tokenizer

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
    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        """Takes what the task needs from training conversations, unless it is loaded; those to train on."""

    @abstractmethod
    def row_of(self, conversation: Conversation) -> Any:
        """The row of a conversation: ``cut`` says whether something is left out."""

    @abstractmethod
    def examples(self, rows: Sequence[Any], sources: Sequence[Conversation]) -> Examples:
        """Rows, and the conversations that they are of."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What was learnt beside the tokenizer."""

    @abstractmethod
    def restore(self, saved: Any) -> None:
        """Takes what ``to_json`` gave."""

    def save_assets(self, folder: Path) -> None:
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        (folder / self.asset_file).write_text(text + "\n", encoding="utf-8")
        self.tokenizer.save(folder)

    def load_assets(self, folder: Path) -> None:
        path = folder / self.asset_file
        try:
            self.restore(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged: {error}") from None
        self._tokenizer = load_tokenizer(folder)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Conversations of the training files, and those of ``data.test``, of the folder's validation files, or held
        out by dialogue or request."""
        train, test, notes = read_sets(self.name, data, self.sets, seed)
        train = self.learn(train, data, seed)
        conversations = (*train, *test)
        rows = [self.row_of(conversation) for conversation in conversations]
        training, testing = slice(len(train)), slice(len(train), None)
        for part, name in ((training, "training"), (testing, "test")):
            if cut := sum(row.cut for row in rows[part]):
                notes.append(f"{cut} of {len(rows[part])} {name} rows {self.cut_note}")
        both = self.examples(rows, conversations)
        return Dataset(both.take(training), both.take(testing), str(data.source), notes)

    def read(self, source: str) -> Examples:
        """Every row of a file, or of the validation files of a folder."""
        conversations = tuple(read_folder(source, self.sets))
        return self.examples([self.row_of(conversation) for conversation in conversations], conversations)

    def known_tools(self) -> tuple[Tool, ...]:
        """Tools to offer where none are named; UserError in a model that knows none by itself."""
        raise UserError("this model chooses among the tools it is given: give --tools FILE or JSON", wrong_use=True)

    def check(self, conversation: Conversation) -> None:
        """UserError where nothing is asked, or the model can't serve it."""
        if not conversation.query.strip():
            raise UserError(f"{conversation.where or 'the conversation'} has no user turn: there is nothing to answer")

    def ask(self, conversation: Conversation) -> Question:
        """The question what comes next; UserError where the model can't serve it."""
        self.check(conversation)
        examples = self.examples([self.row_of(conversation)], [conversation])
        extra = {name: array[0] for name, array in examples.extra.items() if name != "row"}
        return Question(conversation.query, examples.inputs[0], conversation.where, extra=extra)

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

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics)

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        shown = Conversation((), (Turn("user", question.text),), question.where)
        return draw_conversation(shown) if answer is None else self.format(question, answer)
