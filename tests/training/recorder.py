"""Emulates a CUDA graph on the CPU and refuses what a GPU would silently get wrong.

``capture`` runs a function once and records every tensor operation with its tensors. ``replay`` repeats the operations
on the same memory without running the function. All values that Python computed keep their first value. So a number
that changes from step to step but is not in a tensor makes the replay differ from a call. Operations that would wait
for the device raise ``HostRead``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {
    "_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "nonzero_numpy", "unique_consecutive",
    "unique_dim", "unique_dim_consecutive", "_unique", "_unique2", "repeat_interleave", "bincount", "histc", "allclose",
    "_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "segment_reduce", "pin_memory", "_pin_memory",
}  # fmt: skip
READS = ("__array__", "cpu", "numpy", "tolist")
"""Methods that copy to the host. On a CPU they are no tensor operations; on a GPU they would wait."""
BAKED = ("from_numpy", "frombuffer", "manual_seed")
"""Functions of torch whose results or effects a graph would freeze at the capture."""


class HostRead(RuntimeError):
    """The captured function reads a value or does something else that a graph cannot replay."""


class Recorder:
    """A ``Runner`` of ``trm_fast.inference.capture``."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[tuple[int, Tensor]]]] = []

    def capture(self, function: Callable[[], None]) -> None:
        self.tape.clear()
        # A tensor without a device would be on the host. The meta device makes it detectable.
        with _no_reads(), torch.device("meta"), _Writer(self.tape):
            function()

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, outputs in self.tape:
                results: list[Any] = tree_leaves(operation(*args, **kwargs))
                for message in results:
                    if isinstance(message, torch.ScriptObject):  # a collective; on a GPU the stream waits for it
                        message.wait()  # type: ignore[attr-defined]
                for index, tensor in outputs:
                    tensor.copy_(results[index])


class _Writer(TorchDispatchMode):
    def __init__(self, tape: list[Any]) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.namespace == "profiler":
            return operation(*args, **kwargs)
        if operation._opname == "lift_fresh":
            raise HostRead("a tensor of Python numbers is copied from the host, which waits")
        if operation._opname in WAITS or _has_mask(operation, args):
            raise HostRead(f"{operation} waits for the device")
        if any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves((args, kwargs))):
            raise HostRead(f"{operation}: a tensor was made without a device")
        if kwargs.get("generator") is not None:
            raise HostRead(f"{operation} draws from a generator that is not part of a graph")
        result = operation(*args, **kwargs)
        addresses = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        # Views and in-place results share the memory of their arguments. A replay must fill other memory again.
        outputs = [
            (index, tensor)
            for index, tensor in enumerate(tree_leaves(result))
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in addresses
        ]
        self.tape.append((operation, args, kwargs, outputs))
        return result


def _has_mask(operation: Any, args: tuple[Any, ...]) -> bool:
    """Whether it is indexing with a mask, whose shape depends on values."""
    if operation._opname not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


@contextmanager
def _no_reads() -> Iterator[None]:
    def refuse(text: str) -> Callable[..., Any]:
        def read(*_: Any, **__: Any) -> Any:
            raise HostRead(text)

        return read

    reads = {name: refuse(f"Tensor.{name} waits for the device") for name in READS}
    baked = {name: refuse(f"torch.{name}: a replay would not repeat it") for name in BAKED}
    with _patched(Tensor, reads), _patched(torch, baked):
        yield


@contextmanager
def _patched(owner: Any, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    inherited = {name: vars(owner).get(name) for name in methods}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name, method in inherited.items():
            if method is None:
                delattr(owner, name)
            else:
                setattr(owner, name, method)
