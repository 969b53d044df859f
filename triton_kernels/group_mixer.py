"""The group mixer: the channel MLP, whose first product also reads means over groups of positions.

The first product is split. Each group's mean is multiplied with its columns of the weight once per group, by cuBLAS,
and ``gate_up_groups_fwd_kernel`` adds the products of a position's groups to the position's own. Sums over groups have
a fixed order, so results are deterministic.

The backward recomputes the means: saved means would spare it one read of the input, but their buffer would need a row
per position and partition, because its size must not depend on the values in ``groups``.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.weak import WeakIdKeyDictionary

from trm_fast.triton_kernels import configs
from trm_fast.triton_kernels.keys import fix_cache_keys
from trm_fast.triton_kernels.layer import TensorSpec, layer_bwd, layer_fwd, load_state
from trm_fast.triton_kernels.mlp import add_products, cast_gradients, down_bwd, project, row_blocks
from trm_fast.triton_kernels.rms_norm import rms_norm_bwd
from trm_fast.triton_kernels.swiglu import deinterleave, interleaved_rows, silu_mul


class Groups(NamedTuple):
    """Partitions of L positions into groups. The groups of all partitions are numbered in one sequence."""

    index: Tensor  # int32 (L, G): the group of each position in each partition
    members: Tensor  # int32 (G L): the positions of the first group, then those of the next
    starts: Tensor  # int32 (N + 1): where the positions of each group start in ``members``, and their count
    factors: Tensor  # float32 (N): 1 / size of each group
    first: list[int]  # the first group of each partition, and the number of all groups


_TABLES: MutableMapping[Tensor, tuple[int, Groups]] = WeakIdKeyDictionary()  # ``groups`` -> its version, its table


def groups_of(groups: Tensor) -> Groups:
    """Returns the table of ``groups`` (G, L), on its device.

    Only the first call for a tensor reads its values on the host, so later calls can be captured in a CUDA graph. The
    table of an inference tensor is not kept, because such a tensor does not count its changes.
    """
    version = None if groups.is_inference() else groups._version
    cached = _TABLES.get(groups)
    if cached is not None and cached[0] == version:
        return cached[1]
    table = _table(groups)
    if version is not None:
        _TABLES[groups] = version, table
    return table


def _table(groups: Tensor) -> Groups:
    numbers, L = groups.cpu(), groups.shape[1]
    if bool(((numbers < 0) | (numbers >= L)).any()):
        raise ValueError("group_mixer: the groups must be numbers from 0 to L - 1")
    first = [0, *accumulate(int(largest) + 1 for largest in numbers.amax(1))]
    index = numbers + torch.tensor(first[:-1]).unsqueeze(1)
    sizes = torch.bincount(index.flatten(), minlength=first[-1])
    device = groups.device
    return Groups(
        index=index.t().contiguous().int().to(device),
        members=(index.flatten().argsort(stable=True) % L).int().to(device),
        starts=pad(sizes.cumsum(0), (1, 0)).int().to(device),
        factors=(1 / sizes.clamp_min(1)).to(device),
        first=first,
    )


@triton.jit
def sum_groups_kernel(
    p_x,
    p_injection,
    p_members,
    p_starts,
    p_factors,
    p_sums,
    batch,
    L,
    groups,
    width,
    scale,
    INJECT: tl.constexpr,
    MEAN: tl.constexpr,
    MEMBERS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each program sums x + injection over a group's positions, for COLUMNS channels of one example.

    With MEAN it multiplies the sum with the group's factor and ``scale``. x is (batch, L, width), and the sums are
    (groups, batch, width).
    """
    # Consecutive programs read the same channels of an example, so x comes from memory once for all partitions.
    group, block = tl.program_id(0) % groups, tl.program_id(0) // groups
    tiles = tl.cdiv(width, COLUMNS)
    example = (block // tiles).to(tl.int64)
    i_column, i_member = block % tiles * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, MEMBERS)
    m_column = i_column < width
    first, end = tl.load(p_starts + group), tl.load(p_starts + group + 1)
    b = tl.zeros((MEMBERS, COLUMNS), tl.float32)
    while first < end:
        m_member = first + i_member < end
        i_row = example * L + tl.load(p_members + first + i_member, mask=m_member, other=0)
        at, m = i_row[:, None] * width + i_column[None, :], m_member[:, None] & m_column[None, :]
        b += load_state(p_x, p_injection, at, m, INJECT).to(tl.float32)
        first += MEMBERS
    b_sum = tl.sum(b, 0)
    if MEAN:
        b_sum *= scale * tl.load(p_factors + group)
    at = (group.to(tl.int64) * batch + example) * width + i_column
    tl.store(p_sums + at, b_sum.to(p_sums.dtype.element_ty), mask=m_column)


@triton.jit
def gate_up_groups_fwd_kernel(
    p_h,
    p_injection,
    p_gate_up,
    p_products,
    p_index,
    p_hidden,
    p_saved,
    batch,
    L,
    D: tl.constexpr,
    inner,
    GROUPS: tl.constexpr,
    INJECT: tl.constexpr,
    SAVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Like ``mlp.gate_up_fwd_kernel``, and adds the groups' products to gate and up.

    The weight has (1 + GROUPS) D columns, of which the kernel reads the first D. The products are (groups, batch,
    2 inner), and the index is (L, GROUPS).
    """
    rows, tiles = batch * L, tl.cdiv(inner, COLUMNS)
    i_row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    start = tl.program_id(0) % tiles * COLUMNS
    i_column, i_depth, i_both = start + tl.arange(0, COLUMNS), tl.arange(0, DEPTH), tl.arange(0, 2 * COLUMNS)
    m_row, m_column, m_both = i_row < rows, i_column < inner, start + interleaved_rows(i_both, 0) < inner
    at_h = i_row * D + i_depth[None, :]
    at_w = p_gate_up + (start + interleaved_rows(i_both, inner))[None, :] * ((1 + GROUPS) * D) + i_depth[:, None]
    b = tl.zeros((ROWS, 2 * COLUMNS), tl.float32)
    for first in range(0, D, DEPTH):
        m_h, m_w = m_row, m_both[None, :]
        if D % DEPTH:
            m_h, m_w = m_h & (first + i_depth < D)[None, :], m_w & (first + i_depth < D)[:, None]
        b_h = load_state(p_h, p_injection, at_h + first, m_h, INJECT)
        b = tl.dot(b_h, tl.load(at_w + first, mask=m_w, other=0), b, input_precision="ieee")
    b_gate, b_up = deinterleave(b, ROWS, COLUMNS)
    m = m_row & m_column[None, :]
    for partition in tl.static_range(GROUPS):
        i_group = tl.load(p_index + i_row % L * GROUPS + partition).to(tl.int64)
        at = p_products + (i_group * batch + i_row // L) * 2 * inner + i_column[None, :]
        b_gate += tl.load(at, mask=m, other=0).to(tl.float32)
        b_up += tl.load(at + inner, mask=m, other=0).to(tl.float32)
    dtype = p_hidden.dtype.element_ty
    if SAVE:
        at = p_saved + i_row * 2 * inner + i_column[None, :]
        tl.store(at, b_gate.to(dtype), mask=m)
        tl.store(at + inner, b_up.to(dtype), mask=m)
    tl.store(p_hidden + i_row * inner + i_column[None, :], silu_mul(b_gate, b_up, dtype), mask=m)


@triton.jit
def add_groups_kernel(
    p_dh,
    p_dmeans,
    p_index,
    p_factors,
    batch,
    L,
    D,
    scale,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each program adds to ROWS x COLUMNS elements of dh what they get through the means of their groups.

    dmeans is (groups, batch, D). dh is changed in place.
    """
    tiles = tl.cdiv(D, COLUMNS)
    i_row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    i_column = (tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    at, m = p_dh + i_row * D + i_column, (i_row < batch * L) & (i_column < D)
    b_dh = tl.load(at, mask=m, other=0).to(tl.float32)
    for partition in tl.static_range(GROUPS):
        i_group = tl.load(p_index + i_row % L * GROUPS + partition)
        at_mean = p_dmeans + (i_group.to(tl.int64) * batch + i_row // L) * D + i_column
        b_dh += scale * tl.load(p_factors + i_group) * tl.load(at_mean, mask=m, other=0).to(tl.float32)
    tl.store(at, b_dh.to(p_dh.dtype.element_ty), mask=m)


class GroupMixer:
    """The group mixer as a ``layer.Layer``, with the weights gate_up (2 I, (1 + G) D) and down (D, I).

    ``groups`` is int64 (G, L); True stands for groups in a layer that is only asked for ``saved_specs``.
    """

    def __init__(self, gate_up: Tensor, down: Tensor, groups: Tensor | bool, scale: float, eps: float) -> None:
        self.gate_up, self.down, self.groups = gate_up.contiguous(), down.contiguous(), groups
        self.scale, self.eps = scale, eps
        self.sums: list[Tensor] | None = None

    def saved_specs(self, h: Tensor) -> list[TensorSpec]:
        B, L, _ = h.shape
        rows, inner = B * L, self.down.shape[1]
        return [((rows, 2 * inner), h.dtype), ((rows, inner), h.dtype), ((B, L), torch.float32)]

    def _table(self) -> Groups:
        assert isinstance(self.groups, Tensor)
        return groups_of(self.groups)

    def _parts(self) -> list[Tensor]:
        """Returns the columns of gate_up that read the means, (2 I, D) for each partition."""
        return list(self.gate_up.split(self.down.shape[0], 1)[1:])

    def _sums(self, table: Groups, x: Tensor, injection: Tensor | None = None, *, mean: bool) -> list[Tensor]:
        """Returns the sums of x (B, L, width) over the groups of each partition, (groups B, width), or their scaled
        means."""
        (B, L, width), count = x.shape, table.first[-1]
        sums = x.new_empty(count * B, width)
        config = configs.lookup("sum_groups", x, width)
        sum_groups_kernel[(count * B * triton.cdiv(width, config["COLUMNS"]),)](
            x, x if injection is None else injection, table.members, table.starts, table.factors, sums,
            B, L, count, width, self.scale,
            INJECT=injection is not None, MEAN=mean, **config,
        )  # fmt: skip
        return _by_partition(sums, table, B)

    def forward(self, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]) -> None:
        B, L, D = h.shape
        inner, rows = self.down.shape[1], B * L
        if injection is not None and row_blocks(h, inner) is None:
            h, injection = h + injection, None  # once, instead of in each kernel
        if saved_tensors:
            gate_up, hidden, rstd = saved_tensors
        else:
            gate_up = hidden = h.new_empty(rows, inner)
            rstd = h.new_empty(B, L, dtype=torch.float32)
        if hidden.numel():
            table = self._table()
            products = h.new_empty(table.first[-1] * B, 2 * inner)
            means = self._sums(table, h, injection, mean=True)
            for mean, w, out in zip(means, self._parts(), _by_partition(products, table, B), strict=True):
                torch.mm(mean, w.t(), out=out)
            config = configs.lookup("gate_up_groups_fwd", h, inner, D)
            grid = (triton.cdiv(rows, config["ROWS"]) * triton.cdiv(inner, config["COLUMNS"]),)
            gate_up_groups_fwd_kernel[grid](
                h, h if injection is None else injection, self.gate_up, products, table.index, hidden, gate_up,
                B, L, D, inner,
                GROUPS=len(means), INJECT=injection is not None, SAVE=bool(saved_tensors), **config,
            )  # fmt: skip
        project(hidden, self.down, h, injection, self.eps, y, rstd)

    def backward(
        self, dy: Tensor, h: Tensor, injection: Tensor | None, y: Tensor, saved_tensors: Sequence[Tensor]
    ) -> Tensor:
        h = h if injection is None else h + injection
        gate_up, hidden, rstd = saved_tensors
        (B, L, D), inner = h.shape, self.down.shape[1]
        d = rms_norm_bwd(dy, y, rstd, -1).view(B * L, D)
        if not gate_up.numel():
            return d.view(h.shape)
        table = self._table()
        dgate_up = down_bwd(d, self.down, gate_up)
        means = self._sums(table, h, mean=True)
        dproducts = self._sums(table, dgate_up.view(B, L, 2 * inner), mean=False)
        pairs = zip(dproducts, means, strict=True)
        self.sums = add_products(self.sums, (dgate_up, h.view(B * L, D)), *pairs, (d, hidden))
        dmeans = h.new_empty(table.first[-1] * B, D)
        for dproduct, w, out in zip(dproducts, self._parts(), _by_partition(dmeans, table, B), strict=True):
            torch.mm(dproduct, w, out=out)
        d.addmm_(dgate_up, self.gate_up[:, :D])
        config = configs.lookup("add_groups", h, D)
        grid = (triton.cdiv(B * L, config["ROWS"]) * triton.cdiv(D, config["COLUMNS"]),)
        add_groups_kernel[grid](d, dmeans, table.index, table.factors, B, L, D, self.scale, GROUPS=len(means), **config)
        return d.view(h.shape)

    def gradients(self) -> list[Tensor]:
        sums = None if self.sums is None else [torch.cat(self.sums[:-1], 1), self.sums[-1]]
        return cast_gradients(sums, (self.gate_up, self.down))


def _by_partition(values: Tensor, table: Groups, batch: int) -> list[Tensor]:
    """Splits (groups batch, width) into views with the groups of each partition."""
    return [values[batch * begin : batch * end] for begin, end in pairwise(table.first)]


def group_mixer_fwd(h: Tensor, keep: bool, *layer: Any) -> tuple[Tensor, Tensor]:
    """Returns (y, saved) of ``GroupMixer(*layer)``; saved is uint8, and empty unless ``keep``. h is (B, L, D)."""
    return layer_fwd(GroupMixer(*layer), h, keep)


def group_mixer_bwd(dy: Tensor, h: Tensor, saved: Tensor, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (dh, dgate_up, ddown) in the dtypes of h and the weights."""
    return layer_bwd(GroupMixer(*layer), dy, h, saved)


fix_cache_keys(globals())
