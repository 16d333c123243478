"""Approximations to Theorem 1: the paper's, and the leading terms of the exact theorem.

Connectivity p and width n are numbers or arrays that broadcast, d is the number of features. All assume p d >> 1:
below p d of about 40 use `kernels.theorem1`.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import ArrayLike, Float, Float64

from kernels.validation import checked_connectivity, checked_pairs, checked_width
from wsn.errors import UserError

Numbers = Float64[np.ndarray | np.float64, "..."]


def eq4(connectivity: npt.ArrayLike, width: npt.ArrayLike, features: int) -> Numbers:
    """D ~ (p^-1/2 - 1)^2 / (16 d) + (1 - 1/pi^2) / (4 n): equations (4) and (23), independent N(0,1) inputs.

    The variance term holds for p d > 40. The bias term is *not* that of Theorem 1, where contributions of
    different masks cancel: at d = 784 the exact bias^2 is 10^3 to 10^5 times smaller.
    """
    p, n = checked_connectivity(connectivity), checked_width(width)
    return (p**-0.5 - 1) ** 2 / (16 * features) + (1 - 1 / np.pi**2) / (4 * n)


def eq25(weights_per_input: npt.ArrayLike, features: int) -> Numbers:
    """p* ~ sqrt(n p / (4 d)) at fixed n p = `weights_per_input`: equation (25), the minimum of (4) for p* << 1.

    It inherits the bias of (4): the exact D of Gaussian inputs has no minimum there.
    """
    weights = np.asarray(weights_per_input, np.float64)
    if not ((weights > 0) & np.isfinite(weights)).all() or not features >= 1:
        raise UserError(f"`weights_per_input` and `features` must be positive, not {weights} and {features}")
    return np.sqrt(weights / (4 * features))


def leading_bias(
    x: Float[ArrayLike, "*pairs features"],
    y: Float[ArrayLike, "*pairs features"],
    connectivity: npt.ArrayLike,
) -> Numbers:
    """K_{1,p} - K_1 to first order in (1 - p)/p sum x_i^j y_i^(4-j), j = 0..4: the correct leading bias.

    Shape (*pairs, *connectivities). For bounded inputs. 0, as K_{1,p} - K_1, where x and y are parallel or one is zero.
    """
    x, y = checked_pairs(x, y)
    p = checked_connectivity(connectivity)
    x2, y2, xy = (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)
    area = np.sqrt(np.maximum(x2 * y2 - xy**2, 0))
    line = area == 0
    x2, y2, area = (np.where(line, 1, z) for z in (x2, y2, area))
    m40, m31, m22, m13, m04 = ((x**j * y ** (4 - j)).sum(-1) for j in (4, 3, 2, 1, 0))
    first = (xy**2 - area**2) / area
    mixed = 4 * xy / area
    total = m40 / x2**2 * first + m04 / y2**2 * first - mixed * (m31 / x2 + m13 / y2) + 6 * m22 / area
    return np.multiply.outer(np.where(line, 0, total) / (16 * np.pi), (1 - p) / p)


def exact_count_correction(
    k1: npt.ArrayLike, connectivity: npt.ArrayLike, width: npt.ArrayLike, features: int
) -> Numbers:
    """The change of D when masks keep an exact number of weights instead of a Bernoulli one.

    -(K/d)^2 (1 - p) / (n d p): leading order in 1/(n d p), the relative variance of that number; `k1` is
    K_{1,p}. For n >> K_2/K_1^2, about 10: the next term is that much smaller over n.
    """
    p, n = checked_connectivity(connectivity), checked_width(width)
    return -((np.asarray(k1, np.float64) / features) ** 2) * (1 - p) / (n * features * p)
