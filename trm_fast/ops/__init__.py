"""Functional ops, each with a reference in plain PyTorch, kernels where they pay, and one name everywhere.

Usable by other projects: needs torch alone. ``use_backend`` or ``TRM_FAST_BACKEND`` choose the implementation;
``reference.<op>`` is the op in plain PyTorch.
"""

from __future__ import annotations

from trm_fast.ops._core.registry import build_record, reference
from trm_fast.ops._core.selection import BackendUnavailable, cpu_path, request, use_backend
from trm_fast.ops.adam_atan2_ import adam_atan2_
from trm_fast.ops.attention import attention
from trm_fast.ops.latent_recursion import latent_recursion
from trm_fast.ops.latent_step import latent_step
from trm_fast.ops.mlp import mlp
from trm_fast.ops.packing import pack_weights
from trm_fast.ops.report import table
from trm_fast.ops.rms_norm import rms_norm
from trm_fast.ops.sign_sgd_rows_ import sign_sgd_rows_
from trm_fast.ops.stablemax import stablemax, stablemax_cross_entropy
from trm_fast.ops.swiglu import swiglu
from trm_fast.ops.token_mixer import token_mixer

__all__ = [
    "BackendUnavailable",
    "adam_atan2_",
    "attention",
    "build_record",
    "cpu_path",
    "latent_recursion",
    "latent_step",
    "mlp",
    "pack_weights",
    "reference",
    "rms_norm",
    "sign_sgd_rows_",
    "stablemax",
    "stablemax_cross_entropy",
    "swiglu",
    "table",
    "token_mixer",
    "use_backend",
]

request({})
