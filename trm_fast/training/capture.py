"""How a training step is run: called each time, or as one CUDA graph (see ``trm_fast.inference.capture``)."""

from trm_fast.inference.capture import CudaGraph, Eager, Fallback, Runner, runner_for

__all__ = ["CudaGraph", "Eager", "Fallback", "Runner", "runner_for"]
