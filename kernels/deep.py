"""GP kernel and NTK of sparse ReLU networks with several hidden layers, in the limit of infinite width.

Every layer keeps each weight with a fixed probability while widths grow. Then only the first layer remembers its
masks: its units see a finite number of inputs, so its kernels are means over masks, N = E[K_1]/(p d) and
T = gamma E[C K_0]/d (`kernels.sparse_ntk`). Units of the next layers sum over infinitely many kept inputs; their
kernels are those of a dense network, N' = K_1(S) and T' = K_0(S) (g N + T), where S has the covariance N of the layer
below and g = gamma p. Corrections of finite networks are of the order of one over the number of kept inputs of a unit.
"""

import math
from typing import NamedTuple, SupportsIndex

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from kernels.closed_forms import angular_factor
from kernels.precision import in_float64
from kernels.sparse_ntk import sparse_tangents
from kernels.validation import checked_count, checked_positive, one_connectivity

_angular_factor = in_float64(lambda supplement, order: angular_factor(order, jnp.asarray(supplement)))


class DeepKernels(NamedTuple):
    """Both of shape (*pairs, *connectivities)."""

    nngp: Float64[np.ndarray, "..."]
    ntk: Float64[np.ndarray, "..."]


def deep_kernels(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    depth: SupportsIndex,
    *,
    others: float = 1.0,
    rate: float | None = None,
    tolerance: float = 1e-7,
) -> DeepKernels:
    """GP kernel and NTK of each pair at every connectivity of the first layer.

    `depth` hidden layers, of which all but the first keep the fraction `others`; the last layer is dense. `rate`,
    gamma, is the learning rate of the hidden layers over that of the last one: 1 / connectivity by default, or 1 as in
    the NTK parameterization. At connectivity 1 these are `closed_forms.dense_kernels`. Raises UserError as
    `sparse_tangents`, and for a depth below 1.
    """
    layers = checked_count("depth", depth)
    tangents = sparse_tangents(x, y, connectivity, tolerance=tolerance)
    p, d = tangents.connectivity, tangents.gp.features
    gamma = None if rate is None else float(checked_positive("rate", rate))
    middle = 1.0 if gamma is None else gamma * one_connectivity(others)
    # Of a pair with itself the masks change nothing: K_1(x, x) = |x|^2 / 2.
    squares = (np.square(np.asarray(z, np.float64)).sum(axis=-1) for z in (x, y))
    scale = np.sqrt(math.prod(squares)).reshape(np.shape(x)[:-1] + (1,) * p.ndim) / (2 * d)
    nngp, ntk = tangents.gp.k1 / d, tangents.ck0 * (1.0 if gamma is None else gamma * p) / d
    for _ in range(layers - 1):
        cosine = np.divide(nngp, scale, out=np.zeros_like(nngp), where=scale > 0)
        supplement = np.arccos(np.clip(-cosine, -1, 1))
        k0, k1 = (_angular_factor(supplement, order=order) / (2 * np.pi) for order in (0, 1))
        nngp, ntk, scale = scale * k1, k0 * (middle * nngp + ntk), scale / 2
    return DeepKernels(nngp, nngp + ntk)
