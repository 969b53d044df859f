"""The processes that train one model together, each with a share of every batch (``torch.distributed``)."""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trm_fast.errors import UserError
from trm_fast.inference.capture import drop_graphs


class ProcessGroup:
    """Process ``rank`` of ``size``. With one process, no method communicates.

    All processes must call the same methods in the same order. Sums and gathers use the default process group. They
    stay on the device, and NCCL's can be captured.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def slice_of_batch(self, batch_size: int) -> slice:
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
        return self.slice_of(batch_size)

    def exclusive_sum(self, count: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of a number () over the processes of lower rank, and over all processes."""
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
        """Concatenates the rows (B, ...) of all processes in order of rank. All have the same number of rows."""
        if self.size == 1:
            return tensor
        plain = tensor.contiguous().view(torch.uint8)  # some backends lack some dtypes
        parts = [torch.empty_like(plain) for _ in range(self.size)]
        dist.all_gather(parts, plain)
        return torch.cat(parts).view(tensor.dtype)

    def slice_of(self, count: int) -> slice:
        """This process's share of ``count`` items. The shares are consecutive; their sizes differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes in order of rank. They are pickled and pass through the host."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = ProcessGroup()


def join(device: str) -> tuple[ProcessGroup, str]:
    """Joins the processes that ``torchrun`` started; without ``torchrun``, this process trains alone.

    Returns:
        The process group, and the device of this process.

    Raises:
        UserError: there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    cuda = torch.device(device).type == "cuda"
    if cuda:
        local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(f"each process needs a GPU of its own, and this machine has {count}", usage_error=True)
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)  # before the first message
    if not dist.is_initialized():
        # Its functions take the group at the time of their import as a default. torch's compiler would import it later.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(leave)  # gloo threads that hold tensors and outlive Python abort the process
    return ProcessGroup(dist.get_rank(), size), device


def leave() -> None:
    """Leaves the process group, if this process is in one."""
    if dist.is_initialized():
        drop_graphs()  # NCCL would wait without end for graphs that hold its messages
        dist.destroy_process_group()
