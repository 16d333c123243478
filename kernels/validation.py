"""Checks of arguments: float64 NumPy arrays, or a UserError of one line."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from wsn.errors import UserError, whole_number


def _finite(name: str, values: Any) -> np.ndarray:
    if np.ma.is_masked(values):
        raise UserError(f"`{name}` has masked values: fill them or leave them out")
    try:
        array = np.asarray(values)
        if array.size and array.dtype.kind not in "bfiu" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"`{name}` has type {array.dtype}: give real numbers")
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"`{name}` must be an array of real numbers: give rows of equal length") from error
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"`{name}` has NaN or infinite values")
    return array


def checked_pairs(x: Any, y: Any, gram: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 arrays of vectors of one shape, or for a Gram matrix two with rows of one length."""
    x, y = _finite("x", x), _finite("y", y)
    if gram and not (x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]):
        raise UserError(f"`x` {x.shape} and `y` {y.shape} must be matrices with rows of one length")
    if not gram and (x.ndim == 0 or x.shape != y.shape):
        raise UserError(
            f"`x` {x.shape} and `y` {y.shape} must have one shape, (..., features): pair them up first"
        )
    if x.shape[-1] == 0:
        raise UserError("`x` and `y` have no features: give vectors of at least one coordinate")
    return x, y


def checked_connectivity(connectivity: Any) -> np.ndarray:
    """Float64 connectivities, all in (0, 1]."""
    connectivity = _finite("connectivity", connectivity)
    if not connectivity.size:
        raise UserError("`connectivity`: give at least one number in (0, 1]")
    if (outside := connectivity[(connectivity <= 0) | (connectivity > 1)]).size:
        raise UserError(
            f"`connectivity={float(outside[0])}` is not in (0, 1]: give the fraction of kept weights"
        )
    return connectivity


def one_connectivity(connectivity: Any) -> float:
    """A single connectivity in (0, 1]."""
    p = checked_connectivity(connectivity)
    if p.ndim:
        raise UserError(f"`connectivity` must be one number, not an array of shape {p.shape}")
    return float(p)


def checked_reference(reference: Any, pairs: tuple[int, ...]) -> np.ndarray:
    """A float64 kernel with one value for each pair."""
    reference = _finite("reference", reference)
    if reference.shape != pairs:
        raise UserError(f"`reference` {reference.shape} must have one value for each pair, {pairs}")
    return reference


def checked_width(width: Any, whole: bool = False) -> np.ndarray:
    """Float64 widths, all at least 1; fractional ones are allowed unless `whole`."""
    width = _finite("width", width)
    if not (width >= 1).all():
        raise UserError(f"`width={float(width.min())}` is too small: give at least 1")
    if whole and (fractional := width[width != np.floor(width)]).size:
        raise UserError(f"`width={float(fractional[0])}`: give a whole number")
    return width


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, NumPy's too."""
    count = whole_number(name, value)
    if count < least:
        raise UserError(f"`{name}={count}` is too small: give at least {least}")
    return count


def checked_positive(name: str, values: Any) -> np.ndarray:
    """Float64 numbers, all above 0."""
    values = _finite(name, values)
    if not (values > 0).all():
        raise UserError(f"`{name}={float(values.min())}`: give numbers above 0")
    return values


def checked_matrix(name: str, values: Any) -> np.ndarray:
    """A float64 matrix with at least one column."""
    matrix = _finite(name, values)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise UserError(f"`{name}` {matrix.shape} must be a matrix, (examples, features)")
    return matrix
