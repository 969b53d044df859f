"""``trm-fast tokenizer``: trains tokenizers on conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trm_fast.cli.console import Json, err, print_result
from trm_fast.errors import UserError
from trm_fast.writing import make_folder

app = typer.Typer(help="Train tokenizers.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Train tokenizers."""


@app.command()
def train(
    data: Annotated[list[str], typer.Option("--data", help="A file of conversations or hf:NAME; repeatable.")],
    output: Annotated[Path, typer.Option("--out", help="Folder to write the tokenizer to.")],
    vocab_size: Annotated[
        int, typer.Option(min=8, max=1 << 20, help="Number of pieces, special tokens and bytes included.")
    ] = 2048,
    kind: Annotated[Literal["bpe", "unigram", "char"], typer.Option(help="char is for tests.")] = "bpe",
    json_output: Json = False,
) -> None:
    """
    Trains a SentencePiece tokenizer on the turns and tools of conversations. The same data give the same tokenizer.

    [bold]Example[/bold]

      trm-fast tokenizer train --data xlam_swift_train.json.gz --vocab-size 4096 --kind unigram --out tokenizer
    """
    from trm_fast.tasks.tool_calling import load_nonempty, refusal_note, texts, train_tokenizer

    if output.exists() and not output.is_dir():
        raise UserError(f"--out {output}: this is not a folder; choose another name", usage_error=True)
    conversations = []
    for source in data:
        loaded = load_nonempty(source)
        for note in refusal_note(loaded, source):
            err.print(note, style="yellow")
        conversations += loaded.conversations
    tokenizer = train_tokenizer(texts(conversations), vocab_size, kind)
    make_folder(output)
    tokenizer.save(output)
    sample = [text for text in texts(conversations[:200]) if text]
    length = sum(map(len, sample)) / max(1, sum(len(tokenizer.ids(text)) for text in sample))
    facts = {
        "out": str(output), "kind": kind, "vocab_size": tokenizer.size, "characters_per_token": round(length, 2),
        "conversations": len(conversations),
    }  # fmt: skip
    print_result(f"{tokenizer.size:,} pieces in {output}; {length:.2f} characters per token", facts, json_output)
