"""Tokenizers: no loss, offsets into the text, special tokens that text never becomes, and reproducible files."""

from __future__ import annotations

from pathlib import Path

import pytest

from trm_fast.errors import UserError
from trm_fast.tasks.tool_calling.text.tokenizer import (
    BEGIN,
    CONTROL,
    FIRST_BYTE,
    Characters,
    Kind,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

TEXTS = [
    "I want two tickets for March 10th in San Francisco",
    'The balance is $1,110.50 {"name": "CheckBalance"}',
    "Cho tôi xem thời tiết ở Đà Nẵng",
] * 40

KINDS: list[Kind] = ["bpe", "unigram", "char"]

HARD = [
    "", " ", "a", "two  spaces and\nlines\t", " leading", "😀👍🏽 emoji", "中文字", "Đà Nẵng $1,110",
    "<tool_call>{}</s>", "x" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param != "char":
        pytest.importorskip("sentencepiece")
    return train_tokenizer(TEXTS + HARD, 340, request.param)


@pytest.mark.parametrize("text", HARD)
def test_nothing_is_lost(tokenizer: Tokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(offsets)
    assert "".join(text[begin:end] for begin, end in offsets) == text
    assert all(0 <= i < tokenizer.size for i in ids)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_unseen_characters_are_bytes(kind: Kind) -> None:
    pytest.importorskip("sentencepiece")
    tokenizer = train_tokenizer(TEXTS, 340, kind)
    ids, offsets = tokenizer.encode("ü😀")
    assert ids[1:] == [FIRST_BYTE + byte for byte in "ü😀".encode()]
    assert offsets == [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (1, 1), (1, 2)]
    assert tokenizer.decode(ids) == "ü😀"


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" ".join(CONTROL) + "<s></s><pad>").ids
    assert not {0, 2, 3, *map(tokenizer.special, CONTROL)} & set(ids)
    assert tokenizer.decode([BEGIN, tokenizer.special("<user>")]) == ""
    assert tokenizer.special("<sys>") == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_tokenizer(kind: Kind, tmp_path: Path) -> None:
    if kind != "char":
        pytest.importorskip("sentencepiece")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        train_tokenizer(TEXTS, 340, kind).save(folder)
    (first,), (second,) = (list(folder.iterdir()) for folder in folders)
    assert first.read_bytes() == second.read_bytes()
    again = load_tokenizer(folders[0])
    assert again.encode(TEXTS[1]) == train_tokenizer(TEXTS, 340, kind).encode(TEXTS[1])
    assert load_tokenizer(first).size == again.size


def test_each_digit_is_a_token() -> None:
    pytest.importorskip("sentencepiece")
    text = "pay 1110 now"
    tokenizer = train_tokenizer([text] * 100, 300, "bpe")
    assert [text[b:e] for b, e in tokenizer.encode(text).offsets if text[b:e].isdigit()] == list("1110")


def test_messages_of_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
    pytest.importorskip("sentencepiece")
    (tmp_path / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="too small"):
        train_tokenizer(TEXTS, 100, "bpe")
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(["", "\n"], 400, "bpe")


def test_characters_keep_the_most_frequent() -> None:
    tokenizer = Characters.train(["aab"], FIRST_BYTE + 1)
    assert tokenizer.characters == "a"
    assert tokenizer.decode(tokenizer.encode("ab").ids) == "a\ufffd"
