"""Compiles Triton kernels for GPUs that this machine need not have, emulates them on the CPU (``ptx``), and compares
them with float64.

This tests what Triton's interpreter cannot: bfloat16, the compiler's layouts, and the block sizes of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops._core import registry

from ..ops.triton import offline
from . import ptx

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(registry.INTERPRETED or torch.cuda.is_available(), reason="the kernels run without emulation"),
]
D, HEADS, L = 512, 8, 97
Case = tuple[str, list[torch.Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def on_cpu() -> Iterator[None]:
    """Registers Triton's launchers for CPU tensors, too."""
    library = torch.library.Library("trm_fast_triton", "IMPL")
    gpu = torch._C.DispatchKey.CUDA
    names = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if "trm_fast_triton::" in name}
    for name in names:
        packet = getattr(torch.ops.trm_fast_triton, name)
        library.impl(name, lambda *a, packet=packet: packet.default._op_dk(gpu, *a), "CPU")
    yield
    library._destroy()


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch, on_cpu: None) -> Iterator[Callable[[int], list[str]]]:
    """Makes launches emulate the kernel compiled for an architecture; returns the list of launched kernels."""
    from triton.runtime.jit import JITFunction

    from trm_fast.triton_kernels import configs

    seen: list[str] = []

    def run(arch: int, kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        named = dict(zip(kernel.arg_names, arguments, strict=False)) | options
        binary, values = offline.build(arch, kernel, named)
        ptx.emulate(binary, values, grid)
        seen.append(kernel.__name__)

    def start(arch: int) -> list[str]:
        monkeypatch.setattr(JITFunction, "run", lambda kernel, *a, **options: run(arch, kernel, *a, **options))
        monkeypatch.setattr(configs, "architecture", lambda device: f"sm_{arch}")
        return seen

    monkeypatch.setitem(registry.DEVICE, "triton", "cpu")
    torch.use_deterministic_algorithms(True)  # every torch.empty returns NaN
    with ops.use_backend("triton"):
        yield start
    torch.use_deterministic_algorithms(False)


def gated(random: Any, width: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random(2 * inner, width) * width**-0.5, random(width, inner) * inner**-0.5


def project(random: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return random(3 * D, D) * D**-0.5, random(D, D) * D**-0.5


def rotary(random: Any, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = random(tokens, D // HEADS // 2).repeat(1, 2)
    return angles.cos(), angles.sin()


def padding(random: Any, tokens: int) -> torch.Tensor:
    mask: torch.Tensor = random(1, tokens) > -0.5
    mask[:, 3:9] = False
    return mask


def mixer(random: Any, tokens: int) -> Case:
    return "token_mixer", [random(1, tokens, D), *gated(random, tokens, 128)], {}


def attention(random: Any, tokens: int, masked: bool = False) -> Case:
    more = {"mask": padding(random, tokens), "causal": True} if masked else {}
    return (
        "attention",
        [random(1, tokens, D), *project(random)],
        {"heads": HEADS, "rotary": rotary(random, tokens), **more},
    )


def padded_in_front(random: Any) -> Case:
    """A mask whose first block of keys is all padding, so that only padded queries attend to it."""
    mask = torch.arange(140)[None] >= 132
    return "attention", [random(1, 140, 64), random(192, 64) / 8, random(64, 64) / 8], {"heads": 1, "mask": mask}


def step(random: Any, heads: int, masked: bool = False) -> Case:
    """A latent step with an injection, which the first layer adds when it loads the state."""
    first = project(random) if heads else gated(random, 33, 64)
    states = [random(1, 33, D), random(1, 33, D)]
    return "latent_step", [*states, *first, *gated(random, D, 64)], {
        "heads": heads, "mask": padding(random, 33) if masked else None,
    }  # fmt: skip


CASES: dict[str, Callable[[Any], Case]] = {
    "rms_norm over channels": lambda random: ("rms_norm", [random(3, 5, D), random(3, 5, D)], {"dim": -1}),
    "rms_norm over tokens": lambda random: ("rms_norm", [random(1, L, 40), random(1, L, 40)], {"dim": 1}),
    "swiglu": lambda random: ("swiglu", [random(3, 5, 2 * 96)], {}),
    "stablemax": lambda random: ("stablemax_cross_entropy", [3 * random(1, 81, 11), torch.arange(81)[None] % 11], {}),
    "stablemax, ignored": lambda random: ("stablemax_cross_entropy", [random(3, 5), torch.tensor([4, -100, 0])], {}),
    "mlp": lambda random: ("mlp", [random(1, L, D), *gated(random, D, 192)], {}),
    "mlp, odd": lambda random: ("mlp", [random(1, 3, 50), *gated(random, 50, 33)], {}),
    "mixer, 97": partial(mixer, tokens=97),
    "mixer, 81": partial(mixer, tokens=81),
    "mixer, 128": partial(mixer, tokens=128),
    "mixer, three tiles an example": lambda random: ("token_mixer", [random(2, 65, 72), *gated(random, 65, 9)], {}),
    "mixer, more tiles than slabs": lambda random: ("token_mixer", [random(3, 17, D), *gated(random, 17, 64)], {}),
    "mixer, odd": lambda random: ("token_mixer", [random(1, 5, 50), *gated(random, 5, 33)], {}),
    "attention, 97": partial(attention, tokens=97),
    "attention, 140": partial(attention, tokens=140),
    "attention, 97, masked": partial(attention, tokens=97, masked=True),
    "attention, padded in front": padded_in_front,
    "step with a mixer": partial(step, heads=0),
    "step with a mixer, masked": partial(step, heads=0, masked=True),
    "step with attention": partial(step, heads=HEADS),
}


BF16, FP16 = torch.bfloat16, torch.float16
LAYERS = ("mlp", "mixer, 97", "attention, 97")  # the table has other rows for their large inputs
RUNS = [
    *((case, BF16, 90, "small") for case in CASES),
    *((case, BF16, 90, "large") for case in (*LAYERS, "mixer, 81")),
    *((case, FP16, 90, "large") for case in LAYERS),
    *((case, BF16, 80, "large") for case in (*LAYERS, "stablemax", "step with a mixer, masked")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "dtype", "arch", "size"), RUNS, ids=lambda value: str(value).removeprefix("torch."))
def test_emulated(emulate, check, random, monkeypatch, case, dtype, arch, size):
    """``size`` selects the rows of the table: those for small inputs, or those for large ones."""
    from trm_fast.triton_kernels import configs

    if size == "large":
        monkeypatch.setattr(configs, "SMALL", 0)
    launched = emulate(arch)
    op, tensors, options = CASES[case](random)
    if op == "latent_step":
        for module in (ops, reference):
            run = lambda z, x, *w, of=module, **o: of.latent_step(z, x, w, **o)  # noqa: E731
            monkeypatch.setattr(module, "one_step", run, raising=False)
        op = "one_step"
    check(op, *(t.to(dtype) if t.is_floating_point() else t for t in tensors), **options)
    assert launched


@pytest.mark.slow
def test_optimizers(emulate, random):
    """Updates weights, average and copy of two parameters, and rows whose ids occur twice, once and never."""
    launched = emulate(90)
    shapes, floor = ((33, 40), (7,)), 16 * torch.finfo(torch.float32).eps
    start = [[random(*shape) for shape in shapes] for _ in range(5)]
    start[3] = [t.square() for t in start[3]]
    kernel, truth = ([[t.to(dtype, copy=True) for t in group] for group in start] for dtype in (None, torch.float64))
    copy = torch.zeros(shapes[0], dtype=BF16)
    lr, step = torch.tensor(1e-2), torch.tensor(3.0)
    options = {"weight_decay": 0.3, "ema_decay": 0.9}
    ops.adam_atan2_(*kernel[:4], lr, step, ema=kernel[4], copies=[copy, None], **options)
    reference.adam_atan2_(*truth[:4], lr, step, ema=truth[4], **options)
    for got, want in zip(kernel, truth, strict=True):
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g.double(), w, rtol=0, atol=floor)
    assert torch.equal(copy, kernel[0][0].bfloat16())

    rows, gradient, ids = random(9, 40), random(4, 40), torch.tensor([2, 5, 2, 0])
    want = rows.double()
    reference.sign_sgd_rows_(want, gradient.double(), ids, lr, 0.1)
    ops.sign_sgd_rows_(rows, gradient, ids, lr, 0.1)
    torch.testing.assert_close(rows.double(), want, rtol=0, atol=floor)
    assert {"adam_atan2_kernel", "sign_sgd_rows_kernel"} <= set(launched)


PTX = """.visible .entry k(
	.param .u64 k_param_0,
	.param .u64 k_param_1
)
{
	ld.param.b64 %rd1, [k_param_0];
	ld.param.b64 %rd2, [k_param_1];
	mov.u32 %r1, %tid.x;
	mul.wide.s32 %rd3, %r1, 4;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	shl.b32 %r2, %r1, 2;
	cp.async.ca.shared.global [ %r2 + 0 ], [ %rd4 + 0 ], 0x4, 0x4;
	cp.async.commit_group;
	WAIT;
	ld.shared.b32 %r3, [%r2];
	st.global.b32 [ %rd5 + 0 ], { %r3 };
	ret;
}
"""


@pytest.mark.parametrize(
    ("wait", "length", "wrong"),
    [("cp.async.wait_group 0", 32, None), ("cp.async.wait_group 1", 32, "late"), ("cp.async.wait_group 0", 31, "far")],
)
def test_the_emulator_detects_errors(wait, length, wrong):
    """It detects a copy without a wait, and an access outside a tensor."""
    x, y = torch.randn(length), torch.zeros(32)
    binary = SimpleNamespace(asm={"ptx": PTX.replace("WAIT", wait)}, metadata=SimpleNamespace(num_warps=1, shared=128))
    with pytest.raises(IndexError, match="outside of every tensor") if wrong == "far" else nullcontext():
        ptx.emulate(binary, [x, y], (1,))
    assert torch.equal(x, y) == (wrong is None) if length == 32 else not y.any()
    assert y.isnan().all() == (wrong == "late")
