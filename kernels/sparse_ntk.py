"""The tangent kernel (NTK) of a sparse network with one hidden layer, exactly, and its distance to the dense limit.

f_c(x) = (n d)^(-1/2) sum_k v_kc [u_k.x]_+ for outputs c, weights u kept with probability p and drawn from N(0, 1/p),
v kept with probability q and drawn from N(0, 1/q); kept weights are trained. The NTK, a mean over outputs, is

    Theta = (1/(n d)) sum_k { r_k [a_k]_+ [b_k]_+ + gamma w_k H(a_k) H(b_k) C_k },  a = u.x, b = u.y, C_k = x_s.y_s,

r and w the means over outputs of the mask of v and of v^2, and gamma the learning rate of the first layer over that of
the last. Its mean and variance are means over masks s of K_1, K_2, C K_0, C^2 K_0 and C K_1 (`kernels.masks`; derived
in README.md). Masks are Bernoulli; the limit is Theta_inf = (K_1 + x.y K_0) / d.
"""

from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from kernels.masks.moments import mask_moments
from kernels.theorem1 import Distance, SparseKernels, of_moments, with_axes
from kernels.validation import (
    checked_connectivity,
    checked_count,
    checked_positive,
    checked_width,
    one_connectivity,
)
from wsn.errors import UserError

LAYERS = ("all", "first")


class SparseTangents(NamedTuple):
    """Arrays of shape (*pairs, *connectivities); C = x_s.y_s, the inner product of the kept coordinates.

    Means over masks, over powers of p: at p = 1 they are K_1, K_2, C K_0, C^2 K_0 and C K_1.
    """

    gp: SparseKernels  # K_{1,p} and K_{2,p} of Theorem 1
    ck0: Float64[np.ndarray, "..."]  # E[C K_0] / p
    cck0: Float64[np.ndarray, "..."]  # E[C^2 K_0] / p^2
    ck1: Float64[np.ndarray, "..."]  # E[C K_1] / p^2
    ck0_excess: Float64[np.ndarray, "..."]  # E[C K_0] / p - x.y K_0, without cancellation
    error_estimate: Float64[np.ndarray, "..."]  # the largest of the five scaled errors
    connectivity: Float64[np.ndarray, "..."]

    def with_axes(self, axes: int) -> "SparseTangents":
        """As `SparseKernels.with_axes`."""
        arrays = {name: with_axes(getattr(self, name), self.gp.axes, axes) for name in self._fields[1:]}
        return SparseTangents(self.gp.with_axes(axes), **arrays)

    @property
    def moments(self) -> Float64[np.ndarray, "5 ..."]:
        """K_{1,p}, K_{2,p} and the three others."""
        return np.stack([self.gp.k1, self.gp.k2, self.ck0, self.cck0, self.ck1])


class TangentDistance(NamedTuple):
    """E[Theta], of shape (*pairs, *connectivities), and E[(Theta - Theta_inf)^2] = bias2 + variance."""

    mean: Float64[np.ndarray, "..."]
    distance: Distance


def sparse_tangents(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    *,
    tolerance: float = 1e-7,
    method: str = "auto",
) -> SparseTangents:
    """The five moments of each pair at every connectivity; arguments and errors of `theorem1.sparse_kernels`.

    About three times its cost. Scaled errors are |error| / (|x||y|)^l, with l = 1 for K_1 and C K_0, else 2.
    """
    moments = mask_moments(x, y, connectivity, tolerance=tolerance, method=method, tangent=True)
    _, _, ck0, cck0, ck1 = moments.value
    return SparseTangents(
        gp=of_moments(moments, np.shape(x)[-1], np.ndim(connectivity)),
        ck0=moments.dense[2] + ck0,
        cck0=cck0,
        ck1=ck1,
        ck0_excess=ck0,
        error_estimate=moments.error_estimate.max(axis=0),
        connectivity=checked_connectivity(connectivity),
    )


def tangent_distance(
    tangents: SparseTangents,
    width: npt.ArrayLike,
    *,
    layers: str = "all",
    outputs: SupportsIndex = 1,
    rate: npt.ArrayLike | None = None,
    last_connectivity: float = 1.0,
    last_rate: float | None = None,
) -> TangentDistance:
    """Mean, bias^2, variance and D of the NTK at each width; widths and rates broadcast over the connectivities.

    `layers`: "all", or "first" for the part of the first layer alone. `outputs` C of the network. `rate`, gamma, is the
    learning rate of the first layer over that of the dense network, 1/p by default (1 is one rate for all layers in the
    NTK parameterization: then the bias is little but the loss of p). `last_connectivity` q and `last_rate`, by default
    1/q, are those of the last layer. Units: Theta^2. Raises UserError where a number is out of its range.
    """
    if layers not in LAYERS:
        raise UserError(f"`layers={layers}`: give all or first")
    count, width = checked_count("outputs", outputs), checked_width(width)
    given = np.float64(0) if rate is None else checked_positive("rate", rate)
    tangents = tangents.with_axes(max(width.ndim, given.ndim))
    gp, p = tangents.gp, tangents.connectivity
    gamma = 1.0 if rate is None else given * p  # over 1/p
    q = one_connectivity(last_connectivity)
    last = 1 / q if last_rate is None else float(checked_positive("last_rate", last_rate))
    fourth = 1 + (3 / q - 1) / count  # E[w^2]
    both, masks = (1 + (count - 1) * q) / count, q * (1 + (count - 1) * q) / count  # E[r w], E[r^2]
    if layers == "first":
        last = 0.0
    mean = last * q * gp.k1 + gamma * tangents.ck0
    # Differences from p = 1 first, where nothing cancels.
    bias = last * q * gp.k1_excess + gamma * tangents.ck0_excess
    bias = bias + (gamma - 1) * (tangents.ck0 - tangents.ck0_excess)
    if layers == "all":
        bias = bias + (last * q - 1) * (gp.k1 - gp.k1_excess)
    square = gamma**2 * fourth * tangents.cck0 + 2 * last * gamma * both * tangents.ck1
    square = square + last**2 * masks * gp.k2
    d = gp.features
    bias2, variance = (bias / d) ** 2, (square - mean**2) / d**2 / width
    return TangentDistance(mean / d, Distance(bias2, variance, bias2 + variance))
