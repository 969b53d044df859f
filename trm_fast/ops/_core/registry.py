"""The table of ops, and the registration of their kernels with torch's dispatcher.

C++ and CUDA C++ kernels are ``torch.ops.trm_fast.<kernel>``; the dispatcher chooses between them by the tensors'
device. Triton kernels are ``torch.ops.trm_fast_triton.<kernel>``.
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

# Triton reads this variable at import. If it is set, Triton kernels run in Python on a CPU: slowly, for tests only.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = {"cpp": "cpu", "triton": "cpu" if INTERPRETED else "cuda", "cuda": "cuda"}  # backend -> device of its kernels
CPU_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
GPU_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Results = dict[str, Tensor]
Dtypes = Mapping[str, tuple[torch.dtype, ...]]  # by backend
Fakes = Mapping[str, Callable[..., Any]]
Schemas = Fakes
"""Schema of a kernel, "name(arguments) -> results" -> its fake: the same results without values, for
``torch.compile``."""


class Case(NamedTuple):
    """One call of an op on random inputs, to check or time a kernel. The first ``differentiable`` inputs get
    gradients."""

    shapes: Sequence[tuple[int, ...]]
    differentiable: int
    call: Callable[..., Tensor]  # (op, *inputs) -> the output
    further: Callable[[list[Tensor]], list[Tensor]] = lambda inputs: []  # random inputs -> inputs to append
    backends: Sequence[str] = ("cpp", "cuda", "triton")  # backends whose kernels accept this call

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Random inputs, the same in every call."""
        generator = torch.Generator(device).manual_seed(0)
        floats = [_random(shape, generator).to(dtype) for shape in self.shapes]
        return [*floats, *(t.to(device) for t in self.further(floats))]

    def leaves(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Copies of ``inputs``; the differentiable ones have ``requires_grad``."""
        return [t.detach().clone().requires_grad_(i < self.differentiable) for i, t in enumerate(inputs)]

    def run(self, op: Callable[..., Any], inputs: Sequence[Tensor]) -> Results:
        """The output, and the inputs' gradients for a random gradient of the output."""
        leaves, count = self.leaves(inputs), self.differentiable
        out = self.call(op, *leaves)
        grad = _random(out.shape, torch.Generator(out.device).manual_seed(1), weight=False).to(out.dtype)
        gradients = torch.autograd.grad(out, leaves[:count], grad) if count else ()
        return {"output": out.detach()} | {f"gradient {i}": g for i, g in enumerate(gradients)}


def _random(shape: Sequence[int], generator: torch.Generator, weight: bool = True) -> Tensor:
    """Normal numbers. A matrix is scaled like a weight, so that its product has about the magnitude of the input."""
    values = torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device=generator.device)
    return values / shape[-1] ** 0.5 if weight and len(shape) == 2 else values


@dataclass(frozen=True)
class Op:
    """The definition of an op. Each op's file registers one."""

    function: Callable[..., Any]  # the public function; its name is the name of the op
    reference: Callable[..., Any]  # the op in plain PyTorch, for any dtype and device
    kernels: Dtypes
    cases: Sequence[Case]  # check cases: small inputs
    timed: Callable[[int], Case]  # batch size -> a call with the published model's sizes: 97 tokens, 512 channels
    schemas: Schemas  # of the kernels, the same for every backend
    triton_fakes: Fakes = field(default_factory=dict)  # name -> fake, if the Triton kernel's result has another size
    # The largest error of a kernel, as a multiple of PyTorch's in the same dtype: for the output and for gradients.
    tolerance: tuple[float, float] = (2, 3)
    matrix: bool = False  # whether matrix products take most of the op's time
    layer_reference: Callable[..., Tensor] | None = None  # of a layer: its reference with the kernels' arguments
    general: Sequence[str] = ("cpp", "cuda", "triton")  # backends that support every kind of layer, masks included

    @property
    def name(self) -> str:
        return self.function.__name__


OPS: dict[str, Op] = {}
reference = SimpleNamespace()  # op name -> its reference


def build_record() -> dict[str, Any]:
    """The record that the build wrote (``_build.json``); empty if there is none."""
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
    """Adds an op to the table, and its kernels to the dispatcher."""
    OPS[op.name] = op
    setattr(reference, op.name, op.reference)
    define(op.schemas)
    for schema, fake in op.schemas.items() if "triton" in op.kernels else ():
        name = schema.partition("(")[0]
        _define_triton(op.function.__module__.rpartition(".")[2], name, schema, op.triton_fakes.get(name, fake))


def define(schemas: Schemas) -> None:
    """Declares C++ and CUDA C++ kernels to the dispatcher; csrc/ops/<op>/binding.cpp implements them."""
    for schema, fake in schemas.items():
        _CPP.define(schema)
        torch.library.register_fake(f"trm_fast::{schema.partition('(')[0]}", fake, lib=_CPP)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without the prefix ``torch.``.

    Examples:
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def kernels(backend: str) -> Any:
    """The dispatcher's namespace with a backend's kernels."""
    return torch.ops.trm_fast_triton if backend == "triton" else torch.ops.trm_fast


def triton_kernels(file: str) -> Any:
    """A module of Triton kernels. The first call imports Triton."""
    return importlib.import_module(f"trm_fast.triton_kernels.{file}")


def _define_triton(file: str, name: str, schema: str, fake: Callable[..., Any]) -> None:
    """Declares a Triton kernel to the dispatcher; the first call imports its launcher from ``triton_kernels``."""
    launcher = functools.cache(lambda: getattr(triton_kernels(file), name))

    def launch(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        autocast = torch.is_autocast_enabled(device.type)
        # The ops' autograd Functions compute the gradients, so launchers run without autograd. Autocast must not change
        # the dtype of their products.
        with torch.no_grad(), torch.autocast(device.type, enabled=False) if autocast else nullcontext():
            if device.type == "cpu" or device.index == torch.cuda.current_device():
                return launcher()(*arguments)
            with torch.cuda.device(device):  # Triton launches on the current device
                return launcher()(*arguments)

    _TRITON.define(schema)
    _TRITON.impl(name, launch, DEVICE["triton"].upper())
    torch.library.register_fake(f"trm_fast_triton::{name}", fake, lib=_TRITON)
