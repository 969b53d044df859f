"""Kernels have the same cache keys in any order of use, so a process finds those that another one compiled."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trm_fast.ops._core import registry

KEYS = """
import importlib, json, sys, triton
step = int(sys.argv[1])
names = "adam_atan2_ attention group_mixer mlp rms_norm sign_sgd_rows_ stablemax swiglu token_mixer"
for name in names.split()[::step]:
    importlib.import_module(f"trm_fast.triton_kernels.{name}")
modules = [vars(module) for name, module in sorted(sys.modules.items()) if name.startswith("trm_fast.triton_kernels.")]
modules = [module for module in modules if "fix_cache_keys" in module]
kernels = {k.__name__: k for module in modules for k in module.values() if isinstance(k, triton.JITFunction)}
print(json.dumps({name: kernels[name].cache_key for name in sorted(kernels)[::step]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(registry.INTERPRETED, reason="the interpreter compiles nothing")
def test_keys_do_not_depend_on_the_order_of_imports():
    keys = []
    for step in ("1", "-1"):
        run = subprocess.run(
            [sys.executable, "-c", KEYS, step],
            cwd="/",  # a checkout without a build would hide the installed package
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        keys.append(json.loads(run.stdout))
    assert keys[0] == keys[1]
    assert {"gate_up_fwd_kernel", "down_bwd_kernel", "token_mixer_bwd_kernel", "sum_groups_kernel"} <= set(keys[0])
