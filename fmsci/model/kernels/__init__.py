"""Triton kernels for a GPU: what passes over whole fields is read once and never stored between.

    field.analyse      P = (rows cos, sin along x) gelu(z)                      one pass over z
    spectrum.mix       U(k) = V(k) W(k), or with W^H                         one pass over the weights, as they are kept
    spectrum.mix_grad  the gradient of W
    field.synthesise   out = (columns cos, sin) Q + gelu(z) A^T + b             one pass over z, one over out
    field.descend      grad z of both, and parts of grad A, or one of the two   one pass over grad, z and grad z
    field.outer        parts of grad^T x, x the first layer's few channels      one pass over grad and x
    head.*             the head and its gradients

Fields are (rows, W, C) with rows = B H; products with the waves along x are (rows, J, C), J = 2m; spectra (B, 2, K, C),
K = 2 m^2 wavenumbers. Products add up in float32; where fields are bfloat16, gelu is float32 inside. PRECISION is how
products of float32 are made: tf32; or as exact as float32, three of those (tf32x3) or six of bfloat16 (bf16x6). Only
fmsci.model.fused, fused_first and fused_head start them.

The C files are for a CPU: pointwise.c and mixing.c, called by fmsci.model.pointwise and fmsci.model.mixing.
"""
