"""gelu and its derivative inside a kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """x Phi(x), Phi the normal distribution."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_grad(x):
    """Phi(x) + x phi(x)."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
