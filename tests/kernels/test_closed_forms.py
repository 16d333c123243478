"""Arc-cosine kernels to 60 digits, and the kernels of the infinitely wide network."""

import mpmath
import numpy as np
import pytest

from kernels.closed_forms import arc_cosine, dense_kernels
from wsn.errors import UserError


def _reference(order, angle):
    """J_l at 60 digits."""
    with mpmath.workdps(60):
        t = mpmath.mpf(angle)
        s, c = mpmath.sin(t), mpmath.cos(t)
        rest = mpmath.pi - t
        factors = (rest, s + rest * c, 3 * s * c + rest * (1 + 2 * c * c))
        return float(factors[order] / (2 * mpmath.pi))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("angle", [1e-12, 1e-6, 0.3, 1.0, 2.0, 2.2, 3.0])
def test_arc_cosine_against_sixty_digits(order, angle):
    value = arc_cosine(np.array([2.0, 0.0]), 3 * np.array([np.cos(angle), np.sin(angle)]), order)
    np.testing.assert_allclose(value, 6**order * _reference(order, angle), rtol=1e-14)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-8])
def test_arc_cosine_keeps_relative_precision_near_pi(order, gap):
    leading = (gap, gap**3 / 3, 4 * gap**5 / 15)[order] / (2 * np.pi)
    value = arc_cosine(np.array([1.0, 0.0]), np.array([-1.0, gap]), order)
    np.testing.assert_allclose(value, leading, rtol=2 * gap**2 + 1e-14)


def test_arc_cosine_is_the_mean_over_gaussian_weights():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5))
    a, b = (rng.normal(size=(400_000, 5)) @ np.stack([x, y], 1)).T
    for order in (0, 1, 2):
        samples = (a * b) ** order * (a > 0) * (b > 0)
        assert abs(samples.mean() - arc_cosine(x, y, order)) < 5 * samples.std() / np.sqrt(len(a))
        assert arc_cosine(0 * x, y, order) == 0


@pytest.mark.parametrize("rows, columns, features, seed", [(3, 4, 5, 0), (1, 6, 1, 1)])
def test_gram_is_every_pair(rows, columns, features, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, features)), rng.normal(size=(columns, features))
    every_x, every_y = np.broadcast_arrays(x[:, None], y[None])
    np.testing.assert_allclose(arc_cosine(x, y, 1, gram=True), arc_cosine(every_x, every_y, 1), rtol=1e-13)
    for gram, pairs in zip(
        dense_kernels(x, y, 3, gram=True), dense_kernels(every_x, every_y, 3), strict=True
    ):
        np.testing.assert_allclose(gram, pairs, rtol=1e-13)


def test_network_of_one_hidden_layer_is_the_arc_cosine_kernel():
    x, y = np.random.default_rng(1).normal(size=(2, 7, 4))
    nngp, ntk = dense_kernels(x, y, depth=1, weight_std=1.5)
    np.testing.assert_allclose(nngp, 1.5**4 * arc_cosine(x, y, 1) / 4, rtol=1e-13)
    linear = 1.5**4 * np.sum(x * y, 1) / 4 * arc_cosine(x, y, 0)
    np.testing.assert_allclose(ntk, nngp + linear, rtol=1e-12)


def test_variance_halves_with_depth_and_ntk_sums_over_layers():
    """On the diagonal, NNGP = |x|^2/d 2^-L and each of L + 1 layers adds as much to the NTK."""
    x = np.random.default_rng(2).normal(size=(5, 6))
    for depth in range(5):
        nngp, ntk = dense_kernels(x, x, depth)
        np.testing.assert_allclose(nngp, np.sum(x**2, 1) / 6 / 2**depth, rtol=1e-13)
        np.testing.assert_allclose(ntk, (depth + 1) * nngp, rtol=1e-12)


def test_network_angle_survives_at_near_parallel_inputs():
    """1 - cos of the next angle is t^2/2 - t^3/(3 pi) + ..., which arccos of a rounded cosine loses."""
    gap = 1e-6
    x, y = np.array([1.0, 0.0]), np.array([np.cos(gap), np.sin(gap)])
    one, two = dense_kernels(x, y, 1)[0], dense_kernels(x, y, 2)[0]
    assert abs(one - 0.25) < 1e-12 and abs(two - 0.125) < 1e-12


@pytest.mark.parametrize("scales", [(1e-200, 1e-200), (1e200, 1e-200), (1e200, 1e105), (1e250, 1e200)])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_scales_factor_out_or_are_refused(scales, order):
    x, y = np.random.default_rng(3).normal(size=(2, 4))
    power = order * sum(map(np.log10, scales))
    if power > 308:
        with pytest.raises(UserError, match="rescale"):
            arc_cosine(scales[0] * x, scales[1] * y, order)
    else:
        value = arc_cosine(scales[0] * x, scales[1] * y, order)
        np.testing.assert_allclose(value, arc_cosine(x, y, order) * 10.0**power, rtol=1e-12)


def test_settings_out_of_range_are_refused():
    x = np.ones(2)
    for order in (-1, 3):
        with pytest.raises(UserError, match="order"):
            arc_cosine(x, x, order)
    for depth, weight_std, name in ((-1, 1.0, "depth"), (1, np.nan, "weight_std"), (1, np.inf, "weight_std")):
        with pytest.raises(UserError, match=f"^`{name}="):
            dense_kernels(x, x, depth, weight_std)
    with pytest.raises(UserError, match="rescale"):
        dense_kernels(x, x, 1, 1e200)


@pytest.mark.parametrize(
    "x, y",
    [
        (np.ones(3), np.ones(4)),
        (np.array([1, np.nan]), np.ones(2)),
        (np.ones(0), np.ones(0)),
        ([[1], [1, 2]], 1),
        (np.ma.masked_array([1, 999], [False, True]), np.ones(2)),
    ],
)
def test_bad_input_is_refused_in_one_line(x, y):
    with pytest.raises(UserError) as error:
        arc_cosine(x, y, 1)
    assert "\n" not in str(error.value)
