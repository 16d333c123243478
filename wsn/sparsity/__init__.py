"""Sparsity: a budget of weights, and which ones a network keeps of it. Needs no data, and no training.

In: shapes or parameters of anyone's network, a number of weights, a key. Out: kept counts, positions, masks,
parameters to start from, and an optimiser under which removed weights stay 0 (`network` has the whole in one place).
"""

from wsn.sparsity.budget import DISTRIBUTIONS, kept_counts
from wsn.sparsity.keep import apply_masks
from wsn.sparsity.network import counts, draw_keep, is_kernel, start, with_static_mask
from wsn.sparsity.patterns import PATTERNS

__all__ = [
    "DISTRIBUTIONS",
    "PATTERNS",
    "apply_masks",
    "counts",
    "draw_keep",
    "is_kernel",
    "kept_counts",
    "start",
    "with_static_mask",
]
