"""Theorem 1, exactly: kernels of sparse networks and their distance to the infinitely wide dense one.

Source: Theorem 1 and equations (1)-(3). `kernels.masks` computes; Monte Carlo over masks (`masks.sampling`) checks it
independently. Errors are scaled: |error of K_l| / (|x||y|)^l.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from kernels.masks.moments import MaskMoments, mask_moments
from kernels.validation import checked_width


class SparseKernels(NamedTuple):
    """Arrays of shape (*pairs, *connectivities), and the number of features, d."""

    k1: Float64[np.ndarray, "..."]
    k2: Float64[np.ndarray, "..."]
    k1_excess: Float64[np.ndarray, "..."]  # K_{1,p} - K_1, computed without their cancellation
    error_estimate: Float64[np.ndarray, "..."]  # the larger of the two scaled errors
    method: np.ndarray  # of str, each one of moments.METHODS
    features: int
    axes: int  # dimensions of the connectivities

    def with_axes(self, axes: int) -> "SparseKernels":
        """The same for connectivities of at least so many dimensions, over which widths broadcast."""
        names = [name for name in self._fields if name not in ("features", "axes")]
        arrays: dict[str, Any] = {name: with_axes(getattr(self, name), self.axes, axes) for name in names}
        return self._replace(**arrays, axes=max(axes, self.axes))


def with_axes(values: npt.ArrayLike, before: int, after: int) -> np.ndarray:
    """An array over (*pairs, *connectivities) with dimensions of size 1 in front of the connectivities' `before`."""
    array = np.asarray(values)
    pairs = array.ndim - before
    return array.reshape(array.shape[:pairs] + (1,) * (after - before) + array.shape[pairs:])


class Distance(NamedTuple):
    """D = bias2 + variance, equation (1), each of shape (*pairs, *connectivities)."""

    bias2: Float64[np.ndarray, "..."]
    variance: Float64[np.ndarray, "..."]
    total: Float64[np.ndarray, "..."]


def sparse_kernels(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    *,
    tolerance: float = 1e-8,
    method: str = "auto",
) -> SparseKernels:
    """K_{1,p} and K_{2,p} of each pair at every connectivity, each pair by the method that suits it.

    x and y are (*pairs, features), connectivities one number or an array of any shape. Quadrature refines to the
    scaled error `tolerance`; `error_estimate` is what it reached, and no bound (see README.md). For checks, `method`
    may force "enumeration" (at most 14 coordinates that are non-zero in x or y) or "quadrature".

    Raises UserError if shapes differ, values are not finite or too large or small for (|x||y|)^2, a connectivity is
    outside (0, 1], or the forced method does not apply to a pair.
    """
    moments = mask_moments(x, y, connectivity, tolerance=tolerance, method=method, tangent=False)
    return of_moments(moments, np.shape(x)[-1], np.ndim(connectivity))


def of_moments(moments: MaskMoments, features: int, axes: int) -> SparseKernels:
    """The part of Theorem 1 in the moments of masked kernels."""
    k1_excess, k2 = moments.value[:2]
    return SparseKernels(
        k1=moments.dense[0] + k1_excess,
        k2=k2,
        k1_excess=k1_excess,
        error_estimate=moments.error_estimate[:2].max(axis=0),
        method=moments.method,
        features=features,
        axes=axes,
    )


def squared_distance(kernels: SparseKernels, width: npt.ArrayLike) -> Distance:
    """Equation (1): E[(Theta_{n,p} - Theta_inf)^2] of each pair; `width` broadcasts over the connectivities.

    `sparse_kernels` does not depend on n: one evaluation serves all widths, such as n = np / p at fixed np.
    """
    width = checked_width(width)
    kernels = kernels.with_axes(width.ndim)
    bias2 = (kernels.k1_excess / kernels.features) ** 2
    spread = np.maximum(kernels.k2 - kernels.k1**2, 0)  # by rounding below 0 for nearly opposite inputs
    variance = spread / kernels.features**2 / width
    return Distance(bias2, variance, bias2 + variance)
