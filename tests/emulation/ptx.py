"""Emulates a compiled Triton kernel on the CPU: runs its PTX with all threads of a block in lockstep.

It supports only the instructions that this project's kernels use; others raise. Fragments of matrices, descriptors and
swizzles follow the PTX manual. It detects wrong values, reads of unwritten memory (NaN), copies without a wait, and
accesses outside tensors. It cannot detect races between warps, because warps run in lockstep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .fragments import WARP, Values, from_descriptor, from_fragments, to_accumulators
from .registers import ARITHMETIC, TYPES, Instruction, Registers

GROUP = 128  # threads of one matrix product (a warp group)
GAP = 512  # bytes between tensors, where any access is an error


def parse(text: str) -> tuple[list[Instruction], dict[str, int], list[str]]:
    """The instructions, the index of each label among them, and the names of the parameters."""
    code, labels = [], {}
    body = text[text.index(".visible .entry") :]
    parameters = re.findall(r"\.param [^\n]*?(\w+_param_\d+)", body.split("{")[0])
    body = body[body.index("\n{") :]
    body = re.sub(r"//[^\n]*", "", body[: re.search(r"^\}", body[2:], re.M).end() + 2])
    for line in re.split(r"[;\n]", body):
        line = line.strip()
        if label := re.match(r"(\$\w+):$", line):
            labels[label[1]] = len(code)
        elif match := re.match(r"(?:@(!?%p\d+)\s+)?([a-z]\w*)((?:[.:]+\w+)*)(?:\s+(.*))?$", line):
            operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", match[4] or "")
            suffixes = tuple(re.split(r"[.:]+", match[3])[1:])
            code.append(Instruction(match[1] or "", match[2], suffixes, tuple(part.strip() for part in operands)))
        elif line and line[0] not in ".{}":
            raise NotImplementedError(line)
    return code, labels, parameters


class Memory:
    """An address space that holds CPU tensors, with gaps between them."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        largest = sorted(tensors, key=lambda tensor: tensor.numel() * tensor.element_size())
        self.tensors = list({tensor.data_ptr(): tensor for tensor in largest}.values())
        self.at: dict[int, int] = {}
        end = 1 << 20
        for tensor in self.tensors:
            self.at[tensor.data_ptr()] = end
            end += -(-tensor.numel() * tensor.element_size() // GAP) * GAP + GAP
        self.bytes, self.valid = np.zeros(end, np.uint8), np.zeros(end, bool)
        for tensor in self.tensors:
            raw = tensor.reshape(-1).view(torch.uint8).numpy()
            start = self.at[tensor.data_ptr()]
            self.bytes[start : start + raw.size], self.valid[start : start + raw.size] = raw, True

    def copy_back(self) -> None:
        """Writes the memory back to the tensors."""
        for tensor in self.tensors:
            raw, start = tensor.reshape(-1).view(torch.uint8).numpy(), self.at[tensor.data_ptr()]
            raw[:] = self.bytes[start : start + raw.size]

    def indices(self, addresses: Values, size: int) -> Values:
        indices = addresses.astype(np.int64)[:, None] + np.arange(size)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self.valid) and self.valid[indices].all()):
            raise IndexError("an access outside of every tensor")
        return indices


class Block(Registers):
    """One block of threads."""

    def __init__(
        self,
        text: str,
        threads: int,
        shared: int,
        memory: Memory,
        arguments: Sequence[int | float],
        position: tuple[int, ...],
    ) -> None:
        super().__init__(threads, position)
        self.code, self.labels, names = parse(text)
        self.memory = memory
        # After the kernel's own parameters come scratch pointers, which are null.
        self.parameters = dict(zip(names, arguments, strict=False))
        self.shared = np.full(shared + 1024, 0xFF, np.uint8)  # NaN in every float
        self.copies: list[list[Callable[[], None]]] = [[]]  # pending groups of cp.async; the last is open

    def run(self) -> None:
        """Runs until all threads return. Where threads diverge, those furthest behind run first."""
        next_ = np.zeros(self.threads, np.int64)
        while (at := int(next_.min())) < len(self.code):
            op, here = self.code[at], next_ == at
            active = here
            if op.predicate:
                active = here & (self.registers[op.predicate.lstrip("!")] ^ (op.predicate[0] == "!"))
            next_[here] = at + 1
            if op.name == "bra":
                next_[active] = self.labels[op.operands[0]]
            elif op.name == "ret":
                next_[active] = len(self.code)
            elif op.name in ARITHMETIC:
                self._apply(op, active, ARITHMETIC[op.name])
            elif active.any():
                getattr(self, f"op_{op.name}")(op, active)

    # Memory

    def op_ld(self, op: Instruction, active: Values) -> None:
        kind = self.kind(op)
        if "param" in op.suffixes:
            value = self.parameters.get(op.operands[1].strip("[]"), 0)
            wide = kind[0] == "s" and op.operands[0].startswith("%rd")  # sign-extends a number to a wider register
            dtype = np.dtype("f4" if isinstance(value, float) else "i8" if wide else TYPES[kind])
            self.put(op.operands[0], np.full(self.threads, value, dtype), active)
            return
        names, size = self.names(op.operands[0]), np.dtype(TYPES[kind]).itemsize
        at = self.address(op.operands[1], "global" in op.suffixes)[active]
        raw = np.zeros((self.threads, len(names) * size), np.uint8)
        raw[active] = self._space(op)[self._indices(op, at, len(names) * size)]
        for i, name in enumerate(names):
            self.put(name, np.ascontiguousarray(raw[:, i * size : (i + 1) * size]).view(f"u{size}")[:, 0], active)

    def op_st(self, op: Instruction, active: Values) -> None:
        kind = self.kind(op)
        values = [self.get(name, kind) for name in self.names(op.operands[1])]
        raw = np.stack(values, 1).view(np.uint8)[active]
        at = self.address(op.operands[0], "global" in op.suffixes)[active]
        self._space(op)[self._indices(op, at, raw.shape[1])] = raw

    def _space(self, op: Instruction) -> Values:
        return self.memory.bytes if "global" in op.suffixes else self.shared

    def _indices(self, op: Instruction, at: Values, size: int) -> Values:
        if "global" in op.suffixes:
            return self.memory.indices(at, size)
        if at.size and at.max() + size > len(self.shared) - 1024:
            raise IndexError("an access outside of shared memory")
        return at[:, None] + np.arange(size)

    def op_cp(self, op: Instruction, active: Values) -> None:
        """cp.async: the data arrives at the wait, and not before."""
        if "commit_group" in op.suffixes:
            self.copies.append([])
        elif "wait_group" in op.suffixes:
            last = len(self.copies) - 1 - int(op.operands[0])
            for copy in [copy for group in self.copies[: max(last, 0)] for copy in group]:
                copy()
            self.copies = self.copies[max(last, 0) :]
        else:
            size = int(op.operands[2], 0)
            count = self.get(op.operands[3], "u32") if len(op.operands) > 3 else np.full(self.threads, size)
            to, source = self.address(op.operands[0], False), self.address(op.operands[1], True)
            whole = active & (count == size)
            if not (active == (whole | (active & (count == 0)))).all():
                raise NotImplementedError("a partial copy")
            raw = np.zeros((self.threads, size), np.uint8)
            raw[whole] = self.memory.bytes[self.memory.indices(source[whole], size)]
            self.copies[-1].append(lambda: self.shared.__setitem__(to[active][:, None] + np.arange(size), raw[active]))

    # Across threads

    def op_bar(self, op: Instruction, active: Values) -> None:
        """A barrier: all threads must be at the same instruction."""

    op_fence = op_bar

    def op_shfl(self, op: Instruction, active: Values) -> None:
        lanes, argument = np.arange(self.threads), self.get(op.operands[2], "u32")
        if "bfly" in op.suffixes:
            source = lanes ^ argument
        elif "idx" in op.suffixes:
            source = lanes // WARP * WARP + argument % WARP
        else:
            raise NotImplementedError(op)
        self.put(op.operands[0], self.get(op.operands[1], "u32")[source], active)

    def op_redux(self, op: Instruction, active: Values) -> None:
        value = self.get(op.operands[1], self.kind(op)).reshape(-1, WARP)
        joined = {"add": np.sum, "min": np.min, "max": np.max}[op.suffixes[1]](value, axis=1)
        self.put(op.operands[0], np.repeat(joined, WARP).astype(value.dtype), active)

    def op_ldmatrix(self, op: Instruction, active: Values) -> None:
        names = self.names(op.operands[0])
        rows = self._rows(op.operands[1], len(names))
        for i, name in enumerate(names):
            matrices = self.shared[rows[:, i]].reshape(-1, 8, 16).view(np.uint16)  # (warps, 8, 8)
            if "trans" in op.suffixes:
                matrices = matrices.transpose(0, 2, 1)
            self.put(name, np.ascontiguousarray(matrices).view(np.uint32).reshape(-1), active)

    def op_stmatrix(self, op: Instruction, active: Values) -> None:
        names = self.names(op.operands[1])
        rows = self._rows(op.operands[0], len(names))
        for i, name in enumerate(names):
            matrices = self.get(name, "u32").view(np.uint16).reshape(-1, 8, 8)
            if "trans" in op.suffixes:
                matrices = matrices.transpose(0, 2, 1)
            self.shared[rows[:, i]] = np.ascontiguousarray(matrices).view(np.uint8).reshape(rows[:, i].shape)

    def _rows(self, operand: str, count: int) -> Values:
        """The indices of the bytes of each row (warps, matrices, 8, 16). Each group of eight lanes holds the addresses
        of one matrix."""
        starts = self.address(operand, False).reshape(-1, WARP)[:, : 8 * count].reshape(-1, count, 8)
        return starts[..., None] + np.arange(16)

    def op_wgmma(self, op: Instruction, active: Values) -> None:
        """D += A B of m64nNk16 with float32 sums. A is in registers or has a descriptor; B has a descriptor.

        The product is computed immediately. This is correct because code may neither read the results nor change the
        factors before a wait.
        """
        shape = re.fullmatch(r"m64n(\d+)k16", op.suffixes[3]) if len(op.suffixes) > 3 else None
        if shape is None:
            return  # fence, commit_group, wait_group
        columns, in_registers = int(shape[1]), op.operands[1].startswith("{")
        pair = "bf16x2" if op.suffixes[-1] == "bf16" else "f16x2"
        scale, *signs = op.operands[3:6]
        turns = [flag == "1" for flag in op.operands[6:]]
        if signs != ["1", "1"]:
            raise NotImplementedError(op)
        names = self.names(op.operands[0])
        keep = self.registers[scale] if scale.startswith("%") else np.full(self.threads, scale != "0")
        d = np.zeros((self.threads, len(names)), np.float32)
        if keep.any():
            d = np.where(keep[:, None], np.stack([self.get(name, "f32") for name in names], 1), d)
        for group in range(self.threads // GROUP):
            lanes = slice(group * GROUP, (group + 1) * GROUP)
            if in_registers:
                a = from_fragments([self.get(name, "u32")[lanes] for name in self.names(op.operands[1])], pair)
            else:
                described = int(self.get(op.operands[1], "u64")[lanes][0])
                a = from_descriptor(self.shared, described, 64, turns[0], pair)
            described = int(self.get(op.operands[2], "u64")[lanes][0])
            b = from_descriptor(self.shared, described, columns, turns[-1], pair)
            product = a.astype(np.float64) @ b.T.astype(np.float64)
            d[lanes] += to_accumulators(product).astype(np.float32)
        for i, name in enumerate(names):
            self.put(name, d[:, i].copy(), active)

    def op_mma(self, op: Instruction, active: Values) -> None:
        """D = A B + C of m16n8k16, for each warp."""
        if "m16n8k16" not in op.suffixes or op.suffixes[-1] != "f32":
            raise NotImplementedError(op)
        pair = "bf16x2" if "bf16" in op.suffixes else "f16x2"
        a, b, c = (self.names(operand) for operand in op.operands[1:])
        left = from_fragments([self.get(name, "u32") for name in a], pair).reshape(-1, 16, 16)
        right = np.stack([self.get(name, pair).reshape(-1, 8, 4, 2) for name in b], 2)  # warp, n, half, k
        product = left.astype(np.float64) @ right.reshape(-1, 8, 16).transpose(0, 2, 1)
        d = to_accumulators(product.reshape(-1, 8)) + np.stack([self.get(name, "f32") for name in c], 1)
        for i, name in enumerate(self.names(op.operands[0])):
            self.put(name, d[:, i].astype(np.float32), active)


def emulate(binary: Any, arguments: Sequence[Any], grid: Sequence[int]) -> None:
    """Runs a binary of ``triton.compile`` on CPU tensors. ``arguments`` are those that are not compile-time
    constants."""
    memory = Memory([value for value in arguments if isinstance(value, torch.Tensor)])
    values = [memory.at[value.data_ptr()] if isinstance(value, torch.Tensor) else value for value in arguments]
    threads, shared = binary.metadata.num_warps * WARP, binary.metadata.shared
    for position in np.ndindex(*reversed((*grid, 1, 1)[:3])):
        Block(binary.asm["ptx"], threads, shared, memory, values, position[::-1]).run()
    memory.copy_back()
