"""Tries block sizes, warps and stages for every Triton kernel on the GPU that is present, and writes the table.

    python bench/tune.py                                   everything; into triton_kernels/configs.json
    python bench/tune.py --only mlp token_mixer --batch 768 --out /tmp/configs.json
    python bench/tune.py --dry                             what would be tried; needs no GPU, only Triton

A kernel is tuned inside the op that launches it, forward or backward, with the others as the table has them. A
candidate counts only where the op's results stay as close to the float32 reference as the present row's; it replaces
that row where it is at least 2 % faster. Rows of kernels whose best block hangs on the shape carry that shape.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trm_fast import ops
from trm_fast.ops import reference
from trm_fast.ops.check_cases import timed_case

Options = dict[str, int]
GAIN = 0.98
GEMM = {"ROWS": (64, 128), "COLUMNS": (64, 128), "DEPTH": (32, 64), "num_warps": (8,), "num_stages": (3, 4)}
ROW_GEMM = {"ROWS": (32, 64, 128), "DEPTH": (32, 64), "num_warps": (8,), "num_stages": (2, 3)}
MIXER = {"CHANNELS": (64, 128), "INNER": (32, 64), "num_warps": (4, 8), "num_stages": (1, 2, 3)}
MIXER_WEIGHTS = {
    "CHANNELS": (32,),
    "INNER": (64, 128),
    "slabs": (32, 33, 66),
    "num_warps": (4, 8),
    "num_stages": (2, 3),
}
ATTEND = {"QUERIES": (64, 128), "KEYS": (64, 128), "num_warps": (4, 8), "num_stages": (1, 2)}
LINES = {"elements": (1024, 2048, 4096, 8192), "num_warps": (2, 4, 8)}
ROWS = {"SAMPLES": (32, 64, 128), "COLUMNS": (32, 64, 128), "num_warps": (4, 8)}
FLAT = {"BLOCK": (512, 1024, 2048, 4096), "num_warps": (2, 4, 8)}
# op -> kernel -> (is it part of the backward, the values to try of each option)
SPACES: Mapping[str, Mapping[str, tuple[bool, Mapping[str, tuple[int, ...]]]]] = {
    "rms_norm": {"rms_norm_fwd": (False, LINES), "rms_norm_bwd": (True, LINES)},
    "swiglu": {"swiglu_fwd": (False, FLAT), "swiglu_bwd": (True, FLAT)},
    "stablemax": {"stablemax_fwd": (False, LINES), "stablemax_bwd": (True, LINES)},
    "stablemax_cross_entropy": {
        "stablemax_cross_entropy_fwd": (False, LINES),
        "stablemax_cross_entropy_bwd": (True, LINES),
    },
    "mlp": {"gate_up_fwd": (False, GEMM), "project_fwd": (False, ROW_GEMM), "down_bwd": (True, GEMM)},
    "token_mixer": {
        "token_mixer_fwd": (False, MIXER),
        "token_mixer_bwd": (True, MIXER),
        "token_mixer_bwd_weights": (True, MIXER_WEIGHTS),
    },
    "attention": {
        "attend_fwd": (False, ATTEND),
        "attend_bwd_queries": (True, ATTEND),
        "attend_bwd_keys": (True, ATTEND),
    },
    "latent_step": {"qkv_fwd": (False, GEMM)},
    "adam_atan2_": {"adam_atan2": (False, FLAT)},
    "sign_sgd_rows_": {"sign_sgd_rows": (False, ROWS)},
}


class Case(NamedTuple):
    """An op at a size: its arguments, and what ``configs.lookup`` is given of its shape, ``block`` included."""

    inputs: list[Tensor]
    options: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    call: Callable[..., Tensor] = lambda op, *inputs, **options: op(*inputs, **options)
    block: int = 0


def case(op: str, batch: int, tokens: int, dtype: torch.dtype, device: str) -> Case:
    """The paper's sizes: 512 channels, inner width 1536, the mixer's 512 (97 tokens) or 256."""
    L, D, inner, heads = tokens, 512, 1536, 8
    mix = 512 if L > 96 else 256

    def random(*shape: int, fan_in: int = 1) -> Tensor:
        return (torch.randn(*shape, device=device) * fan_in**-0.5).to(dtype)

    h = random(batch, L, D)
    if op in ("stablemax", "adam_atan2_", "sign_sgd_rows_"):
        made = timed_case(op, batch)
        kind = torch.float32 if op.endswith("_") else dtype  # the optimizer's weights
        return Case(made.inputs(kind, torch.device(device)), {}, {}, made.call)
    if op == "rms_norm":
        return Case([h, random(batch, L, D)], {"dim": -1}, {})
    if op == "swiglu":
        return Case([random(batch, L, 2 * inner)], {}, {})
    if op == "stablemax_cross_entropy":
        labels = torch.randint(0, 11, (batch, L), device=device)
        return Case([random(batch, L, 11), labels], {}, {})
    if op == "mlp":
        shapes = {"gate_up_fwd": (inner, D), "project_fwd": (D, inner), "down_bwd": (inner, D)}
        return Case([h, random(2 * inner, D, fan_in=D), random(D, inner, fan_in=inner)], {}, shapes)
    if op == "token_mixer":
        weights = [random(2 * mix, L, fan_in=L), random(L, mix, fan_in=mix)]
        return Case([h, *weights], {}, dict.fromkeys(SPACES[op], (L, mix)), block=-(-L // 16) * 16)
    angles = torch.randn(L, D // heads // 2, device=device).repeat(1, 2)
    weights = [random(3 * D, D, fan_in=D), random(D, D, fan_in=D)]
    if op == "latent_step":  # with attention: a mixer's kernels are tuned alone
        weights += [random(2 * inner, D, fan_in=D), random(D, inner, fan_in=inner)]
        call = lambda op, z, x, *w, **options: op(z, x, w, **options)  # noqa: E731
        return Case([h, random(batch, L, D), *weights], {"heads": heads}, {"qkv_fwd": (D,)}, call)
    options = {"heads": heads, "rotary": (angles.cos(), angles.sin())}
    return Case([h, *weights], options, dict.fromkeys(SPACES[op], (L, D // heads)), block=next_power_of_2(D // heads))


def next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def candidates(space: Mapping[str, tuple[int, ...]]) -> Iterator[Options]:
    for values in itertools.product(*space.values()):
        yield dict(zip(space, values, strict=True))


def run(op: Callable[..., Tensor], made: Case, backward: bool) -> list[Tensor]:
    leaves = [t.detach().requires_grad_(backward and t.is_floating_point()) for t in made.inputs]
    with torch.set_grad_enabled(backward):
        out = made.call(op, *leaves, **made.options)
    if not backward:
        return [out]
    grad = torch.ones_like(out)
    return [out.detach(), *torch.autograd.grad(out, [t for t in leaves if t.requires_grad], grad)]


def error(results: list[Tensor], truth: list[Tensor]) -> float:
    """The largest relative error of the results, in norm; NaN counts as infinite."""
    errors = [float((r.float() - t.float()).norm() / t.float().norm()) for r, t in zip(results, truth, strict=True)]
    return max(e if e == e else float("inf") for e in errors)


def milliseconds(work: Callable[[], Any], repeats: int = 15) -> float:
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def tune(op: str, made: Case, arch: str) -> Iterator[dict[str, Any]]:
    from trm_fast.triton_kernels import configs

    function = getattr(ops, op)
    wide = made._replace(inputs=[t.float() if t.is_floating_point() else t for t in made.inputs])
    bits = 8 * made.inputs[0].element_size()
    for kernel, (backward, space) in SPACES[op].items():
        truth = run(getattr(reference, op), wide, backward)
        name = configs.key(bits, *made.shapes[kernel]) if kernel in made.shapes else str(bits)
        present = dict(configs.lookup(kernel, made.inputs[0], *made.shapes.get(kernel, ()), block=made.block))
        best, allowed = present, 1.2 * error(run(function, made, backward), truth) + 1e-6
        start = least = milliseconds(lambda: run(function, made, backward))  # noqa: B023
        refused = 0
        for options in candidates(space):
            configs.put(arch, kernel, name, options)
            try:
                if error(run(function, made, backward), truth) > allowed:
                    raise ValueError("wrong")
                took = milliseconds(lambda: run(function, made, backward))  # noqa: B023
            except Exception as problem:  # too much shared memory, a layout the compiler cannot make: try the next
                refused += 1
                print(f"  {kernel} {options}: {type(problem).__name__}", file=sys.stderr)
                continue
            if took < GAIN * least:
                best, least = options, took
        configs.put(arch, kernel, name, best)
        yield {"op": op, "kernel": kernel, "row": name, "before_ms": start, "ms": least, "refused": refused} | best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SPACES, default=list(SPACES), metavar="OP")
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--tokens", type=int, nargs="+", default=[97, 81])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--out", help="where to write the table; default triton_kernels/configs.json")
    parser.add_argument("--dry", action="store_true", help="list what would be tried")
    arguments = parser.parse_args()
    if arguments.dry:
        for op in arguments.only:
            for kernel, (backward, space) in SPACES[op].items():
                count = sum(1 for _ in candidates(space))
                print(f"{op:24} {'backward' if backward else 'forward':9} {kernel:28} {count:4} candidates: {space}")
        return
    if not torch.cuda.is_available():
        sys.exit("bench/tune.py: torch sees no CUDA device; --dry lists what would be tried")
    from trm_fast.triton_kernels import configs

    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    ops.use_backend("triton", ops=arguments.only)
    tuned = set()
    for op, tokens in itertools.product(arguments.only, arguments.tokens):
        made = case(op, arguments.batch, tokens, getattr(torch, arguments.dtype), "cuda")
        if (op, str(made.shapes)) in tuned:
            continue
        tuned.add((op, str(made.shapes)))
        for row in tune(op, made, arch):
            print(
                json.dumps({"device": torch.cuda.get_device_name(), "arch": arch, "tokens": tokens, **row}), flush=True
            )
        out = arguments.out or configs.TABLE
        with open(out, "w") as file:  # after every op: what is measured is kept
            file.write(json.dumps(configs.table(), indent=1) + "\n")


if __name__ == "__main__":
    main()
