"""Triton kernels and their launchers, one file per op, installed as ``trm_fast.triton_kernels``.

The kernels of the token mixer are in ``mix`` and ``mix_bwd``, and those of attention are in ``attend`` and
``attend_bwd``. ``<op>_fwd_kernel`` runs on the device, and ``<op>_fwd`` launches it. Launchers are safe in a CUDA graph
and take block sizes from a table (``configs``). They change no input, unless their name ends in ``_``. ``trm_fast.ops``
registers the launchers with torch's dispatcher. In kernels the prefix ``p_`` marks a pointer, ``i_`` an index, ``m_`` a
mask and ``b_`` a block of values. ``at`` is an offset, or a pointer with an offset added.

The table below has lower bounds per call, in elements moved and FLOP, computed and not measured. A = B L D, I is the
inner width of a layer, and N the number of groups in all partitions. They assume that each kernel and product reads and
writes its tensors once, and that the norm is an epilogue in the forward.

| op | moves | computes |
| --- | --- | --- |
| rms_norm | forward 3 A with a residual, else 2 A; backward 3 A | |
| swiglu | forward 3/2 of gate_up, backward 5/2 | |
| mlp forward | 3 A + 2 B L I; with gradients 4 B L I | 6 B L D I |
| mlp backward | 8 A + 10 B L I | 12 B L D I |
| token_mixer forward | 2 A, 3 A with an injection | 6 B D L I |
| token_mixer backward | 7 A, 9 A with an injection | 22 B D L I: it recomputes the activations twice |
| group_mixer forward | as mlp, and A + 2 B N D + 4 B N I; 4 A with an injection | 6 B L D I + 4 B N D I |
| group_mixer backward | as mlp, and 3 A + 2 B L I + 4 B N D + 6 B N I; 6 A with an injection | 12 B L D I + 8 B N D I |
| attention forward | 11 A, 13 A with an injection | 8 B L D^2 + 4 B L^2 D |
| attention backward | 24 A | 16 B L D^2 + 10 B L^2 D |
| attention backward, heads in several blocks | 28 A | 16 B L D^2 + 14 B L^2 D |
| stablemax | forward: the logits and 8 bytes per logit; backward: twice the logits and 8 bytes per logit | |
| stablemax_cross_entropy | forward: the logits; backward: twice the logits | |
| adam_atan2_ | 28 bytes per weight, 36 with the average, 38 with average and copy | |
| sign_sgd_rows_ | 4 bytes per gradient element, 8 per updated weight | |
"""
