"""Searches for the symbols that a causal model writes within a grammar: greedily, by sampling or with beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import IncrementalRow
from trm_fast.tasks.tool_calling.generate.transcript import Transcript

Allowed = Callable[[Sequence[int]], list[int]]
"""Returns the symbols that may follow those written so far; an empty list ends the search."""
Scores = npt.NDArray[np.float64]


class DecodingRow:
    """A row of symbols that a model decodes, with its transcript. ``read`` positions of it are in the model already."""

    def __init__(self, row: IncrementalRow, transcript: Transcript, read: int = 0) -> None:
        self.row, self.transcript, self.read = row, transcript, read

    @property
    def free(self) -> int:
        """The number of symbols that can still be written."""
        return self.transcript.limits.positions - self.transcript.length

    def extend(self, symbols: Sequence[int]) -> npt.NDArray[np.float32]:
        """Writes symbols, and returns the log probabilities of the next one, float32 (V,)."""
        for symbol in symbols:
            self.transcript.write(symbol)
        new = self.transcript.arrays(self.read)
        self.read = self.transcript.length
        return self.row.extend(new.pop("inputs"), new)

    def fork(self) -> DecodingRow:
        """A copy that can continue with other symbols."""
        return DecodingRow(self.row.fork(), self.transcript.fork(), self.read)


@dataclass(frozen=True)
class Search:
    """The options of a search.

    With one beam the most likely symbol is written each time, or with a ``temperature`` above 0 a random one, out of
    the smallest set of symbols whose probabilities sum to ``top_p``. More ``beams`` keep that many sequences with the
    highest mean log probability per symbol. At most ``max_symbols`` are written.
    """

    max_symbols: int = 200
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Decoded:
    """A sequence of symbols. ``score`` is the sum of their log probabilities among the allowed ones, ``logits`` the log
    probabilities of the next symbol; ``ended`` says whether the grammar allows no further one."""

    symbols: list[int]
    score: float
    row: DecodingRow
    logits: npt.NDArray[np.float32]
    ended: bool = False

    @property
    def mean(self) -> float:
        """The mean log probability per symbol."""
        return self.score / max(1, len(self.symbols))


def generate(row: DecodingRow, prompt: Sequence[int], allowed: Allowed, search: Search) -> Decoded:
    """Writes symbols until the grammar ends, ``search.max_symbols`` are written or the row is full.

    Args:
        row: the row to continue.
        prompt: symbols to write first.
        allowed: the grammar.
        search: how to search.

    Returns:
        The sequence with the highest mean log probability per symbol, without the prompt.
    """
    rng = np.random.default_rng(search.seed)
    beams = [Decoded([], 0.0, row, row.extend(prompt))]
    for _ in range(min(search.max_symbols, row.free)):
        candidates: list[tuple[Decoded, int | None, float]] = []
        for beam in beams:
            choices = [] if beam.ended else allowed(beam.symbols)
            beam.ended = not choices
            if beam.ended:
                candidates.append((beam, None, 0.0))
                continue
            scores = _log_softmax(beam.logits[choices].astype(np.float64))
            candidates += [(beam, choices[i], float(scores[i])) for i in _pick(scores, search, rng)]
        if all(beam.ended for beam in beams):
            break
        candidates.sort(key=lambda item: -(item[0].score + item[2]) / (len(item[0].symbols) + (item[1] is not None)))
        beams = [_extended(*item, fork=search.beams > 1) for item in candidates[: search.beams]]
    return max(beams, key=lambda beam: beam.mean)


def _pick(scores: Scores, search: Search, rng: np.random.Generator) -> list[int]:
    if search.beams > 1:
        return [int(i) for i in np.argsort(-scores, kind="stable")[: search.beams]]
    if not search.temperature:
        return [int(scores.argmax())]
    shares = np.exp(_log_softmax(scores / search.temperature))
    order = np.argsort(-shares, kind="stable")
    kept = order[np.cumsum(shares[order]) - shares[order] < search.top_p]
    return [int(rng.choice(kept, p=shares[kept] / shares[kept].sum()))]


def _extended(beam: Decoded, symbol: int | None, score: float, *, fork: bool) -> Decoded:
    if symbol is None:
        return beam
    row = beam.row.fork() if fork else beam.row
    logits = row.extend([symbol]) if row.free else beam.logits
    return Decoded([*beam.symbols, symbol], beam.score + score, row, logits)


def _log_softmax(scores: Scores) -> Scores:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())
