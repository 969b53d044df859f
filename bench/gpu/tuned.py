"""The Triton launchers at the sizes of the published model, and the rows of their table, for bench/tune.py.

Layers are called as the recursion calls them, below the ops: a kernel then adds the injection that it adds there, and
backward runs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from candidates import Options, candidates
from torch import Tensor

from trm_fast.ops import reference
from trm_fast.triton_kernels import configs

D, INNER, HEADS, CLASSES, EPS = 512, 1536, 8, 11, 1e-5
WIDTHS = {97: 512, 81: 256}  # the mixer's inner width, by tokens
LARGE, SMALL = 768, 8  # batches


@dataclass
class Part:
    """What launches some kernels. ``forward(keep)`` returns its results and, to keep, readies ``backward``; ``truth``
    is both in float32. ``shapes`` and ``block``: what ``configs.lookup`` is given besides ``looked_up``."""

    looked_up: Tensor
    forward: Callable[[bool], list[Tensor]]
    backward: Callable[[], list[Tensor]]
    truth: Callable[[bool], list[Tensor]]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    block: int = 0
    kept: bool = False

    def run(self, backward: bool) -> list[Tensor]:
        if backward and not self.kept:  # once: it is not what is tuned
            self.forward(True)
            self.kept = True
        return self.backward() if backward else self.forward(False)

    def lookup(self, kernel: str) -> Options:
        return dict(configs.lookup(kernel, self.looked_up, *self.shapes.get(kernel, ()), block=self.block))

    def row(self, kernel: str) -> str:
        """The name of the most special row that fits."""
        small = self.looked_up.numel() <= configs.SMALL
        return configs.key(8 * self.looked_up.element_size(), *self.shapes.get(kernel, ()), small=small)


def _random(device: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0  # a weight's
    return (torch.randn(*shape, device=device) * scale).to(dtype)


def _truth(plain: Callable[..., Tensor], inputs: Sequence[Tensor], dy: Tensor) -> Callable[[bool], list[Tensor]]:
    """The reference's result, or the gradients of the inputs."""

    def run(backward: bool) -> list[Tensor]:
        leaves = [t.detach().float().requires_grad_(backward) for t in inputs]
        out = plain(*leaves)
        return list(torch.autograd.grad(out, leaves, dy.to(out.dtype))) if backward else [out]

    return run


def _layer(
    make: Callable[[], Any],
    plain: Callable[..., Tensor],
    h: Tensor,
    injection: Tensor | None,
    weights: Sequence[Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    block: int = 0,
) -> Part:
    dy, y = torch.randn_like(h), torch.empty_like(h)
    kept = [h.new_empty(shape, dtype=dtype) for shape, dtype in make().kept(h)]

    def forward(keep: bool) -> list[Tensor]:
        out = y if keep else torch.empty_like(h)
        make().forward(h, injection, out, kept if keep else ())
        return [out]

    def backward() -> list[Tensor]:
        layer = make()
        return [layer.backward(dy, h, injection, y, kept), *layer.gradients()]

    inputs = [h if injection is None else h + injection, *weights]
    return Part(h, forward, backward, _truth(plain, inputs, dy), shapes, block)


def _mlp(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.mlp import MLP

    h, weights = _random(device, batch, tokens, D), (_random(device, 2 * INNER, D), _random(device, D, INNER))
    shapes = dict.fromkeys(("gate_up_fwd", "down_bwd"), (INNER, D))
    return _layer(lambda: MLP(*weights, EPS), reference.mlp, h, None, weights, shapes)


def _project(width: int, inject: bool) -> Callable[[int, int, str], Part]:
    """The launcher alone: one of its candidates is no kernel of ours."""

    def make(tokens: int, batch: int, device: str) -> Part:
        from trm_fast.triton_kernels.mlp import project

        h, a, w = (_random(device, *shape) for shape in ((batch, tokens, D), (batch * tokens, width), (D, width)))
        injection, rstd = torch.randn_like(h) if inject else None, torch.empty(batch, tokens, device=device)

        def forward(keep: bool) -> list[Tensor]:
            y = torch.empty_like(h)
            project(a, w, h, injection, EPS, y, rstd)
            return [y]

        plain = lambda a, w, h: reference.rms_norm(h + (a @ w.t()).view(h.shape), eps=EPS)  # noqa: E731
        state = h if injection is None else h + injection
        return Part(h, forward, list, _truth(plain, [a, w, state], h), {"project_fwd": (D, width)})

    return make


def _token_mixer(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.token_mixer import TokenMixer

    inner = WIDTHS[tokens]
    weights = _random(device, 2 * inner, tokens), _random(device, tokens, inner)
    h, injection = (_random(device, batch, tokens, D) for _ in range(2))
    shapes = dict.fromkeys(("token_mixer_fwd", "token_mixer_bwd", "token_mixer_bwd_weights"), (tokens, inner))
    block = -(-tokens // 16) * 16
    return _layer(lambda: TokenMixer(*weights, EPS), reference.token_mixer, h, injection, weights, shapes, block)


def _attention(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.attention import Attention

    weights = _random(device, 3 * D, D), _random(device, D, D)
    h, injection = (_random(device, batch, tokens, D) for _ in range(2))
    angles = torch.randn(tokens, D // HEADS // 2, device=device).repeat(1, 2)
    tables = angles.cos(), angles.sin()
    plain = lambda h, qkv, out: reference.attention(h, qkv, out, HEADS, tables, EPS)  # noqa: E731
    shapes = dict.fromkeys(("attend_fwd", "attend_bwd_queries", "attend_bwd_keys"), (tokens, D // HEADS))
    make = lambda: Attention(*weights, HEADS, *tables, EPS)  # noqa: E731
    return _layer(make, plain, h, injection, weights, shapes | {"qkv_fwd": (D,)}, D // HEADS)


def _elementwise(
    looked_up: Tensor,
    forward: Callable[[], Sequence[Tensor]],
    backward: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dy: Tensor,
) -> Part:
    """``backward`` takes the gradient of the first result, and all that ``forward`` returned."""
    kept: list[Tensor] = []

    def run(keep: bool) -> list[Tensor]:
        results = list(forward())
        kept[:] = results if keep else kept
        return results[:1]

    return Part(looked_up, run, lambda: [backward(dy, *kept)], _truth(plain, inputs, dy))


def _rms_norm(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.rms_norm import rms_norm_bwd, rms_norm_fwd

    x, residual, dy = (_random(device, batch, tokens, D) for _ in range(3))
    plain = lambda x: reference.rms_norm(x, residual, eps=EPS)  # noqa: E731
    return _elementwise(
        x, lambda: rms_norm_fwd(x, residual, -1, EPS), lambda dy, y, rstd: rms_norm_bwd(dy, y, rstd, -1), plain, [x], dy
    )


def _swiglu(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.swiglu import swiglu_bwd, swiglu_fwd

    x, dy = _random(device, batch, tokens, 2 * INNER), _random(device, batch, tokens, INNER)
    return _elementwise(dy, lambda: [swiglu_fwd(x, -1)], lambda dy, _: swiglu_bwd(dy, x, -1), reference.swiglu, [x], dy)


def _stablemax(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.stablemax import stablemax_bwd, stablemax_fwd

    x = _random(device, batch, tokens, CLASSES)
    dy = torch.randn(x.shape, device=device, dtype=torch.float64)
    return _elementwise(
        x, lambda: [stablemax_fwd(x, -1)], lambda dy, _: stablemax_bwd(dy, x, -1), reference.stablemax, [x], dy
    )


def _cross_entropy(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.stablemax import stablemax_cross_entropy_bwd, stablemax_cross_entropy_fwd

    x, labels = _random(device, batch, tokens, CLASSES), torch.randint(CLASSES, (batch, tokens), device=device)
    return _elementwise(
        x, lambda: stablemax_cross_entropy_fwd(x, labels, -100),
        lambda dy, _, total: stablemax_cross_entropy_bwd(dy, x, labels, total, -100),
        lambda x: reference.stablemax_cross_entropy(x, labels), [x],
        torch.randn(labels.shape, device=device, dtype=torch.float64),
    )  # fmt: skip


def _in_place(looked_up: Tensor, kernel: Callable[[], list[Tensor]], plain: Callable[[], list[Tensor]]) -> Part:
    return Part(looked_up, lambda keep: kernel(), list, lambda backward: plain())


def _adam_atan2(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels.adam_atan2_ import adam_atan2_

    p, g, m, v, ema = (_random(device, 2 * INNER, D, dtype=torch.float32).abs() for _ in range(5))
    lr, step = (torch.full((), value, device=device) for value in (1e-2, 3.0))

    def run(kernel: bool) -> list[Tensor]:
        new = [t.clone() for t in (p, m, v, ema)]
        weights, first, second, average = ([t] for t in new)
        if kernel:
            settings = (0.9, 0.95, 0.1, 0.999, 1e-8, False)  # betas, decay, decay of the average, eps, caution
            adam_atan2_(weights, [g], first, second, average, [], [], lr, step, None, *settings)
        else:
            reference.adam_atan2_(weights, [g], first, second, lr, step, weight_decay=0.1, ema=average)
        return new

    return _in_place(p, lambda: run(True), lambda: run(False))


def _sign_sgd_rows(tokens: int, batch: int, device: str) -> Part:
    from trm_fast.triton_kernels import sign_sgd_rows_

    table, grads = _random(device, 10_000, D, dtype=torch.float32), _random(device, batch, D, dtype=torch.float32)
    ids, lr = torch.randint(len(table), (batch,), device=device), torch.full((), 1e-2, device=device)

    def run(update: Callable[..., None]) -> list[Tensor]:
        new = table.clone()
        update(new, grads, ids, lr, 0.1)
        return [new]

    kernel, plain = sign_sgd_rows_.sign_sgd_rows_, reference.sign_sgd_rows_
    return _in_place(table, lambda: run(kernel), lambda: run(plain))


PARTS: dict[str, Callable[[int, int, str], Part]] = {
    "mlp": _mlp,
    "mlp_project": _project(INNER, False),
    "token_mixer": _token_mixer,
    "attention": _attention,
    "attention_project": _project(D, True),
    "rms_norm": _rms_norm,
    "swiglu": _swiglu,
    "stablemax": _stablemax,
    "stablemax_cross_entropy": _cross_entropy,
    "adam_atan2": _adam_atan2,
    "sign_sgd_rows": _sign_sgd_rows,
}
KERNELS = {  # what a training step is mostly made of comes first
    "mlp": ("gate_up_fwd", "down_bwd"),
    "mlp_project": ("project_fwd",),
    "token_mixer": ("token_mixer_fwd", "token_mixer_bwd", "token_mixer_bwd_weights"),
    "attention_project": ("project_fwd",),  # decides whether qkv_fwd is launched
    "attention": ("attend_fwd", "attend_bwd_queries", "attend_bwd_keys", "qkv_fwd"),
    "rms_norm": ("rms_norm_fwd", "rms_norm_bwd"),
    "swiglu": ("swiglu_fwd", "swiglu_bwd"),
    "adam_atan2": ("adam_atan2",),
    "stablemax_cross_entropy": ("stablemax_cross_entropy_fwd", "stablemax_cross_entropy_bwd"),
    "stablemax": ("stablemax_fwd", "stablemax_bwd"),
    "sign_sgd_rows": ("sign_sgd_rows",),
}


class Job(NamedTuple):
    """One row of the table to decide."""

    part: str
    kernel: str
    tokens: int
    batch: int

    @property
    def backward(self) -> bool:
        return "_bwd" in self.kernel

    def candidates(self) -> list[Options]:
        return candidates(self.kernel, self.batch == SMALL, WIDTHS[self.tokens])


def jobs(only: Sequence[str] = tuple(KERNELS)) -> list[Job]:
    """Those with something to try. 81 tokens are different rows for the mixer alone."""
    found = [
        Job(part, kernel, tokens, batch)
        for part in KERNELS
        if part in only
        for tokens in (WIDTHS if part == "token_mixer" else [97])
        for batch in (LARGE, SMALL)
        for kernel in KERNELS[part]
    ]
    return [job for job in found if job.candidates()]
