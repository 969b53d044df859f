"""The options of ``trm-fast train`` that each set one key of the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

TRAINING, MODEL = "Keys of training", "Keys of the model"

Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", "--tokenizer-path", metavar="FOLDER",
        help="A trained tokenizer, for tool calling. Sets task.tokenizer.",
    ),
]  # fmt: skip
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Examples in a training step. Sets training.batch_size.", rich_help_panel=TRAINING
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr", "--learning-rate", help="Learning rate after the warm-up. Sets training.learning_rate.",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
WarmupRatio = Annotated[
    float | None,
    typer.Option(
        "--warmup-ratio", help="Share of the steps in which the rate rises. Sets training.warmup_ratio.",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
Layers = Annotated[
    int | None,
    typer.Option(
        "--layers", "--n-layers", min=1, help="Layers that each latent or answer step applies. Sets model.num_layers.",
        rich_help_panel=MODEL,
    ),
]  # fmt: skip
HiddenSize = Annotated[
    int | None,
    typer.Option(
        "--hidden-size", "--d-model", min=1, help="Channels of every position. Sets model.hidden_size.",
        rich_help_panel=MODEL,
    ),
]  # fmt: skip
Heads = Annotated[
    int | None,
    typer.Option(
        "--heads", "--n-heads", min=1, help="Attention heads. Sets model.num_heads.", rich_help_panel=MODEL
    ),
]  # fmt: skip
HCycles = Annotated[
    int | None,
    typer.Option(
        "--h-cycles", "--n-recursion-steps", min=1,
        help="Cycles per supervision step, T; the last has a gradient. Sets model.T_cycles.", rich_help_panel=MODEL,
    ),
]  # fmt: skip
LCycles = Annotated[
    int | None,
    typer.Option(
        "--l-cycles", "--n-latent-steps", min=0,
        help="Latent steps per cycle, n; one answer step follows. Sets model.n_latent_steps.", rich_help_panel=MODEL,
    ),
]  # fmt: skip
SupervisionSteps = Annotated[
    int | None,
    typer.Option(
        "--supervision-steps", "--n-supervision-steps", min=1,
        help="Maximum supervision steps per example in training. Sets model.max_supervision_steps.",
        rich_help_panel=MODEL,
    ),
]  # fmt: skip
