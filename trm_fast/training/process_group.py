"""The processes that train one model together, each with a share of every batch (``torch.distributed``)."""

from __future__ import annotations

import atexit
import importlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from trm_fast.errors import UserError
from trm_fast.inference.capture import drop_graphs
from trm_fast.run_folder import CONFIG


class ProcessGroup:
    """Process ``rank`` of ``size``. With a single process, no method communicates.

    All processes must call the same methods in the same order. Sums and gathers of tensors use the default process
    group and stay on the device. With NCCL, they can be captured.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def batch_share(self, batch_size: int) -> slice:
        """The slots of a batch that belong to this process.

        Raises:
            UserError: ``batch_size`` is not a multiple of the number of processes.
        """
        if batch_size % self.size:
            raise UserError(
                f"training.batch_size = {batch_size} can't be shared by {self.size} processes: "
                "make it a multiple of their number",
                usage_error=True,
            )
        return self.share(batch_size)

    def exclusive_sum(self, count: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of ``count`` () over the processes with lower rank, and over all processes."""
        if self.size == 1:
            return torch.zeros_like(count), count
        counts = count.new_zeros(self.size)
        counts[self.rank].copy_(count)
        self.sum_(counts)
        return counts[: self.rank].sum(), counts.sum()

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients_(self, gradients: list[Tensor]) -> None:
        """Sums gradients over all processes, in place and in one message."""
        if self.size == 1:
            return
        flat = self.sum_(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenates the rows (B, ...) of all processes in order of rank. All processes have equally many rows."""
        if self.size == 1:
            return tensor
        plain = tensor.contiguous().view(torch.uint8)  # because not every backend supports every dtype
        parts = [torch.empty_like(plain) for _ in range(self.size)]
        dist.all_gather(parts, plain)
        return torch.cat(parts).view(tensor.dtype)

    def share(self, count: int) -> slice:
        """This process's share of ``count`` items. Shares are consecutive, and their sizes differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes in order of rank. They are pickled and sent by way of the host."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


SINGLE_PROCESS = ProcessGroup()


def join(device: str) -> tuple[ProcessGroup, str]:
    """Joins the processes that ``torchrun`` started; without ``torchrun``, this process trains alone.

    Returns:
        The process group, and the device of this process.

    Raises:
        UserError: there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SINGLE_PROCESS, device
    cuda = torch.device(device).type == "cuda"
    if cuda:
        local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(f"each process needs a GPU of its own, and this machine has {count}", usage_error=True)
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)  # must precede the first communication
    if not dist.is_initialized():
        # This module's functions have the process group as a default argument, evaluated at import. Import it before
        # there is a group, because torch's compiler would import it later.
        importlib.import_module("torch.distributed.nn.functional")
        store, rank, size = next(rendezvous("env://"))
        # torchrun keeps its store when it restarts the processes, and with it the addresses of those that died.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt_{attempt}", store)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
        atexit.register(leave)  # gloo threads that still hold tensors when Python exits would abort the process
    return ProcessGroup(dist.get_rank(), size), device


def restarted_run(out: Path | None) -> Path | None:
    """The run that processes continue which torchrun has restarted (``--max-restarts``): that of the folder ``out``.
    None at their first start, or if they ended before there was a run.

    Raises:
        UserError: they were restarted, and ``out`` is None, so they would begin another run.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    if out is None:
        raise UserError("torchrun restarted the processes: name the run with --out, so that they continue it")
    return out if (out / CONFIG).is_file() else None


def may_restart() -> bool:
    """Whether torchrun restarts processes that end."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def leave() -> None:
    """Leaves the process group, if this process is in one."""
    if dist.is_initialized():
        drop_graphs()  # NCCL would wait forever for graphs that contain its operations
        dist.destroy_process_group()
