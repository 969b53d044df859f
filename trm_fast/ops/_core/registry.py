"""What each op states of itself, and its kernels as dispatcher ops: ``torch.ops.trm_fast.<kernel>`` in C++ and CUDA C++
(the dispatcher tells them apart by the device), ``torch.ops.trm_fast_triton.<kernel>`` in Triton.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Triton reads this when it is imported: its kernels then run in Python on a CPU, slowly, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = {"cpp": "cpu", "triton": "cpu" if INTERPRETED else "cuda", "cuda": "cuda"}  # backend -> where its kernels run
CPU_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
GPU_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Results = dict[str, Tensor]
Dtypes = Mapping[str, tuple[torch.dtype, ...]]  # by backend
Fakes = Mapping[str, Callable[..., Any]]
Schemas = Fakes
""""name(arguments) -> results" of a kernel -> its fake: what it returns, without values, for ``torch.compile``."""


class Case(NamedTuple):
    """One call of an op: random inputs of these shapes, the first ``differentiable`` of them with gradients."""

    shapes: Sequence[tuple[int, ...]]
    differentiable: int
    call: Callable[..., Tensor]  # (op, *inputs) -> the output
    further: Callable[[list[Tensor]], list[Tensor]] = lambda inputs: []  # inputs that are made of the random ones
    backends: Sequence[str] = ("cpp", "cuda", "triton")  # those whose kernels take such a call

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        floats = [_random(shape, generator).to(dtype) for shape in self.shapes]
        return [*floats, *(t.to(device) for t in self.further(floats))]

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [t.detach().clone().requires_grad_(i < self.differentiable) for i, t in enumerate(inputs)]

    def run(self, op: Callable[..., Any], inputs: Sequence[Tensor]) -> Results:
        """The output, and the gradients under a random one."""
        leaves, count = self.leaves(inputs), self.differentiable
        out = self.call(op, *leaves)
        grad = _random(out.shape, torch.Generator(out.device).manual_seed(1), weight=False).to(out.dtype)
        gradients = torch.autograd.grad(out, leaves[:count], grad) if count else ()
        return {"output": out.detach()} | {f"gradient {i}": g for i, g in enumerate(gradients)}


def _random(shape: Sequence[int], generator: torch.Generator, weight: bool = True) -> Tensor:
    """Normal numbers; a matrix is a weight, whose products keep their input's size."""
    values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device=generator.device)
    return values / shape[-1] ** 0.5 if weight and len(shape) == 2 else values


@dataclass(frozen=True)
class Op:
    """An op as its file states it."""

    function: Callable[..., Any]  # the public function, whose name is the op's
    reference: Callable[..., Any]  # the same in plain PyTorch, any dtype and device: the oracle, and the fallback
    kernels: Dtypes
    cases: Sequence[Case]  # small inputs that kernels are checked on
    timed: Callable[[int], Case]  # batch size -> the op as the published model calls it: 97 tokens, 512 channels
    schemas: Schemas  # of its kernels, in every backend the same
    triton_fakes: Fakes = field(default_factory=dict)  # name -> fake, where Triton's kernel returns something else
    # A kernel may err so many times as much as PyTorch does in its dtype: the output, and gradients.
    tolerance: tuple[float, float] = (2, 3)
    inference_only: Dtypes = field(default_factory=dict)  # kernels without a gradient
    matrix: bool = False  # most of its time goes to matrix products
    general: Sequence[str] = ("cpp", "cuda", "triton")  # backends that know every kind of layer, masks included

    @property
    def name(self) -> str:
        return self.function.__name__


OPS: dict[str, Op] = {}
reference = SimpleNamespace()  # the references by the ops' names


def build_record() -> dict[str, Any]:
    """What the build step wrote about itself; empty when nothing was built (a bare checkout)."""
    try:
        record: dict[str, Any] = json.loads((Path(__file__).parents[2] / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return record


EXTENSION_MISSING: str | None = None
try:
    importlib.import_module("trm_fast._C")
except ImportError as error:
    EXTENSION_MISSING = f"the C++ extension did not load: {build_record().get('ops', {}).get('reason') or error}"
_CPP, _TRITON = (torch.library.Library(name, "FRAGMENT") for name in ("trm_fast", "trm_fast_triton"))


def register(op: Op) -> None:
    """Makes an op known to selection, checks and benchmarks, and its kernels to the dispatcher and torch.compile."""
    OPS[op.name] = op
    setattr(reference, op.name, op.reference)
    define(op.schemas)
    for schema, fake in op.schemas.items() if "triton" in op.kernels else ():
        name = schema.partition("(")[0]
        _define_triton(op.function.__module__.rpartition(".")[2], name, schema, op.triton_fakes.get(name, fake))


def define(schemas: Schemas) -> None:
    """Dispatcher ops for kernels in C++ and CUDA C++: csrc/ops/<op>/binding.cpp implements them."""
    for schema, fake in schemas.items():
        _CPP.define(schema)
        torch.library.register_fake(f"trm_fast::{schema.partition('(')[0]}", fake, lib=_CPP)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kernels(backend: str) -> Any:
    """The namespace of dispatcher ops that holds a backend's kernels."""
    return torch.ops.trm_fast_triton if backend == "triton" else torch.ops.trm_fast


def triton_kernels(file: str) -> Any:
    """A module of Triton kernels; Triton is imported with it."""
    return importlib.import_module(f"trm_fast.triton_kernels.{file}")


def _define_triton(file: str, name: str, schema: str, fake: Callable[..., Any]) -> None:
    """A dispatcher op whose launcher, of the same name, is imported from ``file`` when it is first called."""
    launcher = functools.cache(lambda: getattr(triton_kernels(file), name))

    def launch(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        autocast = torch.is_autocast_enabled(device.type)
        # Gradients are the caller's (autograd Functions): the products in here record none, and are made in the dtype
        # of their tensors, also under autocast.
        with torch.no_grad(), torch.autocast(device.type, enabled=False) if autocast else nullcontext():
            if device.type == "cpu" or device.index == torch.cuda.current_device():
                return launcher()(*arguments)
            with torch.cuda.device(device):  # Triton launches on the current device
                return launcher()(*arguments)

    _TRITON.define(schema)
    _TRITON.impl(name, launch, DEVICE["triton"].upper())
    torch.library.register_fake(f"trm_fast_triton::{name}", fake, lib=_TRITON)
