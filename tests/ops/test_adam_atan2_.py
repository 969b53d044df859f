"""The op adam_atan2_: its formula, its variants, low-precision copies, layouts and errors."""

from __future__ import annotations

import math

import pytest
import torch

from trm_fast import ops
from trm_fast.ops import reference

SHAPES = [(5, 7), (130,), (1,), (0, 3), (64, 33), ()]
LR, STEP = torch.tensor(1e-2), torch.tensor(3)


def state(random, dtype=torch.float32, shapes=SHAPES):
    """params, grads, first moments, second moments, averages."""
    lists = [[random(*shape, dtype=dtype) for shape in shapes] for _ in range(5)]
    lists[3] = [t.square() for t in lists[3]]
    return lists


def copies(lists, dtype):
    return [[t.to(dtype, copy=True) for t in tensors] for tensors in lists]


def step(op, lists, ema=True, **kwargs):
    *tensors, averages = lists
    op(*tensors, LR, STEP, ema=averages if ema else None, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["adam_atan2", "adamw"])
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("grad_scale", [None, torch.tensor(0.25)])
def test_agrees_with_reference(isa, random, dtype, variant, ema, grad_scale):
    start = state(random, dtype)
    kernel, truth = copies(start, dtype), copies(start, torch.float64)
    for _ in range(3):
        kwargs = {"variant": variant, "weight_decay": 0.3, "ema_decay": 0.9, "grad_scale": grad_scale}
        step(ops.adam_atan2_, kernel, ema, **kwargs)
        step(reference.adam_atan2_, truth, ema, **kwargs)
    for got, want in zip(kernel, truth, strict=True):
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g.double(), w, rtol=0, atol=16 * torch.finfo(dtype).eps)
    assert not torch.equal(kernel[0][0], start[0][0])
    assert torch.equal(kernel[4][0], start[4][0]) != ema


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_the_formula(native, backend):
    """One parameter, computed by hand."""
    p, g, m, v = (torch.tensor([value], dtype=torch.float64) for value in (2.0, 0.5, 0.1, 0.04))
    with ops.use_backend(backend):
        ops.adam_atan2_([p], [g], [m], [v], torch.tensor(0.1, dtype=torch.float64), torch.tensor(2), weight_decay=0.5)
    mean, square = 0.9 * 0.1 + 0.1 * 0.5, 0.95 * 0.04 + 0.05 * 0.25
    angle = math.atan2(mean, math.sqrt(square) / math.sqrt(1 - 0.95**2))
    assert p.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1 / (1 - 0.9**2) * angle, rel=1e-14)
    assert (m.item(), v.item()) == (pytest.approx(mean, rel=1e-14), pytest.approx(square, rel=1e-14))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_adamw_equals_torchs(native, random, backend):
    p, grads = random(9, 4), [random(9, 4) for _ in range(5)]
    ours, m, v = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
    theirs = p.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    for t, grad in enumerate(grads, 1):
        theirs.grad = grad
        optimizer.step()
        with ops.use_backend(backend):
            ops.adam_atan2_([ours], [grad], [m], [v], LR, torch.tensor(t), weight_decay=0.1, variant="adamw")
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_atan2_is_accurate(isa):
    """Covers all angles. With these betas the first moment is halved, the root of the second stays, and the step is
    twice the angle."""
    ratio = torch.logspace(-20, 20, 20001)
    m = torch.cat([ratio, -ratio])
    p, v, beta2 = torch.zeros_like(m), torch.ones_like(m), math.nextafter(1.0, 0.0)
    ops.adam_atan2_([p], [torch.zeros_like(m)], [m], [v], torch.tensor(1.0), torch.tensor(1), betas=(0.5, beta2))
    want = -2 * torch.atan2(m.double(), v.double().sqrt() / math.sqrt(1 - beta2))
    torch.testing.assert_close(p.double(), want, rtol=4 * torch.finfo(torch.float32).eps, atol=0)


def test_special_values_of_atan2(isa):
    """Zeros of both signs, infinity over infinity and NaN, on moments that start at zero."""
    g = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-30, 1e30]).repeat(5)
    kernel, truth = ([[torch.zeros_like(g)] for _ in range(3)] for _ in range(2))
    ops.adam_atan2_(kernel[0], [g], *kernel[1:], LR, torch.tensor(1))
    reference.adam_atan2_(truth[0], [g], *truth[1:], LR, torch.tensor(1))
    for (got,), (want,) in zip(kernel, truth, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_nan_does_not_spread(isa, random):
    lists = state(random)
    lists[1][1][77] = torch.nan
    step(ops.adam_atan2_, lists)
    assert [int(t.isnan().sum()) for t in lists[0]] == [0, 1, 0, 0, 0, 0]


def test_any_layout(cpp, random):
    """Transposed parameters and broadcast gradients: written in place, in the caller's strides."""
    p, m, v, e = (random(6, 10).square().t() for _ in range(4))
    g = random(10, 1).expand(10, 6)
    want = [t.contiguous() for t in (p, g, m, v, e)]
    step(reference.adam_atan2_, [[t] for t in want])
    step(ops.adam_atan2_, [[t] for t in (p, g, m, v, e)])
    for got, expected in zip((p, m, v, e), (want[0], *want[2:]), strict=True):
        torch.testing.assert_close(got, expected)
        assert got.stride() == (1, 10)


def test_any_number_of_threads_gives_the_same_bits(cpp, random):
    """Threads divide the work by elements, across parameters of every size."""
    start = state(random, shapes=[(300, 401), (3,), (0,), (150, 1000), (77,)])
    results = []
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        lists = copies(start, torch.float32)
        step(ops.adam_atan2_, lists)
        results.append(lists)
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert all(map(torch.equal, one, three))


def test_parameters_that_require_grad(cpp, random):
    lists = state(random)
    lists[0] = [p.requires_grad_() for p in lists[0]]
    versions = [p._version for p in lists[0]]
    step(ops.adam_atan2_, lists)
    assert all(p._version > old for p, old in zip(lists[0], versions, strict=True))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_low_precision_copies(native, random, backend):
    """Padded, and with groups of 4 rows of gate and up that alternate; the rest of a short last group stays zero."""
    lists = state(random, shapes=[(5, 7), (20, 3), (6,)])
    targets = [torch.zeros(8, 16).bfloat16(), torch.zeros(24, 8).bfloat16(), None]
    with ops.use_backend(backend):
        step(ops.adam_atan2_, lists, copies=targets, interleave=[0, 4, 0])
    plain, turns = (p.bfloat16() for p in lists[0][:2])
    assert torch.equal(targets[0][:5, :7], plain)
    assert not targets[0][5:].any()
    assert not targets[0][:, 7:].any()
    empty = torch.zeros(2, 3).bfloat16()
    want = [turns[0:4], turns[10:14], turns[4:8], turns[14:18], turns[8:10], empty, turns[18:20], empty]
    assert torch.equal(targets[1][:, :3], torch.cat(want))


def test_copies_that_do_not_fit(cpp, random):
    lists = state(random, shapes=[(5, 7)])
    for wrong in (torch.zeros(4, 7), torch.zeros(5, 6), torch.zeros(64)):
        with pytest.raises(RuntimeError, match="copy 0"):
            step(ops.adam_atan2_, lists, copies=[wrong.bfloat16()])
    with pytest.raises(ValueError, match="1 params but 2 copies"):
        step(ops.adam_atan2_, lists, copies=[None, None])


@pytest.mark.parametrize("ema", [True, False])
def test_opcheck(cpp, random, ema):
    *tensors, averages = state(random, shapes=[(5, 7), (3,)])
    numbers = (0.9, 0.95, 1.0, 0.999, 1e-8, False)
    args = (*tensors, averages if ema else [], [], [], LR, STEP, None, *numbers)
    torch.library.opcheck(torch.ops.trm_fast.adam_atan2_.default, args)


def test_compiles_to_one_graph(cpp, random):
    start = state(random)
    eager, traced = copies(start, torch.float32), copies(start, torch.float32)
    step(ops.adam_atan2_, eager)
    torch.compiler.reset()
    torch.compile(lambda lists: step(ops.adam_atan2_, lists), fullgraph=True, backend="aot_eager")(traced)
    for want, got in zip(eager, traced, strict=True):
        assert all(map(torch.equal, want, got))


def test_bfloat16_falls_back(native, random):
    """Weight decay of 1e-4 survives: 1 - 1e-4 is not rounded to bfloat16's 1."""
    p = [torch.full((64,), 1.0, dtype=torch.bfloat16)]
    zeros = [torch.zeros(64, dtype=torch.bfloat16) for _ in range(3)]
    for _ in range(2):
        ops.adam_atan2_(p, *([z] for z in zeros), torch.tensor(0.1), torch.tensor(1), weight_decay=0.05)
    assert (p[0] < 1).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"variant": "sgd"}, ValueError, "choose one of adam_atan2, adamw"),
        ({"lr": 1e-3}, TypeError, "lr must be a 0-dim tensor"),
        ({"step": torch.ones(2)}, TypeError, "step must be a 0-dim tensor"),
        ({"grads": []}, ValueError, "2 params but 0 grads"),
        ({"exp_avgs": [torch.zeros(3), torch.zeros(2)]}, ValueError, r"exp_avgs\[1\] is \(2,\)"),
        ({"ema": [torch.zeros(3), torch.zeros(3).double()]}, ValueError, r"ema\[1\] is .*float64"),
        ({"lr": torch.tensor(1e-3, device="meta")}, ValueError, "lr is on meta"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {name: [torch.zeros(3), torch.zeros(3)] for name in ("params", "grads", "exp_avgs", "exp_avg_sqs")}
    with pytest.raises(error, match=message):
        ops.adam_atan2_(**(arguments | {"lr": LR, "step": STEP} | change))
