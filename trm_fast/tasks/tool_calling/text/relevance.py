"""Computes features of how well each offered tool fits a request.

Tools that are offered together are similar, so most features compare them: what one tool has and the others lack, and
which tool each clause of the request is nearest to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm_fast.tasks.base import Array
from trm_fast.tasks.tool_calling.data.conversation import Tool
from trm_fast.tasks.tool_calling.text.lexicon import Lexicon, arguments_text, four_grams, stems, tool_text, whole_text

MEASURES = (
    "name", "name above others", "description", "description above others", "arguments", "arguments above others",
    "arguments' descriptions", "arguments' descriptions above others", "all names", "all names above others",
    "letters", "letters above others",
    "name covered", "name covered above others", "covered", "covered above others",
    "own words", "own share", "gain", "rank",
    "clause, name", "clause, name above others", "clauses' share, name",
    "clause", "clause above others", "clauses' share",
    "clause, letters", "clause, letters above others", "clauses won",
)  # fmt: skip
"""The features of a tool. The first ones are overlaps (``Lexicon.overlap``) of the request with parts of the tool's
text; "covered" is ``Lexicon.covered``; "letters" counts shared four-letter sequences; "above others" is the difference
from the best other tool. "Own words" are words of the request that no other tool has. "Gain" and "rank" come from
repeatedly taking the nearest tool and removing its words from the request. The "clause" features are those of the
tool's best clause, "clauses' share" is its share of all clauses, and "clauses won" counts the clauses that are nearest
to it. Own words, gain, rank and clauses use the whole text of a tool, with the descriptions of its arguments."""

_BORDER = re.compile(
    r"(?<=[.!?;])\s+|[\u3002\uff01\uff1f\uff1b\n]+"
    r"|,?\s+(?:and|then|also|additionally|finally|lastly|next)\s+",
    re.IGNORECASE,
)
_SHARPNESS = 2.0
"""Sharpness of the softmax that divides a clause among the tools."""


@dataclass(frozen=True)
class Relevance:
    """The features of T tools for a request with C clauses.

    ``measures`` float32 (T, len(MEASURES)); ``clauses``: the first character of each clause; ``shares`` float32 (T, C):
    each tool's share of each clause.
    """

    measures: Array
    clauses: list[int]
    shares: Array

    @classmethod
    def of(cls, request: str, tools: Sequence[Tool], lexicon: Lexicon) -> Relevance:
        """Measures the tools that are offered with a request."""
        clauses = split_clauses(request)
        begins = [begin for begin, _ in clauses]
        if not tools:
            empty = np.zeros((0, len(MEASURES)), dtype=np.float32)
            return cls(empty, begins, np.zeros((0, len(clauses)), dtype=np.float32))
        of_clauses = [set(stems(request[begin:end])) for begin, end in clauses]
        of_request = set(stems(request))
        names = [tool.name for tool in tools]
        texts, whole = [tool_text(tool) for tool in tools], [whole_text(tool) for tool in tools]
        parts = (names, [tool.description for tool in tools], [" ".join(t.parameters["properties"]) for t in tools],
                 [arguments_text(tool) for tool in tools], texts)  # fmt: skip
        overlaps = [_compared([lexicon.overlap(of_request, text) for text in part]) for part in parts]
        request_grams = four_grams(request)
        name_grams = [four_grams(name) for name in names]
        shared = _compared([len(name & request_grams) / max(1, len(name)) ** 0.5 for name in name_grams])
        covered = [_compared([lexicon.covered(of_request, text) for text in part]) for part in (names, texts)]
        by_name, _, _ = _by_clause(of_clauses, names, lexicon)
        by_text, won, shares = _by_clause(of_clauses, whole, lexicon)
        compared = [_unique(of_request, whole, lexicon), _gains_and_ranks(of_request, whole, lexicon)]
        columns = [*overlaps, shared, *covered, *compared]
        clause_grams = [four_grams(request[begin:end]) for begin, end in clauses]
        alike = [[len(name & clause) / max(1, len(name)) for clause in clause_grams] for name in name_grams]
        measures = np.concatenate([*columns, by_name, by_text, _best_clause(np.array(alike)), won], 1)
        return cls(measures.astype(np.float32), begins, shares)


def nearest_first(request: str, tools: Sequence[Tool], lexicon: Lexicon) -> list[Tool]:
    """Orders tools: repeatedly takes the nearest one and removes its words from the request."""
    named = sorted(tools, key=lambda tool: tool.name)
    taken = _gains_and_ranks(set(stems(request)), [tool_text(tool) for tool in named], lexicon)
    return [named[i] for i in np.argsort(taken[:, 1], kind="stable")]


def split_clauses(text: str) -> list[tuple[int, int]]:
    """The (begin, end) characters of each clause: a sentence, or a part of one joined by "and", "then" and the like."""
    borders = [m.span() for m in _BORDER.finditer(text)]
    begins, ends = [0, *(end for _, end in borders)], [*(begin for begin, _ in borders), len(text)]
    return [(b, e) for b, e in zip(begins, ends, strict=True) if e > b] or [(0, len(text))]


def _compared(values: Sequence[float]) -> Array:
    """(T, 2): each value, and its difference from the best of the others."""
    column = np.array(values, dtype=np.float64)
    return np.stack([column, column - _best_other(column[:, None])[:, 0]], 1)


def _best_other(values: Array) -> Array:
    """(T, C): the best value in another row of each column, 0 if there is only one row."""
    if len(values) < 2:
        return np.zeros_like(values)
    order = np.sort(values, 0)
    return np.where(values == order[-1], order[-2], order[-1])


def _unique(of_request: set[str], texts: Sequence[str], lexicon: Lexicon) -> Array:
    """(T, 2): the weight of the request's words that only this text has, and the same divided by the text's root."""
    rows = []
    for i, text in enumerate(texts):
        others = set().union(*(stems(other) for j, other in enumerate(texts) if j != i))
        weight = lexicon.total((set(stems(text)) & of_request) - others)
        rows.append((weight / 5, weight / lexicon.root(text)))
    return np.array(rows).reshape(len(texts), 2)


def _gains_and_ranks(of_request: set[str], texts: Sequence[str], lexicon: Lexicon) -> Array:
    """(T, 2): gain and rank (divided by 4) of each text, when the nearest ones are taken one by one."""
    left, rest, gained = set(of_request), list(range(len(texts))), np.zeros((len(texts), 2))
    while rest:
        gains = [lexicon.overlap(left, texts[i]) for i in rest]
        best = int(np.argmax(gains))
        gained[rest[best]] = gains[best], (len(texts) - len(rest)) / 4
        left -= set(stems(texts[rest.pop(best)]))
    return gained


def _by_clause(clauses: Sequence[set[str]], texts: Sequence[str], lexicon: Lexicon) -> tuple[Array, Array, Array]:
    """Overlaps by clause: (T, 3), the best clause's overlap, its largest difference from the other tools, and the share
    of all clauses; (T, 1), half the number of clauses nearest to each tool; and (T, C), its share of each clause."""
    scores = np.array([[lexicon.overlap(clause, text) for clause in clauses] for text in texts])
    shares = np.exp(_SHARPNESS * (scores - scores.max(0)))
    shares /= shares.sum(0)
    weight = scores.max(0)
    whole = (shares * weight).sum(1, keepdims=True) / max(weight.sum(), 1e-6)
    won = ((scores == weight) & (weight > 0)).sum(1, keepdims=True) / 2
    return np.concatenate([_best_clause(scores), whole], 1), won, shares.astype(np.float32)


def _best_clause(scores: Array) -> Array:
    """(T, 2) of scores (T, C): the best clause's score, and the largest difference from the best other tool in
    a clause."""
    return np.stack([scores.max(1), (scores - _best_other(scores)).max(1)], 1)
