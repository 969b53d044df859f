"""A task of your own: reverse a word.

    trm-fast train --config own_task.yaml --out runs/reverse
    trm-fast solve runs/reverse abcdefgh --trust-code

Run both in this folder: the task is named by its module and class. The run's configuration may import the module only
with --trust-code.
"""

import numpy as np

from trm_fast.errors import UserError
from trm_fast.tasks.base import Array, DataConfig, Dataset, Examples, Question, Task, TaskConfig


class ReverseConfig(TaskConfig):
    """Words of ``length`` letters a to h."""

    length: int = 8


class Reverse(Task):
    """A word, written backwards."""

    name, noun, Config, has_rules = "own_task:Reverse", "words", ReverseConfig, True

    def __init__(self, config: ReverseConfig) -> None:
        self.config = config
        self.vocab_size, self.seq_len = 9, config.length  # token 0 is padding

    def dataset(self, data: DataConfig, seed: int) -> Dataset:
        words = np.random.default_rng(seed).integers(1, 9, (2500, self.seq_len), dtype=np.int32)
        words = np.unique(words, axis=0)
        examples = Examples(words, words[:, ::-1].copy(), np.zeros(len(words), np.int32))
        return Dataset(examples.take(slice(500, None)), examples.take(slice(500)), "random words")

    def parse(self, text: str, where: str = "") -> Question:
        if len(text) != self.seq_len or not set(text) <= set("abcdefgh"):
            raise UserError(f"{where or text}: a word has {self.seq_len} letters a to h")
        return Question(text, np.array([ord(c) - 96 for c in text], np.int32), where)

    def format(self, question: Question, answer: Array) -> str:
        return "".join(chr(96 + token) for token in answer)

    def verify(self, examples: Examples, answers: Array) -> Array:
        return (answers == examples.inputs[:, ::-1]).all(-1)
