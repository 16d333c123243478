"""Appendix B of the second paper: closed forms against quadrature, simulation and gradient descent as it is."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import integrate

from kernels import linear_network as theory
from wsn.errors import UserError

SETTINGS = settings(deadline=None, max_examples=25, derandomize=True)
WIDTHS = np.array([1, 2, 3, 4, 16, 64, 256, 4096])
lengths = st.floats(0.05, 20)


# Distance.


def test_printed_numbers():
    np.testing.assert_allclose(theory.ball_distance(1, 2.0, 4.0), (2**2 + 4**2) / (2 * 4))  # 2.5, not 2
    np.testing.assert_allclose(theory.ball_distance(2, 2 / 2**0.5, 4.0), 2.013, atol=5e-4)  # not 1.414


@SETTINGS
@given(st.integers(1, 300), lengths, st.floats(0.01, 1))
@example(7, 0.4, 1.0)
def test_the_printed_distance_is_right_where_no_start_lies_beyond_the_plane(width, solution, share):
    plane = theory.plane_distance(width, solution)
    np.testing.assert_allclose(plane, solution / width**0.5)
    np.testing.assert_allclose(theory.ball_distance(width, plane, share * plane), plane, rtol=1e-12)
    inside = share * plane / width**0.5  # the cube's corner is the farthest
    np.testing.assert_allclose(theory.cube_distance(width, plane, inside), plane, rtol=1e-12)


@SETTINGS
@given(st.integers(1, 300), lengths)
def test_nothing_jumps_where_the_condition_ends(width, plane):
    for start, edge in ((theory.ball_distance, plane), (theory.cube_distance, plane / width**0.5)):
        np.testing.assert_allclose(start(width, plane, edge * (1 + 1e-7)), plane, rtol=1e-6)


@SETTINGS
@given(st.integers(1, 60), lengths, lengths)
def test_ball_against_the_density_of_its_coordinate(width, plane, radius):
    def density(angle):  # of u = R sin(angle), times du/d(angle): no edge singularity at K = 1
        return np.cos(angle) ** width

    whole, _ = integrate.quad(density, -np.pi / 2, np.pi / 2)
    kink = [np.arcsin(plane / radius)] if plane < radius else None
    mean, _ = integrate.quad(
        lambda angle: abs(plane - radius * np.sin(angle)) * density(angle), -np.pi / 2, np.pi / 2, points=kink
    )
    np.testing.assert_allclose(theory.ball_distance(width, plane, radius), mean / whole, rtol=1e-7)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_cube_against_its_polynomials(width):
    """The sum of K uniform numbers is Irwin and Hall's; E|h - u| from its distribution function, K = 1, 2, 3."""
    plane, radius = 0.3, 1.1
    u = np.linspace(-1, 1, 200_001) * radius * width**0.5
    t = (u / radius * width**0.5 + width) / 2  # a sum of uniform numbers on [0, 1]
    signs = [(-1) ** k * np.prod([(width - i) / (i + 1) for i in range(k)]) for k in range(width + 1)]
    below = sum(s * np.clip(t - k, 0, None) ** width for k, s in enumerate(signs)) / np.prod(
        range(1, width + 1)
    )
    # E|h - u| = the integral of P(u < x) below h and of P(u > x) above it, plus what lies outside.
    mean = np.trapezoid(np.where(u < plane, below, 1 - below), u)
    np.testing.assert_allclose(theory.cube_distance(width, plane, radius), mean, rtol=2e-5)


@pytest.mark.parametrize("start", theory.STARTS)
def test_closed_forms_against_simulation(start):
    for width, radius in ((1, 4.0), (2, 4.0), (16, 1.0), (200, 1.0)):
        plane = 2 / width**0.5
        sampled = theory.sampled_distance(theory.STARTS[start], 40_000, width, plane, radius)
        exact = theory.STARTS[start].mean_distance(width, plane, radius)
        assert abs(sampled.mean - exact) < 4 * sampled.stderr, (width, radius)


@SETTINGS
@given(st.integers(1, 40), st.integers(2, 50), lengths)
def test_starts_lie_where_they_should(width, draws, radius):
    ball = theory.draw_ball(np.random.default_rng(0), draws, width, radius)
    cube = theory.draw_cube(np.random.default_rng(0), draws, width, radius)
    assert ball.shape == cube.shape == (draws, width)
    assert np.linalg.norm(ball, axis=1).max() <= radius * (1 + 1e-12) and abs(cube).max() <= radius


@SETTINGS
@given(lengths, lengths)
def test_the_ball_falls_with_width_but_its_excess_grows_to_that_of_a_folded_normal(solution, radius):
    plane = theory.plane_distance(WIDTHS, solution)
    excess = theory.ball_excess(WIDTHS, plane, radius)
    assert (excess >= 1 - 1e-12).all() and (np.diff(excess) > -1e-9).all()
    assert (np.diff(theory.ball_distance(WIDTHS, plane, radius)) < 0).all()
    limit = theory.ball_excess_limit(solution / radius)
    assert excess[-1] <= limit * (1 + 1e-9)
    np.testing.assert_allclose(theory.ball_excess(1e7, solution / 1e7**0.5, radius), limit, rtol=1e-6)


def test_the_condition_costs_less_than_one_percent_up_to_half_the_solution():
    assert 1.008 < theory.ball_excess_limit(2.0) < 1.01 < 1.16 < theory.ball_excess_limit(1.0)


@SETTINGS
@given(lengths, st.floats(0.2, 5))
def test_independent_weights_fall_to_a_floor(solution, radius):
    """Many of them sum to N(0, R^2/3): the mean of a folded normal, whose least value is the floor."""
    floor, plane = theory.cube_floor(radius), solution / 10**3
    np.testing.assert_allclose(floor, radius * np.sqrt(2 / (3 * np.pi)))
    distance = theory.cube_distance(10**6, plane, radius)
    folded = plane * theory.ball_excess_limit(plane * 3**0.5 / radius)
    np.testing.assert_allclose(distance, folded, rtol=1e-6)
    assert floor <= distance <= float(theory.cube_distance(100, solution / 10, radius))


def test_under_the_ntk_parameterisation_nothing_shrinks():
    plane = theory.plane_distance(WIDTHS, 2.0, theory.output_weight("ntk", WIDTHS))
    np.testing.assert_allclose(plane, 2.0)
    np.testing.assert_allclose(theory.ball_distance(WIDTHS, plane, 1.5), 2.0)
    np.testing.assert_allclose(theory.cube_distance(WIDTHS, plane, 0.5), 2.0, rtol=1e-9)
    np.testing.assert_array_equal(theory.output_weight("standard", WIDTHS), 1.0)


# Speed.


def problem(seed, width):
    random = np.random.default_rng(seed)
    x = random.uniform(0.5, 2) * random.standard_normal(30)
    y = random.uniform(1, 3) * x + 0.3 * random.standard_normal(30)
    return x, y, 0.1 * random.standard_normal(width), float(np.mean(x**2))


@SETTINGS
@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0.01, 0.97), st.sampled_from(["standard", "ntk"]))
def test_gradient_descent_takes_the_steps_and_the_path_of_the_closed_form(seed, width, share, name):
    x, y, weights, mean_square = problem(seed, width)
    output = float(theory.output_weight(name, width))
    rate = share / (output**2 * width * mean_square)  # of the edge
    factor = float(theory.error_factor(width, rate, mean_square, output))
    np.testing.assert_allclose(factor, 1 - 2 * share, atol=1e-9)
    steps = float(theory.steps_to(1e-3, factor))
    assume(abs(factor) ** (2 * steps) < 0.999e-3 and abs(abs(factor) - 0.0316) > 1e-3)  # no tie by rounding
    run = theory.descend(x, y, weights, output, rate, 1e-3)
    assert run.steps == steps
    ratio = float(theory.tortuosity(factor)) * (1 - abs(factor) ** steps) / (1 - factor**steps)
    np.testing.assert_allclose(run.length / run.distance, ratio, rtol=1e-6)


@SETTINGS
@given(st.integers(2, 400), st.floats(0.01, 10))
def test_the_edge_of_stability_is_where_the_factor_reaches_minus_one(width, mean_square):
    rate = 1 / (width * mean_square)
    np.testing.assert_allclose(theory.largest_width(rate, mean_square), width)
    np.testing.assert_allclose(theory.error_factor(width, rate, mean_square), -1)
    np.testing.assert_allclose(theory.error_factor(width / 2, rate, mean_square), 0, atol=1e-12)
    assert np.isinf(theory.steps_to(0.01, theory.error_factor(width + 1, rate, mean_square)))
    assert np.isfinite(theory.steps_to(0.01, theory.error_factor(width - 1, rate, mean_square)))


def test_networks_converge_below_the_edge_and_diverge_beyond_it():
    x, y, _, mean_square = problem(0, 1)
    rate = 1 / (20.5 * mean_square)
    steps = [theory.descend(x, y, np.zeros(width), 1.0, rate, 1e-3).steps for width in (20, 21)]
    assert np.isfinite(steps[0]) and np.isinf(steps[1])


def test_steps_fall_as_one_over_width_at_one_rate_and_not_in_other_units():
    widths = np.array([1, 2, 4, 8, 16])
    steps = theory.steps_to(1e-3, theory.error_factor(widths, 1e-5, 1.0))
    np.testing.assert_allclose(steps * widths, steps[0], rtol=1e-3)
    assert len(set(theory.steps_to(1e-3, theory.error_factor(widths, 1e-5 / widths, 1.0)))) == 1
    ntk = theory.output_weight("ntk", widths)
    assert len(set(theory.steps_to(1e-3, theory.error_factor(widths, 1e-5, 1.0, ntk)))) == 1


@SETTINGS
@given(st.integers(0, 100), st.integers(1, 50))
def test_both_parameterisations_are_one_network_in_two_units(seed, width):
    """s = 1 from w at rate α/K, s = 1/√K from √K w at rate α: the same steps, distances √K apart."""
    x, y, weights, mean_square = problem(seed, width)
    rate = 0.07 / mean_square
    one = theory.descend(x, y, weights, 1.0, rate / width, 1e-3)
    other = theory.descend(x, y, width**0.5 * weights, width**-0.5, rate, 1e-3)
    assert one.steps == other.steps
    np.testing.assert_allclose(other.distance, width**0.5 * one.distance, rtol=1e-9)


def test_a_path_is_straight_until_it_oscillates():
    np.testing.assert_array_equal(theory.tortuosity([0.999, 0.5, 0.0]), 1)
    share = np.array([0.6, 0.8, 0.99])
    np.testing.assert_allclose(theory.tortuosity(1 - 2 * share), share / (1 - share))
    assert np.isinf(theory.tortuosity(-1.0))


# Two trained layers.


@pytest.fixture(scope="module")
def exponents():
    """Of every measure in width, from 40 to 640 with 10 inputs, measured and in the kernel regime."""
    widths, seeds = (40, 640), range(3)
    exponents = {}
    for name, rate in (("standard", 0.002), ("ntk", 0.2)):
        means = []
        for width in widths:
            values = []
            for seed in seeds:
                random = np.random.default_rng(seed)
                x, teacher = random.standard_normal((100, 10)), random.standard_normal((3, 10)) / 10**0.5
                run = theory.train_two_layers(x, teacher, width, name, rate, seed=seed)
                assert (run.length >= run.distance * (1 - 1e-9)).all()
                np.testing.assert_allclose(run.distance[2] ** 2, (run.distance[:2] ** 2).sum())
                values.append(list(run.measures().values()))
            means.append(np.log(values).mean(axis=0))
        regime = [np.log(list(theory.kernel_regime(width, 10, name).measures().values())) for width in widths]
        span = np.log(widths[1] / widths[0])
        names = theory.kernel_regime(40, 10, name).measures()
        exponents[name] = {
            key: (float(a), float(b))
            for key, a, b in zip(
                names, (means[1] - means[0]) / span, (regime[1] - regime[0]) / span, strict=True
            )
        }
    return exponents


def test_standard_parameterisation_shortens_steps_and_distance_and_lengthens_the_last_layers_step(exponents):
    measured = {name: value for name, (value, _) in exponents["standard"].items()}
    assert measured["steps"] < -0.8
    assert measured["distance, first"] < measured["distance, all"] < measured["distance, last"] < -0.2
    assert measured["mean step, last"] > 0.4 > 0.2 > abs(measured["mean step, first"])


def test_exponents_are_those_of_the_kernel_regime(exponents):
    for name, measures in exponents.items():
        for measure, (measured, predicted) in measures.items():
            assert abs(measured - predicted) < 0.15, (name, measure)


def test_the_kernel_regime_has_the_exponents_of_wide_networks_in_the_limit():
    near, far = (theory.kernel_regime(width, 20, "standard").measures() for width in (10**6, 10**8))
    slopes = {measure: np.log(far[measure] / near[measure]) / np.log(100) for measure in near}
    expected = {"steps": -1, "distance, first": -1, "distance, last": -0.5, "distance, all": -0.5}
    expected |= {"mean step, first": 0, "mean step, last": 0.5, "mean step, all": 0.5}
    for measure, value in expected.items():
        np.testing.assert_allclose(slopes[measure], value, atol=1e-4, err_msg=measure)
    ntk = [list(theory.kernel_regime(width, 20, "ntk").measures().values()) for width in (30, 3000)]
    np.testing.assert_allclose(*ntk)


# Bad input.


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: theory.ball_distance(0, 1.0, 1.0), "width"),
        (lambda: theory.ball_distance(1, -1.0, 1.0), "plane"),
        (lambda: theory.cube_distance(1, 1.0, 0.0), "radius"),
        (lambda: theory.cube_distance(2.5, 0.1, 10.0), "`width=2.5`: give a whole number"),
        (lambda: theory.plane_distance(1, float("nan")), "solution"),
        (lambda: theory.largest_width(0.0, 1.0), "rate"),
        (lambda: theory.steps_to(1.0, 0.5), "tolerance"),
        (lambda: theory.output_weight("muP", 3), "`parameterization=muP`"),
        (lambda: theory.train_two_layers(np.eye(2), np.eye(2), 9, "standard", 50.0), "`rate=50`"),
    ],
)
def test_bad_input_is_one_line(call, part):
    with pytest.raises(UserError, match=part) as error:
        call()
    assert "\n" not in str(error.value)
