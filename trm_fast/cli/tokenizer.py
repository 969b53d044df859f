"""``trm-fast tokenizer``: learns tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trm_fast.cli.console import Json, err, say
from trm_fast.errors import UserError

app = typer.Typer(help="Learn tokenizers.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Learn tokenizers."""


@app.command()
def train(
    data: Annotated[list[str], typer.Option("--data", help="A file of conversations or hf:NAME; repeatable.")],
    output: Annotated[Path, typer.Option("--out", help="The folder that gets the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(min=8, help="Pieces, special tokens and bytes included.")] = 2048,
    kind: Annotated[Literal["bpe", "unigram", "char"], typer.Option(help="char is for tests.")] = "bpe",
    json_output: Json = False,
) -> None:
    """
    Learns a SentencePiece tokenizer from conversations: turns and tools. The same data give the same tokenizer.

    [bold]Example[/bold]

      trm-fast tokenizer train --data xlam_swift_train.json.gz --vocab-size 4096 --kind unigram --out tokenizer
    """
    from trm_fast.tasks.tool_calling import load_sound, refusal_note, texts, train_tokenizer

    conversations = []
    for source in data:
        loaded = load_sound(source)
        for note in refusal_note(loaded, source):
            err.print(note, style="yellow")
        conversations += loaded.conversations
    tokenizer = train_tokenizer(texts(conversations), vocab_size, kind)
    try:
        output.mkdir(parents=True, exist_ok=True)
        tokenizer.save(output)
    except OSError as error:
        raise UserError(f"--out {output} can't be written: {error}") from None
    sample = [text for text in texts(conversations[:200]) if text]
    length = sum(map(len, sample)) / max(1, sum(len(tokenizer.ids(text)) for text in sample))
    facts = {
        "out": str(output), "kind": kind, "vocab_size": tokenizer.size, "characters_per_token": round(length, 2),
        "conversations": len(conversations),
    }  # fmt: skip
    say(f"{tokenizer.size:,} pieces in {output}; {length:.2f} characters a token", facts, json_output)
