"""Triton kernels and their launchers, one file an op; installed as ``trm_fast.triton_kernels``."""
