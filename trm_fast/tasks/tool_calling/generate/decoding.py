"""Search for what a causal model writes next, within what a grammar allows: greedy, sampled or by beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm_fast.tasks.base import IncrementalRow
from trm_fast.tasks.tool_calling.generate.transcript import Transcript

Allowed = Callable[[Sequence[int]], list[int]]
"""Ids that may follow those written so far; [] ends it."""
Scores = npt.NDArray[np.float64]


class DecodingRow:
    """A model's row, and the transcript that tells what each symbol's position holds."""

    def __init__(self, row: IncrementalRow, transcript: Transcript, read: int = 0) -> None:
        self.row, self.transcript, self.read = row, transcript, read

    @property
    def room(self) -> int:
        """Symbols that may still come."""
        return self.transcript.limits.positions - self.transcript.length

    def extend(self, symbols: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log probabilities of the symbol behind the transcript and some symbols more."""
        for symbol in symbols:
            self.transcript.write(symbol)
        new = self.transcript.arrays(self.read)
        self.read = self.transcript.length
        return self.row.extend(new.pop("inputs"), new)

    def fork(self) -> DecodingRow:
        return DecodingRow(self.row.fork(), self.transcript.fork(), self.read)


@dataclass(frozen=True)
class Search:
    """``beams`` 1: the likeliest token each time, or with a ``temperature`` above 0 a drawn one, among the fewest
    tokens that have ``top_p`` of the probability. More beams keep as many beginnings, compared by their mean log
    probability a token."""

    most_tokens: int = 200
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Decoded:
    """Tokens, and the sum of their log probabilities among what was allowed."""

    tokens: list[int]
    score: float
    row: DecodingRow
    logits: npt.NDArray[np.float32]
    ended: bool = False

    @property
    def mean(self) -> float:
        return self.score / max(1, len(self.tokens))


def generate(row: DecodingRow, prompt: Sequence[int], allowed: Allowed, search: Search) -> Decoded:
    """Goes on behind a prompt until the grammar ends, ``most_tokens`` are written or the row is full."""
    drawing = np.random.default_rng(search.seed)
    beams = [Decoded([], 0.0, row, row.extend(prompt))]
    for _ in range(min(search.most_tokens, row.room)):
        candidates: list[tuple[Decoded, int | None, float]] = []
        for beam in beams:
            choices = [] if beam.ended else allowed(beam.tokens)
            beam.ended = not choices
            if beam.ended:
                candidates.append((beam, None, 0.0))
                continue
            scores = _log_softmax(beam.logits[choices].astype(np.float64))
            candidates += [(beam, choices[i], float(scores[i])) for i in _picked(scores, search, drawing)]
        if all(beam.ended for beam in beams):
            break
        candidates.sort(key=lambda item: -(item[0].score + item[2]) / (len(item[0].tokens) + (item[1] is not None)))
        beams = [_extended(*item, fork=search.beams > 1) for item in candidates[: search.beams]]
    return max(beams, key=lambda beam: beam.mean)


def _picked(scores: Scores, search: Search, drawing: np.random.Generator) -> list[int]:
    if search.beams > 1:
        return [int(i) for i in np.argsort(-scores, kind="stable")[: search.beams]]
    if not search.temperature:
        return [int(scores.argmax())]
    shares = np.exp(_log_softmax(scores / search.temperature))
    order = np.argsort(-shares, kind="stable")
    kept = order[np.cumsum(shares[order]) - shares[order] < search.top_p]
    return [int(drawing.choice(kept, p=shares[kept] / shares[kept].sum()))]


def _extended(beam: Decoded, token: int | None, score: float, *, fork: bool) -> Decoded:
    if token is None:
        return beam
    row = beam.row.fork() if fork else beam.row
    logits = row.extend([token]) if row.room else beam.logits
    return Decoded([*beam.tokens, token], beam.score + score, row, logits)


def _log_softmax(scores: Scores) -> Scores:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())
