"""Tokenizers: SentencePiece BPE and unigram, and a character tokenizer for tests. All give the offsets of tokens."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trm_fast.errors import UserError
from trm_fast.tasks.files import write_text
from trm_fast.tasks.tool_calling.data.conversation import ROLES, Conversation
from trm_fast.texts import parse_json, read_text
from trm_fast.writing import write_bytes

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
CONTROL = (
    "<sys>", "<user>", "<assistant>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>",
    "</tools>", "<think>", "</think>", "<sep>", "<mask>",
)  # fmt: skip
"""Further special tokens. Text never becomes one of them, even if a user types ``<tool_call>``."""

ROLE_TOKENS = {role: f"<{role}>" for role in ROLES} | {"system": "<sys>"}
"""The special token that begins a turn, by its role."""
FIRST_BYTE = 4 + len(CONTROL)
"""The id of byte 0 in a SentencePiece model, and of the first character in a tokenizer of characters."""
MODEL_FILE, CHARACTER_FILE = "tokenizer.model", "tokenizer.json"
Kind = Literal["bpe", "unigram", "char"]


class Encoded(NamedTuple):
    """The token ids of a text, and the (begin, end) characters of each token. If a character is spelled in bytes,
    only its last byte has a nonempty span."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer(ABC):
    """Turns text into token ids and back. Ids 0 to 3 are padding, unknown, begin and end; then come those of
    ``CONTROL``.

    ``size`` is the number of ids.
    """

    size: int

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The token ids of a text."""

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """The token ids of a text, with their offsets."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, without the special tokens."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the tokenizer's file into a model's folder."""

    @abstractmethod
    def same_tokens(self, other: Tokenizer) -> bool:
        """Whether each id stands for the same text in both."""

    @staticmethod
    def special(name: str) -> int:
        """The id of one of ``CONTROL``."""
        return 4 + CONTROL.index(name)


class SentencePiece(Tokenizer):
    """A SentencePiece model with byte fallback, so that no character is unknown."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        package = _sentencepiece()
        try:
            self.processor = package.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"the tokenizer is damaged: {error}") from None
        self.size = self.processor.get_piece_size()
        self.pieces = [self.processor.id_to_piece(i) for i in range(self.size)]
        if self.pieces[4 : FIRST_BYTE + 1] != [*CONTROL, "<0x00>"]:
            raise UserError("the tokenizer was not made by trm-fast tokenizer train: its special tokens differ")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, kind: Literal["bpe", "unigram"] = "bpe") -> SentencePiece:
        """Learns a tokenizer. The same texts give the same model, byte for byte.

        Args:
            texts: what to learn from.
            vocab_size: the maximum number of pieces, special tokens and bytes included.
            kind: the algorithm.

        Raises:
            UserError: ``vocab_size`` is too small, or too large for the texts, or there is no text.
        """
        minimum = FIRST_BYTE + 256 + 1
        if vocab_size <= minimum:
            raise UserError(
                f"vocab_size {vocab_size} is too small: special tokens and bytes alone are {minimum - 1} pieces",
                usage_error=True,
            )
        lines = [line for text in texts for line in text.split("\n") if line.strip()]
        if not lines:
            raise UserError("there is no text to learn a tokenizer from")
        out = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=out, model_type=kind, vocab_size=vocab_size,
                hard_vocab_limit=False, byte_fallback=True, character_coverage=0.9995, split_digits=True,
                normalization_rule_name="identity", remove_extra_whitespaces=False, max_sentence_length=1 << 20,
                pad_id=PAD, unk_id=UNKNOWN, bos_id=BEGIN, eos_id=END, pad_piece="<pad>", bos_piece="<s>",
                eos_piece="</s>", control_symbols=list(CONTROL), num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].split("] ")[-1].strip()
            raise UserError(f"no tokenizer of {vocab_size} pieces can be learned from this text: {reason}") from None
        return cls(out.getvalue())

    def ids(self, text: str) -> list[int]:
        return [int(i) for i in self.processor.encode(text)]

    def encode(self, text: str) -> Encoded:
        mapping = self.processor.encode(text, return_type="offset_mapping")
        return Encoded(list(mapping["ids"]), list(mapping["offsets"]))

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.processor.decode([int(i) for i in ids]))

    def save(self, folder: Path) -> None:
        write_bytes(folder / MODEL_FILE, self.model)

    def same_tokens(self, other: Tokenizer) -> bool:
        return isinstance(other, SentencePiece) and other.pieces == self.pieces


class Characters(Tokenizer):
    """A token for each known character, and one for all others; for tests."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.numbers = {c: FIRST_BYTE + i for i, c in enumerate(characters)}
        self.size = FIRST_BYTE + len(characters)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Characters:
        """A tokenizer of the most frequent characters, up to ``vocab_size`` tokens with the special ones."""
        counts = Counter(c for text in texts for c in text)
        kept = sorted(counts, key=lambda c: (-counts[c], c))[: max(0, vocab_size - FIRST_BYTE)]
        return cls("".join(sorted(kept)))

    def ids(self, text: str) -> list[int]:
        return [self.numbers.get(c, UNKNOWN) for c in text]

    def encode(self, text: str) -> Encoded:
        return Encoded(self.ids(text), [(i, i + 1) for i in range(len(text))])

    def decode(self, ids: Iterable[int]) -> str:
        characters = {i: c for c, i in self.numbers.items()} | {UNKNOWN: "\ufffd"}
        return "".join(characters.get(int(i), "") for i in ids)

    def save(self, folder: Path) -> None:
        text = json.dumps({"kind": "char", "characters": self.characters}, ensure_ascii=False)
        write_text(folder / CHARACTER_FILE, text + "\n")

    def same_tokens(self, other: Tokenizer) -> bool:
        return isinstance(other, Characters) and other.characters == self.characters


def texts(conversations: Iterable[Conversation]) -> Iterator[str]:
    """The texts that a tokenizer learns from: turns, replies, calls, and the JSON of each distinct tool."""
    seen: set[str] = set()
    for conversation in conversations:
        yield from (turn.text for turn in conversation.turns)
        yield conversation.reply
        if conversation.call is not None:
            yield conversation.call.text()
        for tool in conversation.tools:
            text = json.dumps(tool.to_json()["function"], ensure_ascii=False)
            if text not in seen:
                seen.add(text)
                yield text


def train_tokenizer(texts: Iterable[str], vocab_size: int, kind: Kind) -> Tokenizer:
    """Learns a tokenizer from texts.

    Args:
        texts: what to learn from, such as ``texts(conversations)``.
        vocab_size: the maximum number of tokens, special tokens and bytes included.
        kind: ``bpe``, ``unigram`` or ``char``.

    Raises:
        UserError: no tokenizer can be learned, or the extra ``data`` is not installed.
    """
    if kind == "char":
        return Characters.train(texts, vocab_size)
    return SentencePiece.train(texts, vocab_size, kind)


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads the tokenizer in a folder, or the tokenizer's file itself.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder, names = (path, (MODEL_FILE, CHARACTER_FILE)) if path.is_dir() else (path.parent, (path.name,))
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{path} has no tokenizer ({MODEL_FILE} or {CHARACTER_FILE})")
    try:
        if file.suffix != ".json":
            return SentencePiece(file.read_bytes())
        characters = parse_json(read_text(file), "")["characters"]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{file} is not a tokenizer: {error}") from None
    return Characters(characters)


def _sentencepiece() -> Any:
    try:
        package = import_module("sentencepiece")
    except ImportError:
        raise UserError('a SentencePiece tokenizer needs an extra: pip install "trm-fast[data]"') from None
    if not hasattr(package.SentencePieceProcessor, "EncodeAsOffsetMapping"):
        raise UserError(f'sentencepiece {package.__version__} is too old: pip install -U "trm-fast[data]"')
    return package
