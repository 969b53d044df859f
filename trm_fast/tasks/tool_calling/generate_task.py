"""The task tool-generate: what comes next in a conversation with tools, symbol by symbol, within a grammar of calls."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, DataConfig, Dataset, Examples, Question
from trm_fast.tasks.tool_calling import files
from trm_fast.tasks.tool_calling.conversation import Conversation, Tool, Turn
from trm_fast.tasks.tool_calling.decoding import Said, Search, generate
from trm_fast.tasks.tool_calling.drawing import draw_conversation
from trm_fast.tasks.tool_calling.grammar import Grammar
from trm_fast.tasks.tool_calling.interface import Prediction, ToolConfig, ToolTask, read_asset
from trm_fast.tasks.tool_calling.lexical import Lexicon
from trm_fast.tasks.tool_calling.select_metrics import tables
from trm_fast.tasks.tool_calling.select_task import LEXICON_FILE, read_one, read_sets
from trm_fast.tasks.tool_calling.selection import NUM_FEATURES, NUM_STEMS
from trm_fast.tasks.tool_calling.text_metrics import measure_calls
from trm_fast.tasks.tool_calling.tokenizer import FIRST_BYTE, UNKNOWN, load_tokenizer
from trm_fast.tasks.tool_calling.transcript import ARRAYS, NUM_ROLES, Room, Transcript
from trm_fast.tasks.tool_calling.turns import arranged, asked
from trm_fast.tasks.tool_calling.variants import Variants


class ToolGenerateConfig(ToolConfig):
    """``sets``: which sets of a folder to learn, ``SET_train`` and ``SET_val`` each. ``tools``, ``arguments``,
    ``seq_len``: most of a row; ``bag``: tokens of a place. ``replies``: whether it may answer in words instead of
    calling. ``beams``, ``temperature``, ``top_p``, ``most_tokens``: how symbols are searched for; ``penalty``: how much
    less likely, in nats, a text value is that nobody said. In training, each time a row is read: ``distractors`` is the
    chance that its tools that are not called come from other rows, ``exchanged`` that a value that stands in the
    request is another row's, ``token_dropout`` the share of tokens made unknown. ``generate_count``: rows of an
    evaluation that are answered by generating, which takes a while each."""

    name: str = "tool-generate"
    sets: list[str] = Field(default=["xlam_swift", "sealtools_swift"], min_length=1)
    vocab_size: int = Field(default=4096, ge=32)
    seq_len: int = Field(default=384, ge=16)
    tools: int = Field(default=16, ge=1)
    arguments: int = Field(default=96, ge=1)
    bag: int = Field(default=16, ge=1)
    distractors: float = Field(default=0.3, ge=0, le=1)
    exchanged: float = Field(default=0.5, ge=0, le=1)
    token_dropout: float = Field(default=0.1, ge=0, lt=1)
    replies: bool = False
    beams: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    penalty: float = Field(default=0.0, ge=0)
    most_tokens: int = Field(default=160, ge=1)
    generate_count: int = Field(default=100, ge=0)


@dataclass(frozen=True)
class Generated:
    """What stands for a solver's answer: how likely the tokens were, and the supervision steps of each."""

    confidence: float
    steps: int


class ToolGenerate(ToolTask):
    name: ClassVar[str] = "tool-generate"
    Config: ClassVar[type[ToolGenerateConfig]] = ToolGenerateConfig
    more_steps_help: ClassVar[bool] = False

    def __init__(self, config: ToolGenerateConfig | None = None) -> None:
        self.config = config or ToolGenerateConfig()
        self._lexicon = Lexicon(0, {})
        c = self.config
        self.room = Room(c.seq_len, c.tools, c.arguments, c.bag, c.vocab_size)
        self.vocab_size, self.seq_len = self.room.first_own, c.seq_len
        if self.seq_len < 2 * (1 + 2 * self.room.tools + self.room.arguments):
            raise UserError(f"task.seq_len {c.seq_len} is too small for {c.tools} tools and {c.arguments} arguments")
        self._rows: list[Conversation] = []  # what ``extra["row"]`` numbers: measures compare calls, not labels
        self._variants: Variants | None = None

    @property
    def search(self) -> Search:
        c = self.config
        return Search(c.most_tokens, c.beams, c.temperature, c.top_p, c.penalty)

    def model_keys(self, data: DataConfig) -> dict[str, Any]:
        return super().model_keys(data) | {
            "inputs": "bags", "outputs": "text", "causal": True, "mixing": "attention",
            "row_symbols": self.seq_len, "roles": NUM_ROLES,
            "features": NUM_FEATURES, "stems": NUM_STEMS,
        }  # fmt: skip

    def save_assets(self, folder: Path) -> None:
        (folder / LEXICON_FILE).write_text(json.dumps(self._lexicon.to_json()) + "\n", encoding="utf-8")
        self.tokenizer.save(folder)

    def load_assets(self, folder: Path) -> None:
        self._lexicon = read_asset(folder / LEXICON_FILE, Lexicon.from_json)
        self._tokenizer = load_tokenizer(folder)

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        """Conversations of the training files, and those of ``data.test``, of the folder's validation files, or held
        out. A task that is loaded keeps its tokenizer."""
        train, test, notes = read_sets(self.name, data, self.config.sets, seed)
        if self._tokenizer is None:
            self.learn_tokenizer(train)
            self._lexicon = Lexicon.of(tool for c in train for tool in c.tools)
        self._variants = Variants(train, self.config.distractors, self.config.exchanged)
        parts = []
        for rows, name in ((train, "training"), (test, "test")):
            examples, cut = self._examples(rows)
            parts.append(examples)
            if cut:
                notes.append(f"{cut} of {len(rows)} {name} rows do not fit: first turns or last arguments are left out")
        return Dataset(parts[0], parts[1], str(data.source), notes)

    def _examples(self, conversations: Sequence[Conversation]) -> tuple[Examples, int]:
        """Rows, and how many of them were cut."""
        first = len(self._rows)
        self._rows += conversations
        return self._encoded(conversations, np.arange(first, first + len(conversations), dtype=np.int32))

    def _encoded(self, conversations: Sequence[Conversation], numbers: Array) -> tuple[Examples, int]:
        rows = [self._transcript(conversation) for conversation in conversations]
        labels, weights = zip(*(row.labels() for row in rows), strict=True)
        lengths = np.array([[row.length] for row in rows])
        extra = {name: np.stack([getattr(row, name) for row in rows]) for name in ARRAYS}
        inputs = extra.pop("inputs")
        extra |= {"weights": np.stack(weights), "mask": np.arange(self.seq_len) < lengths, "row": numbers}
        examples = Examples(inputs, np.stack(labels), np.zeros(len(rows), dtype=np.int32), extra)
        return examples, sum(row.cut for row in rows)

    def _transcript(self, conversation: Conversation, most: int | None = None) -> Transcript:
        return Transcript(arranged(conversation, self._lexicon), self.tokenizer, self._lexicon, self.room, most)

    def augment(self, examples: Examples, rng: np.random.Generator) -> Examples:
        """The rows anew, with other tools and values and with tokens made unknown."""
        if self._variants is not None and (self.config.distractors or self.config.exchanged):
            numbers = examples.extra["row"]
            made = [self._variants.of(self._rows[i], rng) for i in numbers]
            examples, _ = self._encoded(made, numbers)
        if not self.config.token_dropout:
            return examples
        gone = (rng.random(examples.inputs.shape, dtype=np.float32) < self.config.token_dropout) & (
            examples.inputs >= FIRST_BYTE
        )
        return replace(examples, inputs=np.where(gone, np.int32(UNKNOWN), examples.inputs))

    def read(self, source: str) -> Examples:
        """Every row of a file, or of the validation files of a folder."""
        return self._examples(read_sets(self.name, DataConfig(source=source, test=source), self.config.sets, 0)[1])[0]

    def measures(self, solver: Any, examples: Examples, answers: Array) -> dict[str, float]:
        """Of ``generate_count`` rows spread over all, what the model generates behind the last user turn."""
        count = min(self.config.generate_count, len(examples))
        chosen = np.linspace(0, len(examples), count, endpoint=False).astype(np.intp)
        rows = [self._rows[i] for i in examples.extra["row"][chosen]]
        made = [self.say(solver, asked(row))[0] for row in rows]
        return measure_calls(rows, [list(p.calls) for p in made], self._lexicon) if rows else {}

    def report(self, metrics: dict[str, float]) -> list[Any]:
        return tables(metrics)

    def say(self, model: Any, conversation: Conversation, search: Search | None = None) -> tuple[Prediction, Said]:
        """What a model of this task says next; the calls always parse and name offered tools."""
        search = search or self.search
        transcript = self._transcript(conversation, self.seq_len - min(search.most_tokens, self.seq_len // 2))
        grammar = Grammar(transcript, replies=self.config.replies)
        said = generate(Growing(model, transcript), [], grammar.allowed, search, grammar.strays)
        reply = grammar.reply(said.tokens)
        return Prediction.of_calls(grammar.calls(said.tokens), conversation.tools, reply=reply), said

    def predict(self, solver: Any, conversation: Conversation) -> tuple[Prediction, Any]:
        self.ask(conversation)
        prediction, said = self.say(solver, asked(conversation))
        return prediction, Generated(math.exp(said.mean), solver.model.config.max_supervision_steps)

    def known_tools(self) -> tuple[Tool, ...]:
        raise UserError("this model calls the tools it is given: give --tools FILE or JSON", wrong_use=True)

    def ask(self, conversation: Conversation) -> Question:
        if not conversation.query.strip():
            raise UserError(f"{conversation.where or 'the conversation'} has no user turn: there is nothing to answer")
        examples, _ = self._examples([asked(conversation)])
        self._rows.pop()
        extra = {name: array[0] for name, array in examples.extra.items()}
        return Question(conversation.query, examples.inputs[0], conversation.where, extra=extra)

    def prediction(self, question: Question, answer: Array, tools: Sequence[Tool]) -> Prediction:
        raise UserError("a tool-generate model answers by generating: use trm-fast call", wrong_use=True)

    def parse(self, text: str, where: str = "") -> Question:
        """A conversation as JSON in any known format, its tools with it."""
        return self.ask(read_one(text, where))

    def questions(self, source: str | Path) -> Iterator[Question]:
        for conversation in files.load_sound(source).conversations:
            yield self.ask(conversation)

    def format(self, question: Question, answer: Array) -> str:
        """The likeliest pieces behind the places, as text; ``say`` generates."""
        said = np.asarray(answer)[question.extra["mask"]]
        return self.tokenizer.decode(said[said < self.tokenizer.size].tolist())

    def draw(self, question: Question, answer: Array | None = None) -> Any:
        shown = Conversation((), (Turn("user", question.text),), question.where)
        return draw_conversation(shown) if answer is None else self.format(question, answer)


class Growing:
    """A model's row, and the transcript that tells what each symbol's place holds."""

    def __init__(self, model: Any, transcript: Transcript) -> None:
        self.row, self.transcript, self.read = model.incremental(), transcript, 0

    @property
    def room(self) -> int:
        return self.transcript.room.places - self.transcript.length

    def extend(self, symbols: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log probabilities of the symbol behind the transcript and some symbols more."""
        for symbol in symbols:
            self.transcript.say(symbol)
        new = self.transcript.arrays(self.read)
        self.read = self.transcript.length
        logits: npt.NDArray[np.float32] = self.row.extend(new.pop("inputs"), new)
        return logits

    def fork(self) -> Growing:
        other = object.__new__(Growing)
        other.row, other.transcript, other.read = self.row.fork(), self.transcript.fork(), self.read
        return other
