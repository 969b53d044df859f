"""A stand-in for a CUDA graph on the CPU, strict where a GPU would be wrong without a word.

``capture`` runs a function once and writes down every tensor operation it does, with the very tensors it does it on.
``replay`` does those again, on the same memory, without the function: whatever Python computed in between is frozen at
its first value. So a number that changes from step to step and does not live in a tensor shows as a difference from
calling the function, and anything that would wait for the device is refused.
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
"""Ways to the host that are no tensor operation on a CPU, and would wait on a GPU."""
BAKED = ("from_numpy", "frombuffer", "manual_seed")
"""Functions of torch whose result, or effect, a graph would keep as it was at the capture."""


class HostRead(RuntimeError):
    """The captured function looks at a value."""


class Recorder:
    """A ``Runner`` of ``trm_fast.inference.capture``."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[tuple[int, Tensor]]]] = []

    def capture(self, function: Callable[[], None]) -> None:
        self.tape.clear()
        # A tensor made without a device would be on the host: here it is on one that is told apart.
        with _no_reads(), torch.device("meta"), _Writer(self.tape):
            function()

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, made in self.tape:
                results: list[Any] = tree_leaves(operation(*args, **kwargs))
                for message in results:
                    if isinstance(message, torch.ScriptObject):  # to other processes: on a GPU the stream waits for it
                        message.wait()  # type: ignore[attr-defined]
                for place, tensor in made:
                    tensor.copy_(results[place])


class _Writer(TorchDispatchMode):
    def __init__(self, tape: list[Any]) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.namespace == "profiler":
            return operation(*args, **kwargs)
        if operation._opname == "lift_fresh":
            raise HostRead("a tensor made of Python's numbers is copied from the host, with a wait")
        if operation._opname in WAITS or _has_mask(operation, args):
            raise HostRead(f"{operation} waits for the device")
        if any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves((args, kwargs))):
            raise HostRead(f"{operation}: a tensor was made without saying on what device")
        if kwargs.get("generator") is not None:
            raise HostRead(f"{operation} draws from a generator that no graph knows")
        result = operation(*args, **kwargs)
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        # Views and in-place results follow their memory by themselves; new memory must be filled again.
        made = [
            (place, tensor)
            for place, tensor in enumerate(tree_leaves(result))
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known
        ]
        self.tape.append((operation, args, kwargs, made))
        return result


def _has_mask(operation: Any, args: tuple[Any, ...]) -> bool:
    """Indexing with a mask: a shape that depends on values."""
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
    baked = {name: refuse(f"torch.{name}: a replay would not do it again") for name in BAKED}
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
