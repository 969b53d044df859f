"""Triton kernels and their launchers, one file for each op; installed as ``trm_fast.triton_kernels``. The kernels of
the token mixer are in ``mix`` and ``mix_bwd``, those of attention in ``attend`` and ``attend_bwd``.

``<op>_fwd_kernel`` runs on the device. ``<op>_fwd`` launches it: it changes no input, is safe in a CUDA graph, and
takes block sizes from a table (``configs``). ``trm_fast.ops`` declares the launchers to torch's dispatcher. In kernels
the prefix ``p_`` marks a pointer, ``i_`` an index, ``m_`` a mask and ``b_`` a block of values.

Lower bounds of a call in elements and FLOP, by arithmetic, not measured. A = B L D; I is the inner width of a layer.
Each kernel and product reads and writes its tensors once; in the forward the norm is an epilogue.

| op | moves | computes |
| --- | --- | --- |
| rms_norm | forward 3 A with a residual, else 2 A; backward 3 A | |
| swiglu | forward 3/2 of gate_up, backward 5/2 | |
| mlp forward | 3 A + 2 B L I; with gradients 4 B L I | 6 B L D I |
| mlp backward | 8 A + 10 B L I | 12 B L D I |
| token_mixer forward | 2 A, 3 A with an injection | 6 B D L I |
| token_mixer backward | 7 A, 9 A with an injection | 22 B D L I: it computes the activations twice more |
| attention forward | 11 A, 13 A with an injection | 8 B L D^2 + 4 B L^2 D |
| attention backward | 24 A | 16 B L D^2 + 10 B L^2 D |
| the same, heads in several blocks | 28 A | 16 B L D^2 + 14 B L^2 D |
| stablemax | the logits and 8 bytes each forward, twice the logits and 8 bytes each backward | |
| stablemax_cross_entropy | the logits forward; twice that backward | |
| adam_atan2_ | 28 bytes a weight, 36 with the average, 38 with the copy | |
| sign_sgd_rows_ | 4 bytes a gradient, 8 a touched weight | |
"""
