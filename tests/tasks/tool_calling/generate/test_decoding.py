"""The search: greedy, by sampling and with beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trm_fast.tasks.tool_calling.generate.decoding import Search, generate


class Fixed:
    """A model of two symbols, 0 and 1, whose more likely first symbol leads to less likely sequences."""

    free = 2

    def __init__(self, written: tuple[int, ...] = ()) -> None:
        self.written = written

    def extend(self, tokens: Sequence[int]) -> Any:
        self.written += tuple(tokens)
        shares = {(9,): [0.6, 0.4], (9, 0): [0.5, 0.5], (9, 1): [0.99, 0.01]}.get(self.written, [0.5, 0.5])
        return np.log(np.array(shares, dtype=np.float32))

    def fork(self) -> Fixed:
        return Fixed(self.written)


def test_beams_find_what_the_greedy_search_misses() -> None:
    def both(written: Sequence[int]) -> list[int]:
        return [0, 1]

    assert generate(Fixed(), [9], both, Search()).symbols == [0, 0]
    result = generate(Fixed(), [9], both, Search(beams=2))
    assert result.symbols == [1, 0]
    assert result.score == pytest.approx(np.log(0.4 * 0.99), rel=1e-4)


def test_sampling_follows_the_shares_and_top_p_cuts_the_rest() -> None:
    def both(written: Sequence[int]) -> list[int]:
        return [0, 1]

    drawn = [
        generate(Fixed(), [9], both, Search(max_symbols=1, temperature=1.0, seed=s)).symbols[0] for s in range(400)
    ]
    assert 0.3 < np.mean(drawn) < 0.5
    cut = [generate(Fixed(), [9], both, Search(1, temperature=1.0, top_p=0.5, seed=s)).symbols[0] for s in range(50)]
    assert set(cut) == {0}
