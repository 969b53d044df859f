"""What bench/tune.py tries beside the row that is there: options that compile for sm_90, spill 16 bytes at most, and
that one could think of as better. A small batch gets more and smaller blocks; the mixer's weights' kernel as many
programs as an H200 has multiprocessors, or half of them, and where a program's block is small, twice as many."""

from __future__ import annotations

Options = dict[str, int]
PROCESSORS = 132


def _rows(names: str, *values: tuple[int, ...]) -> list[Options]:
    return [dict(zip(names.split(), row, strict=True)) for row in values]


TILES = "ROWS COLUMNS DEPTH num_warps num_stages"
WHOLE_ROWS = "ROWS DEPTH num_warps num_stages"
MIXER = "CHANNELS INNER num_warps num_stages"
SLABS = "CHANNELS INNER slabs num_warps num_stages"
ATTEND = "QUERIES KEYS num_warps num_stages"
LINES = "elements num_warps"
FLAT = "BLOCK num_warps"
VENDOR = {"ROWS": 0}  # the vendor's product, and a norm of its own


def _weights(inner: int, *values: tuple[int, int, int, int, int]) -> list[Options]:
    """The third of the values is the number of programs; slabs follow from it."""
    return _rows(SLABS, *((c, i, max(1, programs * i // inner), w, s) for c, i, programs, w, s in values))


def _lines() -> list[Options]:
    return _rows(LINES, (1024, 4), (2048, 4), (4096, 8), (8192, 8))


def _flat() -> list[Options]:
    return _rows(FLAT, (512, 4), (1024, 4), (4096, 8))


# kernel -> what to try at a large batch, and at a small one
CANDIDATES: dict[str, tuple[list[Options], list[Options]]] = {
    "gate_up_fwd": (
        _rows(TILES, (128, 128, 64, 8, 4), (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (256, 64, 64, 8, 3)),
        _rows(TILES, (64, 64, 64, 4, 3), (64, 64, 64, 4, 4), (64, 128, 64, 4, 3), (128, 128, 64, 8, 3)),
    ),
    "project_fwd": (
        [VENDOR, *_rows(WHOLE_ROWS, (64, 32, 8, 3), (64, 64, 8, 2), (64, 64, 8, 3))],
        [VENDOR, *_rows(WHOLE_ROWS, (64, 32, 8, 3), (64, 64, 8, 2), (16, 64, 8, 3))],
    ),
    "down_bwd": (
        _rows(TILES, (128, 128, 64, 8, 4), (128, 64, 64, 8, 3), (128, 256, 64, 8, 3), (64, 128, 64, 4, 3)),
        _rows(TILES, (64, 64, 64, 4, 4), (64, 128, 64, 4, 3), (128, 64, 64, 8, 3)),
    ),
    "token_mixer_fwd": (
        _rows(MIXER, (128, 64, 8, 2), (128, 32, 8, 3), (128, 16, 8, 3), (64, 64, 4, 3), (64, 32, 4, 3)),
        _rows(MIXER, (64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 3)),
    ),
    "token_mixer_bwd": (
        _rows(MIXER, (128, 64, 8, 3), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2)),
        _rows(MIXER, (64, 64, 4, 3), (64, 32, 4, 2), (128, 64, 8, 2)),
    ),
    "attend_fwd": (
        _rows(ATTEND, (128, 128, 4, 1), (64, 128, 4, 1), (64, 64, 4, 1)),
        _rows(ATTEND, (64, 128, 4, 1), (64, 64, 4, 1)),
    ),
    "attend_bwd_queries": (
        _rows(ATTEND, (64, 128, 4, 1), (64, 64, 4, 1)),
        _rows(ATTEND, (64, 128, 4, 1), (64, 64, 4, 1)),
    ),
    "attend_bwd_keys": (
        _rows(ATTEND, (64, 128, 8, 1), (64, 64, 8, 1), (32, 64, 4, 1)),
        _rows(ATTEND, (64, 64, 8, 1), (32, 64, 4, 1)),
    ),
    "qkv_fwd": (
        _rows(TILES, (128, 128, 64, 8, 4), (128, 256, 64, 8, 3), (128, 64, 64, 4, 3)),
        _rows(TILES, (64, 64, 64, 4, 3), (64, 128, 64, 4, 3)),
    ),
    **dict.fromkeys(("rms_norm_fwd", "rms_norm_bwd"), (_lines(), [])),
    **dict.fromkeys(("swiglu_fwd", "swiglu_bwd", "adam_atan2"), (_flat(), [])),
    **dict.fromkeys(
        (f"{op}_{way}" for op in ("stablemax_cross_entropy", "stablemax") for way in ("fwd", "bwd")),
        (_rows(LINES, (256, 2), (512, 4), (2048, 8)), []),
    ),
    "sign_sgd_rows": (_rows("SAMPLES COLUMNS num_warps", (128, 32, 4), (64, 64, 4), (32, 128, 4)), []),
}


def candidates(kernel: str, small: bool, inner: int) -> list[Options]:
    """``inner``: the mixer's inner width, which its weights' kernel shares out among the programs."""
    if kernel != "token_mixer_bwd_weights":
        return CANDIDATES[kernel][small]
    if small:
        few = PROCESSORS // 2
        return _weights(inner, (32, 128, PROCESSORS, 8, 2), (32, 128, few, 8, 2), (32, 64, PROCESSORS, 8, 2))
    return _weights(
        inner, (32, 128, PROCESSORS, 8, 2), (32, 128, PROCESSORS // 2, 8, 2), (32, 128, PROCESSORS, 8, 3),
        (32, 64, PROCESSORS, 8, 2), (32, 64, 2 * PROCESSORS, 8, 2),
    )  # fmt: skip


def words(options: Options) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
