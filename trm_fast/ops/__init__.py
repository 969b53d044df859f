"""The ops: functions on tensors, each with a reference in plain PyTorch and kernels for CPUs and GPUs.

Other projects can use them: importing this package needs only torch and loads no other part of trm_fast.
``use_backend`` or the environment variable ``TRM_FAST_BACKEND`` chooses the backend. ``reference.<op>`` is the op in
plain PyTorch.
"""

from __future__ import annotations

from trm_fast.ops._core.registry import OPS
from trm_fast.ops._core.registry import build_record as build_record
from trm_fast.ops._core.registry import reference as reference
from trm_fast.ops._core.selection import BackendUnavailable as BackendUnavailable
from trm_fast.ops._core.selection import cpu_path as cpu_path
from trm_fast.ops._core.selection import request
from trm_fast.ops._core.selection import use_backend as use_backend
from trm_fast.ops.adam_atan2_ import adam_atan2_ as adam_atan2_
from trm_fast.ops.attention import attention as attention
from trm_fast.ops.group_mixer import group_mixer as group_mixer
from trm_fast.ops.latent_recursion import latent_recursion as latent_recursion
from trm_fast.ops.latent_step import latent_step as latent_step
from trm_fast.ops.mlp import mlp as mlp
from trm_fast.ops.packing import pack_weights as pack_weights
from trm_fast.ops.report import table as table
from trm_fast.ops.rms_norm import rms_norm as rms_norm
from trm_fast.ops.sign_sgd_rows_ import sign_sgd_rows_ as sign_sgd_rows_
from trm_fast.ops.stablemax import stablemax as stablemax
from trm_fast.ops.stablemax import stablemax_cross_entropy as stablemax_cross_entropy
from trm_fast.ops.swiglu import swiglu as swiglu
from trm_fast.ops.token_mixer import token_mixer as token_mixer

__all__ = [
    "BackendUnavailable", "build_record", "cpu_path", "pack_weights", "reference", "table", "use_backend",
    *OPS,
]  # fmt: skip

request({})
