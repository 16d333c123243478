"""Distance from initial weights to solutions, and steps of gradient descent, of linear networks by width.

Closed forms, checks by simulation, and the optimization paths of networks with two trained layers. Source: Appendix B
of "Empirically Characterizing Overparameterization Impact on Convergence" (ICLR 2019 submission). Its network is
f(x) = s sum_k w_k x with scalar x, K weights w and a fixed output weight s = 1; its loss is F = mean (f(x) - y)^2.
Solutions are the plane s sum w = C, C = mean xy / mean x^2, at distance h = C / (s sqrt K) from the origin.

The appendix derives a mean distance of C / sqrt K, which is h: right if no initial weights lie beyond the plane. But h
falls with K only because s does not: for s = 1 / sqrt K (the NTK parameterization) it is C at every K. The two are
one network in different units of weight.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.special import betainc, erf, gammaln
from jaxtyping import Array, ArrayLike, Float, Float64

from kernels.precision import in_float64
from kernels.validation import checked_positive, checked_width
from wsn.errors import UserError
from wsn.networks.parameterization import parameterization

Numbers = Float64[np.ndarray | np.float64, "..."]
Draws = Float64[np.ndarray, "draws width"]
FOURIER_TERMS = 2**15  # of |x|, odd ones: an error of 3e-11 radii at K = 1, none for larger K
ENTRIES_AT_ONCE = 2**22  # of initial weights drawn together
LAYERS = ("first", "last", "all")
DIVERGED, MOST_STEPS = 1e12, 10**6  # times the initial loss; for two layers


# Distance.


def output_weight(name: str, width: npt.ArrayLike) -> Numbers:
    """s: 1 in the standard parameterization, as in the appendix, and 1 / sqrt K in the NTK one."""
    scaling = parameterization(name).scaling
    return np.vectorize(lambda k: scaling(int(k), 1, 1.0, "kernel").forward, otypes=[float])(
        checked_width(width, whole=True)
    )


def plane_distance(width: npt.ArrayLike, solution: npt.ArrayLike, output: npt.ArrayLike = 1.0) -> Numbers:
    """h = C / (s sqrt K), from the origin to the solutions; `solution` is C > 0, `output` is s."""
    return (
        checked_positive("solution", solution)
        / checked_positive("output", output)
        / checked_width(width) ** 0.5
    )


@in_float64
@jax.jit
def _ball(width: Array, plane: Array, radius: Array) -> Array:
    z2 = jnp.minimum(plane / radius, 1) ** 2
    constant = jnp.exp(gammaln(width / 2 + 1) - gammaln((width + 1) / 2)) / jnp.pi**0.5
    beyond = 2 * radius * constant / (width + 1) * (1 - z2) ** ((width + 1) / 2)
    return plane * betainc(0.5, (width + 1) / 2, z2) + beyond


def ball_distance(width: npt.ArrayLike, plane: npt.ArrayLike, radius: npt.ArrayLike) -> Numbers:
    """Mean distance to a plane at distance `plane` from weights uniform in a K-dimensional ball of radius R.

    A ball's coordinate u has the density c (1 - u^2/R^2)^((K-1)/2) / R, c = Gamma(K/2+1) / (sqrt pi Gamma((K+1)/2)),
    and the distance is |h - u|. With z = min(h/R, 1) its mean is

        h I(z^2; 1/2, (K+1)/2) + 2 R c / (K+1) (1 - z^2)^((K+1)/2),

    I the regularized incomplete beta function: h for R <= h (a condition that the appendix omits), and larger for
    R > h, since the appendix's integral counts distances beyond the plane as negative.
    """
    return _ball(checked_width(width), checked_positive("plane", plane), checked_positive("radius", radius))


def ball_excess(width: npt.ArrayLike, plane: npt.ArrayLike, radius: npt.ArrayLike) -> Numbers:
    """Exact mean distance relative to the printed one, C / sqrt K: 1 for R <= h."""
    return ball_distance(width, plane, radius) / np.asarray(plane, np.float64)


@in_float64
@jax.jit
def _folded(ratio: Array) -> Array:
    return erf(ratio / 2**0.5) + (2 / jnp.pi) ** 0.5 * jnp.exp(-(ratio**2) / 2) / ratio


def ball_excess_limit(ratio: npt.ArrayLike) -> Numbers:
    """Limit of `ball_excess` for infinitely many weights at s = 1, with C/R = `ratio`.

    A coordinate of the ball is N(0, R^2/K) then, and the distance a folded normal variable: the condition R <= h
    fails for every R once K > (C/R)^2, but costs less than 1 % if R <= C/2.
    """
    return _folded(checked_positive("ratio", ratio))


def cube_distance(width: npt.ArrayLike, plane: npt.ArrayLike, radius: npt.ArrayLike) -> Numbers:
    """The same for independent weights, uniform on [-R, R]: h for R sqrt K <= h.

    With X = h - u, |X| <= P = h + R sqrt K, the Fourier series of |x| on [-P, P] takes expectations term by term:
    E|X| = P/2 - (4P/pi^2) sum over odd j of cos(j pi h/P) sinc(j pi R/(P sqrt K))^K / j^2.
    """
    k, h, r = np.broadcast_arrays(
        checked_width(width, whole=True), checked_positive("plane", plane), checked_positive("radius", radius)
    )
    odd = np.arange(1, 2 * FOURIER_TERMS, 2)
    period = h + r * k**0.5
    arguments = np.multiply.outer(r / (period * k**0.5), odd)
    means = np.cos(np.pi * np.multiply.outer(h / period, odd)) * np.sinc(arguments) ** k[..., None]
    series = period / 2 - 4 * period / np.pi**2 * (means / odd**2).sum(axis=-1)
    return np.where(r * k**0.5 <= h, h, series)


def cube_floor(radius: npt.ArrayLike) -> Numbers:
    """Limit of `cube_distance` for many weights at s = 1: R sqrt(2/(3 pi)), from the spread of the initial weights."""
    return checked_positive("radius", radius) * (2 / (3 * np.pi)) ** 0.5


def draw_ball(random: np.random.Generator, draws: int, width: int, radius: float) -> Draws:
    """Uniform in the ball."""
    normal = random.standard_normal((draws, width))
    length = radius * random.uniform(size=(draws, 1)) ** (1 / width)
    return normal * (length / np.linalg.norm(normal, axis=1, keepdims=True))


def draw_cube(random: np.random.Generator, draws: int, width: int, radius: float) -> Draws:
    """Uniform in the cube."""
    return random.uniform(-radius, radius, (draws, width))


class Start(NamedTuple):
    """A distribution of initial weights: a sampler, and the mean distance to a plane."""

    draw: Callable[[np.random.Generator, int, int, float], Draws]
    mean_distance: Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], Numbers]


STARTS = {"ball": Start(draw_ball, ball_distance), "cube": Start(draw_cube, cube_distance)}


class Sampled(NamedTuple):
    mean: float
    stderr: float


def sampled_distance(
    start: Start, draws: int, width: int, plane: float, radius: float, seed: int = 0
) -> Sampled:
    """The mean distance by Monte Carlo, from at least two draws."""
    random = np.random.default_rng([seed, width])
    block = max(1, ENTRIES_AT_ONCE // width)
    sizes = [min(block, draws - first) for first in range(0, draws, block)]
    coordinates = [start.draw(random, size, width, radius).sum(axis=1) / width**0.5 for size in sizes]
    distances = abs(plane - np.concatenate(coordinates))
    return Sampled(float(distances.mean()), float(distances.std(ddof=1) / draws**0.5))


# Speed of the network with fixed output weights.


def largest_width(rate: float, mean_square: float) -> float:
    """K = 1 / (rate mean x^2), the edge of stability at s = 1: wider networks diverge; from K/2 on they oscillate.

    A step multiplies the error C - s sum w by 1 - rate λ, λ = 2 s^2 K mean x^2 the only non-zero curvature:
    negative for rate λ > 1, and -1 at rate λ = 2. (With a loss of half the mean square both widths double.)
    """
    return float(1 / (checked_positive("rate", rate) * checked_positive("mean_square", mean_square)))


def error_factor(
    width: npt.ArrayLike, rate: npt.ArrayLike, mean_square: float, output: npt.ArrayLike = 1.0
) -> Numbers:
    """The factor of the error in one step: 1 - 2 rate s^2 K mean x^2."""
    curvature = 2 * np.asarray(output, np.float64) ** 2 * checked_width(width) * mean_square
    return 1 - checked_positive("rate", rate) * curvature


def steps_to(tolerance: float, factor: npt.ArrayLike) -> Numbers:
    """Steps until the excess loss is `tolerance` times the initial one; inf where |factor| >= 1.

    A step multiplies the excess loss by factor^2. Many steps are log(1/tolerance) / (4 rate s^2 K mean x^2): ~ 1/K at
    one rate and s = 1, independent of K for a rate ∝ 1/K or s = 1 / sqrt K.
    """
    if not 0 < tolerance < 1:
        raise UserError(f"`tolerance={tolerance:g}`: give a number between 0 and 1")
    with np.errstate(divide="ignore"):
        each = 2 * np.log(abs(np.asarray(factor, np.float64)))
        # Rounding must not add a step where tolerance is a power of the factor.
        return np.where(each < 0, np.maximum(np.ceil(np.log(tolerance) / each - 1e-9), 1), np.inf)


def tortuosity(factor: npt.ArrayLike) -> Numbers:
    """Path length / distance for many steps, (1 - f) / (1 - |f|): 1 until the network oscillates."""
    factor = np.asarray(factor, np.float64)
    return np.where(abs(factor) < 1, (1 - factor) / np.where(abs(factor) < 1, 1 - abs(factor), 1), np.inf)


class Descent(NamedTuple):
    """Steps (inf: diverged), distance from initial to final weights, and path length."""

    steps: float
    distance: float
    length: float


def descend(
    x: Float[np.ndarray, " samples"],
    y: Float[np.ndarray, " samples"],
    weights: Float[np.ndarray, " width"],
    output: float,
    rate: float,
    tolerance: float,
) -> Descent:
    """Plain gradient descent: the check of `steps_to`, `error_factor` and `tortuosity`."""
    least = np.mean((y - x * (x @ y) / (x @ x)) ** 2)
    at, length, steps, before = weights, 0.0, 0, np.inf
    initial = np.mean((output * at.sum() * x - y) ** 2) - least
    while (excess := np.mean((output * at.sum() * x - y) ** 2) - least) > tolerance * initial:
        if excess >= before:  # the factor of a step is constant
            return Descent(np.inf, np.inf, np.inf)
        before = excess
        step = -rate * 2 * output * np.mean((output * at.sum() * x - y) * x) * np.ones_like(at)
        at, length, steps = at + step, length + float(np.linalg.norm(step)), steps + 1
    return Descent(steps, float(np.linalg.norm(at - weights)), length)


# Two trained layers.


class Path(NamedTuple):
    """Steps of one network until it stops, and for LAYERS the distance from the initial weights and the path length."""

    steps: float
    distance: Float64[np.ndarray, "3"]
    length: Float64[np.ndarray, "3"]

    def measures(self) -> dict[str, float]:
        """By name: `steps`, and for each layer `distance, last`, `path, last` and `mean step, last`."""
        quantities = {"distance": self.distance, "path": self.length, "mean step": self.length / self.steps}
        return {"steps": self.steps} | {
            f"{name}, {layer}": float(value)
            for name, values in quantities.items()
            for layer, value in zip(LAYERS, values, strict=True)
        }


def _norms(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    squares = np.array([np.sum(first**2), np.sum(last**2)])
    return np.sqrt([*squares, squares.sum()])


def train_two_layers(
    x: Float[ArrayLike, "samples inputs"],
    teacher: Float[ArrayLike, "outputs inputs"],
    width: int,
    name: str,
    rate: float,
    seed: int = 0,
) -> Path:
    """Gradient descent on both layers of a linear network, y = `teacher` x, to 1 % of the initial loss.

    The loss is the mean over samples of the squared error, summed over outputs. Initial weights are normal with the
    scales of the parameterization `name`; a seed gives the same initial function in each. Raises UserError if the loss
    does not fall.
    """
    x, teacher = np.asarray(x, np.float64), np.asarray(teacher, np.float64)
    (outputs, inputs), covariance = teacher.shape, x.T @ x / len(x)
    random = np.random.default_rng([seed, width])
    scaling = parameterization(name).scaling
    scales = [scaling(inputs, width, 1.0, "kernel"), scaling(width, outputs, 1.0, "kernel")]
    first = first_0 = scales[0].initial * random.standard_normal((width, inputs))
    last = last_0 = scales[1].initial * random.standard_normal((outputs, width))
    forward = scales[0].forward * scales[1].forward
    rates = [rate * scale.learning_rate for scale in scales]
    steps, length, initial = 0, np.zeros(3), None
    while True:
        error = forward * last @ first - teacher
        slope = error @ covariance
        loss = np.sum(slope * error)
        initial = loss if initial is None else initial
        if loss <= 0.01 * initial:
            return Path(float(steps), _norms(first - first_0, last - last_0), length)
        if not loss < DIVERGED * initial or steps == MOST_STEPS:
            raise UserError(f"`rate={rate:g}`: width {width} does not converge: lower one of them")
        gradient = 2 * forward * slope
        of_first, of_last = rates[0] * last.T @ gradient, rates[1] * gradient @ first.T
        first, last, steps = first - of_first, last - of_last, steps + 1
        length += _norms(of_first, of_last)


def kernel_regime(width: int, inputs: int, name: str) -> Path:
    """The same if the NTK keeps its mean initial value; for n, d >> 1, without factors that do not depend on n.

    The product of the layers moves at the rate times κ = κ_first + κ_last, the layers' contributions to the NTK: the
    mean square of the other layer's weights, summed over the width n. So steps ~ 1/κ, distances (and paths, straight) ~
    sqrt(κ_layer) / κ, mean steps ~ sqrt κ_layer. Standard: κ_first = 1 and κ_last = n/d, hence exponents in n of -1,
    (-1, -1/2) and (0, 1/2) for n >> d. NTK: both 1/d, and all exponents 0.
    """
    scaling = parameterization(name).scaling
    first, last = scaling(inputs, width, 1.0, "kernel"), scaling(width, 1, 1.0, "kernel")
    common = width * (first.forward * last.forward) ** 2
    rates = np.array([first.learning_rate, last.learning_rate])
    kappa = common * np.array([last.initial, first.initial]) ** 2
    speeds = rates * np.sqrt(kappa)
    steps = 1 / float(kappa @ rates)
    distance = steps * np.array([*speeds, np.hypot(*speeds)])
    return Path(steps, distance, distance)
