"""The base class of the three tool-calling tasks: configuration, data sets and predictions."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
    SolverLike,
    Task,
    TaskConfig,
)
from trm_fast.tasks.files import parse_json, read_text, write_text
from trm_fast.tasks.tool_calling.data.conversation import Call, Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.data.drawing import draw_conversation
from trm_fast.tasks.tool_calling.data.loading import answered, load_folder, load_nonempty, read_one, read_sets
from trm_fast.tasks.tool_calling.data.validation import problems
from trm_fast.tasks.tool_calling.text.tokenizer import Tokenizer, load_tokenizer, texts, train_tokenizer

MIN_PIECES = 32
"""The smallest ``vocab_size``."""


@dataclass(frozen=True)
class Prediction:
    """The next step that a model predicts: a decision, calls, slots and a reply.

    ``problems`` lists what is wrong with the calls, by the schemas of the offered tools.
    """

    decision: str
    calls: tuple[Call, ...] = ()
    slots: dict[str, str | None] = field(default_factory=dict)
    reply: str = ""
    problems: tuple[str, ...] = ()

    @classmethod
    def of_calls(cls, calls: Sequence[Call], tools: Sequence[Tool], **more: Any) -> Prediction:
        """The prediction that makes ``calls``, checked against ``tools``; without calls, a direct answer."""
        wrong = tuple(problem for call in calls for problem in problems(call, tools))
        return cls("tool_call" if calls else "direct_answer", tuple(calls), problems=wrong, **more)

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON."""
        calls = [call.to_json() for call in self.calls]
        return asdict(self) | {"calls": calls, "problems": list(self.problems)}


class ToolConfig(TaskConfig):
    """The keys of all tool-calling tasks.

    Attributes:
        tokenizer: the folder of a tokenizer; by default one is learned from the training conversations.
        tokenizer_kind: the kind of tokenizer that is learned.
        vocab_size: the maximum number of its pieces; with ``tokenizer``, a new run takes the number from its file.
    """

    tokenizer: str | None = None
    tokenizer_kind: Literal["bpe", "unigram", "char"] = "bpe"
    vocab_size: int = Field(default=8192, ge=MIN_PIECES)


class RequestConfig(ToolConfig):
    """The keys of the tasks whose tools come with each request.

    Attributes:
        sets: the data sets of a folder to train on, each with files ``SET_train`` and ``SET_val``.
        seq_len: the maximum number of positions per example.
        tools: the maximum number of tools per example.
        arguments: the maximum number of arguments per example.
        bag: the maximum number of tokens per position.
        distractors: in modified copies for training, the probability that tools which are not called are replaced by
            tools of other conversations.
        exchanged: in these copies, the probability that a value in the request is replaced by one from another
            conversation.
        token_dropout: the share of tokens that training replaces with the unknown token.
    """

    sets: list[str] = Field(default=["xlam_swift", "sealtools_swift"], min_length=1)
    seq_len: int = Field(default=256, ge=16)
    tools: int = Field(default=8, ge=1)
    arguments: int = Field(default=40, ge=1)
    bag: int = Field(default=16, ge=1)
    distractors: float = Field(default=0.3, ge=0, le=1)
    exchanged: float = Field(default=0.5, ge=0, le=1)
    token_dropout: float = Field(default=0.1, ge=0, lt=1)


class ToolTask(Task):
    """A task whose questions are conversations.

    Each conversation is encoded as a row, whose ``cut`` says whether it was too long. ``asset_file`` is the name of the
    file in a model's folder that holds the JSON of ``to_json``.
    """

    noun = "conversations"
    asset_file: ClassVar[str]
    config: Any  # a ToolConfig
    sets: Sequence[str]
    """The data sets of a folder to train on."""
    answer_meaning: ClassVar[str] = (
        "an answer is an assistant's turn after the last user turn; BFCL's NAME.json has its answers, by id, in "
        "NAME_possible_answer.json or possible_answer/NAME.json"
    )
    """What messages say about the answers that an evaluation needs."""
    cut_note: str
    """The end of the note that counts the rows that were cut."""
    kept = ("vocab_size",)
    _tokenizer: Tokenizer | None = None
    _trained: ToolTask | None = None

    @classmethod
    def completed(cls, config: TaskConfig, data: DataConfig) -> TaskConfig:
        """Takes the number of pieces from the file of ``tokenizer``.

        Raises:
            UserError: there is no such tokenizer, or it is damaged.
        """
        assert isinstance(config, ToolConfig)
        if config.tokenizer is None:
            return config
        pieces = load_tokenizer(Path(config.tokenizer)).size
        return config.model_copy(update={"vocab_size": max(pieces, MIN_PIECES)})

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UserError: no tokenizer was learned or loaded yet.
        """
        if self._tokenizer is None:
            raise UserError("this task has no tokenizer yet: load a trained model, or read a data set first")
        return self._tokenizer

    def adopt(self, trained: Task) -> None:
        assert isinstance(trained, ToolTask)
        named = self.config.tokenizer
        if named and not load_tokenizer(Path(named)).same_tokens(trained.tokenizer):
            raise UserError(
                f"task.tokenizer: {named} is not the tokenizer of the model that is fine-tuned, whose tokens would "
                "change their meaning. Leave it out: the run takes the model's",
                usage_error=True,
            )
        self._trained = trained

    def learn_tokenizer(self, train: Sequence[Conversation]) -> None:
        """Takes the tokenizer of the model that is fine-tuned, loads the configured one, or learns one from training
        conversations.

        Raises:
            UserError: the tokenizer cannot be loaded or learned, or is larger than ``vocab_size``.
        """
        c = self.config
        if self._trained is not None:
            self._tokenizer = self._trained.tokenizer
        elif c.tokenizer:
            self._tokenizer = load_tokenizer(Path(c.tokenizer))
        else:
            self._tokenizer = train_tokenizer(texts(train), c.vocab_size, c.tokenizer_kind)
        if self._tokenizer.size > c.vocab_size:
            raise UserError(f"the tokenizer has {self._tokenizer.size} pieces; set task.vocab_size to at least that")

    @abstractmethod
    def learn(self, train: list[Conversation], data: DataConfig, seed: int) -> list[Conversation]:
        """Learns what the task needs from training conversations, unless it was loaded from a model.

        Returns:
            The conversations to train on, with modified copies if the task makes them in advance.
        """

    @abstractmethod
    def encode_row(self, conversation: Conversation) -> Any:
        """The row that encodes a conversation; its ``cut`` says whether a part was left out."""

    @abstractmethod
    def examples(self, rows: Sequence[Any], sources: Sequence[Conversation]) -> Examples:
        """The examples of rows and of the conversations (``sources``) that these encode, labels included."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that the task learned except the tokenizer, as JSON."""

    @abstractmethod
    def restore(self, saved: Any) -> None:
        """Restores what ``to_json`` returned."""

    def save_assets(self, folder: Path) -> None:
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        write_text(folder / self.asset_file, text + "\n")
        self.tokenizer.save(folder)

    def load_assets(self, folder: Path) -> None:
        path = folder / self.asset_file
        saved = parse_json(read_text(path), f"{path}: ")
        try:
            self.restore(saved)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{path} is damaged: {error!r}") from None
        self._tokenizer = load_tokenizer(folder)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Training examples come from the training files. Test examples come from ``data.test``, from the folder's
        validation files, or are held out of the training files by dialogue and request."""
        train, test, notes = read_sets(self.name, data, self.sets, seed)
        train, note = answered(train, self.has_lesson, "training data", self.answer_meaning)
        test, test_note = answered(test, self.has_answer, "test data", self.answer_meaning)
        notes += [*note, *test_note]
        if not train:
            raise UserError(note[0])
        train = self.learn(train, data, seed)
        conversations = (*train, *test)
        rows = [self.encode_row(conversation) for conversation in conversations]
        training, testing = slice(len(train)), slice(len(train), None)
        for part, name in ((training, "training"), (testing, "test")):
            if cut := sum(row.cut for row in rows[part]):
                notes.append(f"{cut} of {len(rows[part])} {name} rows {self.cut_note}")
        both = self.examples(rows, conversations)
        return Dataset(both.take(training), both.take(testing), str(data.source), notes)

    def has_answer(self, conversation: Conversation) -> bool:
        """Whether an evaluation can use a conversation. Without an answer, no answer of a model is right or wrong."""
        return conversation.has_answer

    def has_lesson(self, conversation: Conversation) -> bool:
        """Whether a model can learn from a conversation."""
        return self.has_answer(conversation)

    def read(self, source: str, limit: int | None = None) -> Examples:
        return self.read_counted(source, limit)[0]

    def read_counted(self, source: str, limit: int | None = None) -> tuple[Examples, dict[str, int], list[str]]:
        """The examples of a file, or of the validation files of a folder. Left out are rows that are ``refused``, and
        conversations ``without_answer``."""
        loaded, notes = load_folder(source, self.sets, limit)
        conversations, note = answered(loaded.conversations, self.has_answer, source, self.answer_meaning)
        if not conversations:
            raise UserError("\n".join([*note, *notes]))
        left_out = {"refused": len(loaded.refused), "without_answer": len(loaded.conversations) - len(conversations)}
        examples = self.examples([self.encode_row(c) for c in conversations], conversations)
        return examples, left_out, [*notes, *note]

    def set_search(self, **options: Any) -> None:
        """Changes how answers are searched for, in a task that generates them.

        Raises:
            UserError: this task does not.
        """
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise UserError(f"{names}: a model of {self.name} does not search; those of tool-generate do")

    def known_tools(self) -> tuple[Tool, ...]:
        """The tools of a model that was trained with a fixed set of tools.

        Raises:
            UserError: the model takes its tools from each request.
        """
        raise UserError("this model has no tools of its own: give --tools FILE or JSON", usage_error=True)

    def check(self, conversation: Conversation) -> None:
        """Checks that the model can continue a conversation.

        Raises:
            UserError: it cannot; the message says why.
        """
        if not conversation.query.strip():
            raise UserError(f"{conversation.where or 'the conversation'} has no user turn: there is nothing to answer")

    def ask(self, conversation: Conversation) -> Question:
        """The question for the next turn of a conversation.

        Raises:
            UserError: the model cannot continue this conversation.
        """
        self.check(conversation)
        examples = self.examples([self.encode_row(conversation)], [conversation])
        extra = {name: array[0] for name, array in examples.extra.items() if name != "row"}
        return Question(conversation.query, examples.inputs[0], conversation.where, extra=extra)

    def predict(self, solver: SolverLike, conversation: Conversation) -> tuple[Prediction, Solution]:
        """Predicts the next turn of a conversation.

        Args:
            solver: solves questions of this task.
            conversation: the conversation so far.

        Returns:
            The prediction, and the solver's answer with its confidence and steps.

        Raises:
            UserError: the model cannot continue this conversation.
        """
        question = self.ask(conversation)
        answer = solver.solve(question)
        return self.prediction(question, answer.raw, conversation.tools), answer

    @abstractmethod
    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        """Decodes an answer of the model into a prediction."""

    def parse(self, text: str, where: str = "") -> Question:
        """The question of a conversation, from its JSON in any known format, with its tools."""
        return self.ask(read_one(text, where))

    def questions(self, source: str | Path) -> Iterator[Question]:
        loaded = load_nonempty(source)
        if loaded.refused:
            count = len(loaded.refused) + len(loaded.conversations)
            raise UserError(f"{loaded.refused[0]} ({len(loaded.refused)} of {count} rows cannot be read)")
        for conversation in loaded.conversations:
            yield self.ask(conversation)

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        shown = Conversation((), (Turn("user", question.text),), question.where)
        return draw_conversation(shown) if answer is None else self.format(question, answer)
