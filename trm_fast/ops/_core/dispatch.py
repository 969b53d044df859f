"""Chooses the backend of a call. On a GPU, ``auto`` uses a kernel only after it has passed its check on that device."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from trm_fast.ops._core import selection, validation
from trm_fast.ops._core.registry import OPS, dtype_name
from trm_fast.ops._core.selection import REFERENCE, SMALL, BackendUnavailable, Choice, choices

MAX_HEAD_WIDTH = 256  # channels of an attention head that fit into the registers of Triton kernels
TIMINGS = Path(__file__).parents[1] / "timings.json"  # device -> the table that ``timings`` returns


def select(op: str, tensor: Tensor) -> str:
    """The backend of ``op`` for its first input ``tensor``.

    No kernel is used under a transform of ``torch.func``.

    Raises:
        BackendUnavailable: a backend was requested by name and cannot run.
    """
    choice = _choice(op, tensor)
    name = choice.large if tensor.numel() > SMALL else choice.small
    if name != "reference" and transformed():
        return fallback(op, name, "kernels support neither torch.func's transforms nor forward-mode differentiation")
    return name


def transformed() -> bool:
    """Whether a transform of ``torch.func`` (grad, vmap, jvp, ...) or forward-mode differentiation is active, which
    only the references support. ``torch.compile`` traces both conditions and guards on them."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def select_masked(op: str, mask: Tensor | None, causal: bool, heads: int, first: Tensor) -> str:
    """``select`` for an op with options that some kernels do not support: masks, causal order, wide attention heads.

    Args:
        mask: bool (B, L), or None.
        heads: number of attention heads; 0 for a layer without heads.
        first: the op's first input, (B, L, D).

    Raises:
        ValueError: the mask does not fit ``first``.
        BackendUnavailable: as ``select``.
    """
    if mask is not None and (mask.shape, mask.dtype, mask.device) != (first.shape[:2], torch.bool, first.device):
        expected, actual = (f"{tuple(first.shape[:2])}, on {first.device}", f"{tuple(mask.shape)}, on {mask.device}")
        raise ValueError(f"{op}: the mask must be bool, {expected}, but is {mask.dtype}, {actual}")
    chosen = select(op, first)
    if chosen == "triton" and heads and (width := first.shape[2] // heads) > MAX_HEAD_WIDTH:
        return fallback(op, chosen, f"its kernels take heads up to {MAX_HEAD_WIDTH} wide, not {width}")
    if chosen == "reference" or (mask is None and not causal) or chosen in OPS[op].general:
        return chosen
    return fallback(op, chosen, "its kernels have neither padding nor causal order", first, heads)


def has_kernel(op: str, tensor: Tensor, masked: bool = False) -> bool:
    """Whether ``op`` has a kernel for ``tensor``, with masks if ``masked``.

    Callers that have another way to compute the result use it if there is no kernel.
    """
    if selection.requested_for(op) != "auto" and (op, tensor.device.type, tensor.dtype) not in choices:
        return False
    choice = _choice(op, tensor)
    name = choice.large if tensor.numel() > SMALL else choice.small
    if name == "reference":
        return False
    return not masked or name in OPS[op].general or general_kernel(op, tensor) != "reference"


def fallback(op: str, backend: str, reason: str, tensor: Tensor | None = None, heads: int = 0) -> str:
    """The backend to use if the kernel of ``backend`` cannot run the given arguments.

    Without ``tensor`` (the op's first argument) it is the reference; with it, a general kernel if the op has one.

    Raises:
        BackendUnavailable: ``backend`` was requested by name.
    """
    if selection.requested_for(op) == backend:
        raise BackendUnavailable(
            f"backend {backend!r} was requested for {op} but cannot run: {reason}", usage_error=True
        )
    return "reference" if tensor is None else general_kernel(op, tensor, heads)


def general_kernel(op: str, tensor: Tensor, heads: int = 0) -> str:
    """The backend that ``auto`` uses for layers that its first choice cannot run."""
    name = choices.get((op, tensor.device.type, tensor.dtype), REFERENCE).general
    return "reference" if name == "triton" and heads and tensor.shape[2] // heads > MAX_HEAD_WIDTH else name


def _choice(op: str, tensor: Tensor) -> Choice:
    return choices.get((op, tensor.device.type, tensor.dtype)) or _resolve(op, tensor.device.type, tensor.dtype)


def _resolve(op: str, device: str, dtype: torch.dtype) -> Choice:
    """Makes the choice for an op, device and dtype. On a device with checks it depends on the kernels' verdicts."""
    requested = selection.requested_for(op)
    if requested not in ("auto", "reference"):
        reason = selection.unavailable(op, requested, device, dtype)
        raise BackendUnavailable(
            f"backend {requested!r} was requested for {op} but cannot run: {reason}", usage_error=True
        )
    if requested == "reference" or device not in selection.CHECKED:
        return choices.get((op, device, dtype), REFERENCE)
    if torch.compiler.is_compiling():  # checks cannot run here: call the op once before compiling it
        return REFERENCE
    capturing = device == "cuda" and torch.cuda.is_current_stream_capturing()
    look_up = validation.known_verdict if capturing else validation.verdict
    available = [name for name in OPS[op].kernels if not selection.unavailable(op, name, device, dtype)]
    verdicts = {name: look_up(op, name, dtype, device) for name in available}
    passed = [name for name, verdict in verdicts.items() if verdict == validation.PASSED]
    choice = choose(op, device, dtype, passed)
    if None not in verdicts.values():  # None: not checked yet; the next call after the capture chooses again
        choices[op, device, dtype] = choice
        for name in [name for name in verdicts if name not in passed]:
            warnings.warn(f"the {name} kernel of {op} for {dtype} is switched off: {verdicts[name]}", stacklevel=2)
    return choice


def choose(op: str, device: str, dtype: torch.dtype, passed: Sequence[str]) -> Choice:
    """Chooses among the reference and the kernels that passed their check.

    On a device with timings, the fastest one is chosen. Without timings, a memory-bound op uses a kernel, because a
    kernel makes fewer passes over memory. A matrix op on a GPU uses Triton in 16 bits, which runs on the tensor cores
    and keeps intermediate values out of memory, and the reference in float32.
    """
    order = ["cpp", "cuda", "triton"]
    if OPS[op].matrix:
        order = ["cpp", "triton"] if dtype.itemsize == 2 else ["cpp"]
    order = [name for name in order if name in passed]
    default, general = (next(iter(names), "reference") for names in (order, [b for b in order if b in OPS[op].general]))
    fastest = timings(device).get(f"{op}/{dtype_name(dtype)}", {})
    small, large = (fastest.get(size, default) for size in ("small", "large"))
    small, large = (name if name in (*passed, "reference") else default for name in (small, large))
    return Choice(small, large, general)


@functools.cache
def timings(device: str) -> dict[str, dict[str, str]]:
    """ "op/dtype" -> "small" or "large" inputs -> the fastest backend.

    The entries come from the package's table. Those that ``trm-fast info --measure`` measured on this machine replace
    them (``measured.json``, next to the verdicts).
    """
    table: dict[str, dict[str, str]] = json.loads(TIMINGS.read_text()).get(validation.device_name(device), {})
    with contextlib.suppress(OSError, ValueError):
        table |= json.loads((validation.cache_folder(device) / "measured.json").read_text())
    return table
