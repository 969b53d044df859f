"""What an op asks in a call: which kernel to take. ``auto`` takes one on a GPU after its check there alone."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trm_fast.ops._core import selection, validation
from trm_fast.ops._core.registry import OPS, dtype_name
from trm_fast.ops._core.selection import REFERENCE, SMALL, BackendUnavailable, Choice, choices

WIDEST_HEAD = 256  # whose queries, keys and values Triton's kernels hold without spilling
TIMINGS = Path(__file__).parents[1] / "timings.json"  # device -> what ``timings`` gives


def select(op: str, tensor: Tensor, *others: Tensor | None) -> str:
    """The backend that ``op`` takes for ``tensor``; raises where one asked for by name cannot run.

    A kernel without a gradient is not taken where ``tensor`` or one of ``others`` wants one.
    """
    choice = _choice(op, tensor)
    name = choice.large if tensor.numel() > SMALL else choice.small
    if name not in choice.inference_only or not torch.is_grad_enabled():
        return name
    graded = any(t is not None and t.requires_grad for t in (tensor, *others))
    return fallback(op, name, "its bfloat16 has no gradient") if graded else name


def select_masked(op: str, mask: Tensor | None, causal: bool, heads: int, first: Tensor, *others: Tensor | None) -> str:
    """``select`` for an op with a mask (bool, (B, L) of the first tensor) or causal order, which not all know, or
    with heads (0: none) that are wider than some can take."""
    if mask is not None and (mask.shape, mask.dtype, mask.device) != (first.shape[:2], torch.bool, first.device):
        wanted, got = (f"{tuple(first.shape[:2])}, on {first.device}", f"{tuple(mask.shape)}, on {mask.device}")
        raise ValueError(f"{op}: the mask must be bool, {wanted}, but is {mask.dtype}, {got}")
    chosen = select(op, first, *others)
    if chosen == "triton" and heads and (width := first.shape[2] // heads) > WIDEST_HEAD:
        return fallback(op, chosen, f"its kernels take heads up to {WIDEST_HEAD} wide, not {width}")
    if chosen == "reference" or (mask is None and not causal) or chosen in OPS[op].general:
        return chosen
    return fallback(op, chosen, "its kernels know neither padding nor causal order", first, heads)


def has_kernel(op: str, tensor: Tensor, masked: bool = False) -> bool:
    """Whether ``op`` takes a kernel for ``tensor``, one that knows masks if it is ``masked``; for callers that have
    another way than the op's reference."""
    if selection.requested_for(op) != "auto" and (op, tensor.device.type, tensor.dtype) not in choices:
        return False
    choice = _choice(op, tensor)
    name = choice.large if tensor.numel() > SMALL else choice.small
    if name == "reference" or (name in choice.inference_only and torch.is_grad_enabled()):
        return False  # in a model the weights want a gradient
    return not masked or name in OPS[op].general or general_kernel(op, tensor) != "reference"


def fallback(op: str, backend: str, reason: str, tensor: Tensor | None = None, heads: int = 0) -> str:
    """For an op whose kernel cannot take these arguments: the reference, or an error if it was asked for by name. With
    ``tensor``, its first argument, another kernel if there is one."""
    if selection.requested_for(op) == backend:
        raise BackendUnavailable(f"backend {backend!r} was asked for {op} and cannot run: {reason}", wrong_use=True)
    return "reference" if tensor is None else general_kernel(op, tensor, heads)


def general_kernel(op: str, tensor: Tensor, heads: int = 0) -> str:
    """What ``auto`` takes where its choice, made for one kind of layer, cannot run: a kernel that knows every kind."""
    name = choices.get((op, tensor.device.type, tensor.dtype), REFERENCE).general
    return "reference" if name == "triton" and heads and tensor.shape[2] // heads > WIDEST_HEAD else name


def _choice(op: str, tensor: Tensor) -> Choice:
    return choices.get((op, tensor.device.type, tensor.dtype)) or _resolve(op, tensor.device.type, tensor.dtype)


def _resolve(op: str, device: str, dtype: torch.dtype) -> Choice:
    """Settles, once, what ``auto`` takes on a device whose kernels are checked there."""
    requested = selection.requested_for(op)
    if requested not in ("auto", "reference"):
        reason = selection.unavailable(op, requested, device, dtype)
        raise BackendUnavailable(f"backend {requested!r} was asked for {op} and cannot run: {reason}", wrong_use=True)
    if requested == "reference" or device not in selection.CHECKED:
        return choices.get((op, device, dtype), REFERENCE)
    if torch.compiler.is_compiling():  # too late for a check: call the op once before it is compiled
        return REFERENCE
    capturing = device == "cuda" and torch.cuda.is_current_stream_capturing()
    look_up = validation.known if capturing else validation.verdict
    there = [name for name in OPS[op].kernels if not selection.unavailable(op, name, device, dtype)]
    verdicts = {name: look_up(op, name, dtype, device) for name in there}
    choice = choose(op, device, dtype, [name for name, found in verdicts.items() if found == validation.PASSED])
    if None not in verdicts.values():  # else asked again after the capture
        choices[op, device, dtype] = choice
        for name in [name for name, found in verdicts.items() if found != validation.PASSED]:
            warnings.warn(f"the {name} kernel of {op} for {dtype} is switched off: {verdicts[name]}", stacklevel=2)
    return choice


def choose(op: str, device: str, dtype: torch.dtype, passed: Sequence[str]) -> Choice:
    """Among the kernels that passed and the reference: the fastest where such a device was timed. Else fewer passes
    over memory cannot be slower; and matrix ops on a GPU take Triton's in 16 bits (they run on the tensor cores, and
    keep from memory what a chain of products sends through it), in float32 the reference."""
    order = ["cpp", "cuda", "triton"]
    if OPS[op].matrix:
        order = ["cpp", "triton"] if dtype.itemsize == 2 else ["cpp"]
    order = [name for name in order if name in passed]
    default, general = (next(iter(names), "reference") for names in (order, [b for b in order if b in OPS[op].general]))
    fastest = timings(device).get(f"{op}/{dtype_name(dtype)}", {})
    small, large = (fastest.get(size, default) for size in ("small", "large"))
    small, large = (name if name in (*passed, "reference") else default for name in (small, large))
    return Choice(small, large, general, selection.without_gradient(op, dtype))


@functools.cache
def timings(device: str) -> dict[str, dict[str, str]]:
    """ "op/dtype" -> "small" and "large" inputs -> the fastest backend: by the package's table, and over it what
    ``trm-fast info --measure`` found on this machine (``measured.json`` beside the verdicts)."""
    table: dict[str, dict[str, str]] = json.loads(TIMINGS.read_text()).get(validation.device_name(device), {})
    with contextlib.suppress(OSError, ValueError):
        table |= json.loads((validation.cache_folder(device) / "measured.json").read_text())
    return table
