"""The registers of all threads of a block, and the instructions that use nothing else (for ``ptx``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .fragments import PACKED, WARP, Values, packed, rounded, unpacked

TYPES = {
    "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2", "b32": "u4", "u32": "u4", "s32": "i4",
    "b64": "u8", "u64": "u8", "s64": "i8", "f32": "f4", "f16": "f2", "f64": "f8", "pred": "?",
}  # fmt: skip
SPECIAL = {"%tid.x": lambda block: np.arange(block.threads), "%laneid": lambda block: np.arange(block.threads) % WARP}
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[..., Values]] = {
    "add": np.add, "sub": np.subtract, "neg": np.negative, "abs": np.abs, "min": np.fmin, "max": np.fmax,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "rem": np.fmod,
    "ex2": np.exp2, "lg2": np.log2, "rcp": np.reciprocal, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a),
    "fma": lambda a, b, c: a.astype(np.float64) * b + c, "tanh": lambda a: rounded(np.tanh(a), 11),
}  # fmt: skip
WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
ROUNDING = {"rn", "rz", "rm", "rp", "approx", "full", "ftz", "sat", "lo", "wide", "hi", "sync", "bfly", "idx", "uni"}


class Instruction(NamedTuple):
    predicate: str  # "", "%p1" or "!%p1"
    name: str
    suffixes: tuple[str, ...]
    operands: tuple[str, ...]


class Registers:
    """A register is an array with the values of all threads."""

    def __init__(self, threads: int, position: tuple[int, ...]) -> None:
        self.threads, self.position = threads, position
        self.registers: dict[str, Values] = {}

    # Operands

    def get(self, operand: str, kind: str) -> Values:
        """The values of a register, a constant or an address in all threads, as ``kind`` (a suffix such as s32)."""
        if kind in PACKED:
            return unpacked(self._bits(operand, np.dtype(PACKED[kind])), kind)
        return self._bits(operand, np.dtype(TYPES[kind]))

    def _bits(self, operand: str, dtype: np.dtype[Any]) -> Values:
        if operand.startswith("%"):
            if operand in SPECIAL:
                return SPECIAL[operand](self).astype(dtype)
            if operand.startswith("%ctaid"):
                return np.full(self.threads, self.position["xyz".index(operand[-1])], dtype)
            value = self.registers[operand]
            return value if dtype.kind == "b" else value.astype(f"u{dtype.itemsize}").view(dtype)
        if operand[:2] in ("0f", "0d"):
            return np.full(self.threads, int(operand[2:], 16), "u4" if operand[1] == "f" else "u8").view(dtype)
        if operand == "global_smem":
            return np.zeros(self.threads, dtype)
        return np.full(
            self.threads, int(operand.removesuffix("U"), 0) & (256**dtype.itemsize - 1), f"u{dtype.itemsize}"
        ).view(dtype)

    def put(self, register: str, value: Values, active: Values) -> None:
        """Writes a register, in active threads only."""
        if value.dtype.kind != "b":
            value = np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}")
        if not active.all():
            value = np.where(active, value, self.registers.get(register, np.zeros_like(value)))
        self.registers[register] = value

    def address(self, operand: str, wide: bool) -> Values:
        base, _, offset = operand.strip("[] ").partition("+")
        return self.get(base.strip(), "s64" if wide else "u32").astype(np.int64) + int(offset or 0)

    @staticmethod
    def names(operand: str) -> list[str]:
        return [name.strip() for name in operand.strip("{} ").split(",")]

    @staticmethod
    def kind(op: Instruction) -> str:
        return next(suffix for suffix in reversed(op.suffixes) if suffix in TYPES or suffix in PACKED)

    # Arithmetic

    def _apply(self, op: Instruction, active: Values, function: Callable[..., Values]) -> None:
        kind = self.kind(op)
        with np.errstate(all="ignore"):
            result = function(*(self.get(operand, kind) for operand in op.operands[1:]))
        self.put(op.operands[0], packed(result, kind) if kind in PACKED else result.astype(TYPES[kind]), active)

    def op_mul(self, op: Instruction, active: Values) -> None:
        self._multiply(op, active, lambda product: product)

    def op_mad(self, op: Instruction, active: Values) -> None:
        more = op.operands[3]
        kind = WIDE[self.kind(op)] if "wide" in op.suffixes else self.kind(op)
        self._multiply(op, active, lambda product: product + self.get(more, kind))

    def _multiply(self, op: Instruction, active: Values, then: Callable[[Values], Values]) -> None:
        a, b = (self.get(operand, self.kind(op)) for operand in op.operands[1:3])
        size = a.itemsize
        if {"wide", "hi"} & set(op.suffixes):
            if size == 8:
                raise NotImplementedError(op)
            a, b = (t.astype(f"{t.dtype.kind}8") for t in (a, b))
        with np.errstate(all="ignore"):
            product = a * b
        if "hi" in op.suffixes:
            product = (product >> np.array(8 * size, product.dtype)).astype(f"{product.dtype.kind}{size}")
        self.put(op.operands[0], then(product), active)

    def op_div(self, op: Instruction, active: Values) -> None:
        floats = self.kind(op)[0] == "f"
        self._apply(op, active, lambda a, b: a / b if floats else np.trunc(a / b.astype(np.float64)))

    def op_shl(self, op: Instruction, active: Values) -> None:
        self._shift(op, active, lambda a, count: a << count)

    def op_shr(self, op: Instruction, active: Values) -> None:
        self._shift(op, active, lambda a, count: a >> count)

    def _shift(self, op: Instruction, active: Values, function: Callable[[Values, Values], Values]) -> None:
        a, count = self.get(op.operands[1], self.kind(op)), self.get(op.operands[2], "u32")
        self.put(op.operands[0], function(a, count.astype(a.dtype)), active)

    def op_bfe(self, op: Instruction, active: Values) -> None:
        a, start, count = (self.get(operand, "u32") for operand in op.operands[1:])
        bits = (a >> start) & ((np.uint32(1) << count) - np.uint32(1))
        if self.kind(op) == "s32":
            sign = (bits >> (count - np.uint32(1))) & np.uint32(1)
            bits = np.where(sign == 1, bits | (np.uint32(0xFFFFFFFF) << count), bits).astype(np.uint32)
        self.put(op.operands[0], bits, active)

    def op_prmt(self, op: Instruction, active: Values) -> None:
        a, b, choice = (self.get(operand, "u32") for operand in op.operands[1:])
        source = np.stack((a, b), 1).view(np.uint8)  # (threads, 8)
        picks = (choice[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        if (picks > 7).any():
            raise NotImplementedError("a selector that replicates the sign")
        chosen = np.take_along_axis(source, picks.astype(np.int64), 1)
        self.put(op.operands[0], np.ascontiguousarray(chosen).view(np.uint32)[:, 0], active)

    def op_setp(self, op: Instruction, active: Values) -> None:
        a, b = (self.get(operand, self.kind(op)) for operand in op.operands[1:])
        how, nan = op.suffixes[0], np.isnan(a) | np.isnan(b) if a.dtype.kind == "f" else np.zeros(self.threads, bool)
        if how in ("nan", "num"):
            self.put(op.operands[0], nan ^ (how == "num"), active)
            return
        holds = COMPARISONS[how[:2]](a, b)
        self.put(op.operands[0], holds | nan if how[2:] == "u" else holds & ~nan, active)

    def op_selp(self, op: Instruction, active: Values) -> None:
        a, b = (self.get(operand, self.kind(op)) for operand in op.operands[1:3])
        self.put(op.operands[0], np.where(self.get(op.operands[3], "pred"), a, b), active)

    def op_mov(self, op: Instruction, active: Values) -> None:
        kind = self.kind(op)
        if op.operands[0].startswith("{"):
            names = self.names(op.operands[0])
            whole = self.get(op.operands[1], kind)
            parts = whole.view(f"u{whole.itemsize // len(names)}").reshape(-1, len(names))
            for name, part in zip(names, parts.T, strict=True):
                self.put(name, part.copy(), active)
        elif op.operands[1].startswith("{"):
            names, size = self.names(op.operands[1]), np.dtype(TYPES[kind]).itemsize
            unused = np.full(self.threads, -1).astype(f"u{size // len(names)}")  # a part that no instruction wrote
            parts = np.stack([self.registers.get(name, unused) for name in names], 1)
            self.put(op.operands[0], parts.view(f"u{size}")[:, 0].copy(), active)
        elif kind == "pred" and not op.operands[1].startswith("%"):
            self.put(op.operands[0], np.full(self.threads, int(op.operands[1]) != 0), active)
        else:
            self.put(op.operands[0], self.get(op.operands[1], kind), active)

    def op_cvt(self, op: Instruction, active: Values) -> None:
        to, source = [suffix for suffix in op.suffixes if suffix not in ROUNDING]
        values = [self.get(operand, source) for operand in reversed(op.operands[1:])]  # PTX names the high half first
        value = np.stack(values, 1) if len(values) > 1 else values[0]
        self.put(op.operands[0], packed(value, to) if to in PACKED else value.astype(TYPES[to]), active)
