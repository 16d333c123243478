"""Distance from the infinitely wide network at initialisation, and its correlation with the test error: Figure 8b.

In: specs of networks with one hidden layer in the NTK parameterisation, pairs of inputs, how many seeds; nothing of
their training. Out: D of every network three ways: measured on the very weights that its training starts from,
exact by Theorem 1, and by equation (4).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float32, Float64
from scipy.stats import norm, rankdata

from experiments.lab import output
from experiments.theory.inputs import Pairs, exact_kernels
from kernels.approximations import eq4
from kernels.closed_forms import arc_cosine
from kernels.empirical import gp_kernel, sampled_networks
from kernels.optimum import at_fixed_budget, budget_connectivity, minimum
from kernels.theorem1 import squared_distance
from wsn.networks import models
from wsn.spec import Group, Spec
from wsn.training import state

COLUMNS = ["distance_empirical", "distance_empirical_stderr", "distance_exact", "distance_eq4"]
REFERENCE_WIDTH = 10_000  # Appendix A
TOLERANCE = 1e-4  # estimated scaled error of K_l: far below what simulation can tell
RESAMPLES = 10_000
LEAST_PAIRS = 500  # that the optimum is looked for on


class Distance(NamedTuple):
    """D of one network, in units of Theta^2, as a mean over the pairs."""

    empirical: dict[str, Float64[np.ndarray, " networks"]]  # by reference: the network of each seed
    exact: float
    eq4: float


class Correlation(NamedTuple):
    """A coefficient with its 95 % interval by the bootstrap."""

    value: float
    low: float
    high: float


def connectivity(spec: Spec, features: int) -> float:
    """Kept weights of the first layer over all its weights: p of Theorem 1."""
    return dict(spec.kept)["hidden_0"] / (features * spec.width) if spec.kept else 1.0


@cache
def _model(dense: Spec, features: int, classes: int) -> models.Model:
    """One model, and so one compilation, for the dense and the sparse network of a width."""
    return models.build(dense, (features,), classes)


def first_layers(
    spec: Spec, features: int, classes: int, seeds: Iterable[int]
) -> Iterator[Float32[np.ndarray, "width features"]]:
    """The first-layer weights, masks applied, that training starts from, of one seed after the other."""
    model = _model(dataclasses.replace(spec, kept=(), learning_rate=1.0), features, classes)
    for seed in seeds:
        members = state.initial_members(Group((spec,), (seed,)), model, optax.identity())
        yield members.state.params["hidden_0"]["kernel"][0].T


def references(pairs: Pairs) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Theta of each pair in the infinitely wide network, `exact`, and in one dense network of width 10^4, `finite`."""
    features = pairs.x.shape[1]
    (wide,) = sampled_networks(jax.random.key(0), 1.0, REFERENCE_WIDTH, features, 1)
    return {
        "exact": arc_cosine(pairs.x, pairs.y, 1) / features,
        "finite": np.asarray(gp_kernel(wide, pairs.x, pairs.y), np.float64),
    }


def empirical(
    networks: Iterable[Float[np.ndarray, "width features"]],
    pairs: Pairs,
    theta: Mapping[str, Float64[np.ndarray, " pairs"]],
) -> dict[str, Float64[np.ndarray, " networks"]]:
    """Mean over pairs of (Theta_network - Theta_reference)^2 of each network, by reference; one network in memory.

    All hidden units count: a mask on v is not applied to the gradient with respect to v.
    """
    x, y = jnp.asarray(pairs.x), jnp.asarray(pairs.y)
    kernels = (np.asarray(gp_kernel(jnp.asarray(u), x, y), np.float64) for u in networks)
    squares = [[np.mean((kernel - theta[name]) ** 2) for name in theta] for kernel in kernels]
    return dict(zip(theta, np.array(squares).T, strict=True))


def exact(specs: Sequence[Spec], pairs: Pairs) -> Float64[np.ndarray, " specs"]:
    """Mean over pairs of D by Theorem 1, equation (1): Bernoulli masks of each spec's first-layer connectivity."""
    features = pairs.x.shape[1]
    p, place = np.unique([connectivity(spec, features) for spec in specs], return_inverse=True)
    # Dense and sparse networks of one connectivity differ in the width alone, which divides the variance.
    distance = squared_distance(exact_kernels(pairs, p, TOLERANCE, "distances"), 1)
    bias2, variance = (values.mean(axis=0) for values in (distance.bias2, distance.variance))
    widths = np.array([spec.width for spec in specs])
    return bias2[place] + variance[place] / widths


def measure(
    specs: Iterable[Spec],
    pairs: Pairs,
    classes: int,
    initialisations: int,
    theta: Mapping[str, Float64[np.ndarray, " pairs"]],
) -> dict[Spec, Distance]:
    """D of every spec, against each of the references `theta`, on the networks of seed 0, 1, …

    Over networks D is so skewed (narrow ones by their few units, wide ones by their few weights: at width 635 of
    Figure 8 the mean is twenty times the median) that the paper's 10 say little; hence more than are trained.
    """
    specs = list(dict.fromkeys(specs))
    features = pairs.x.shape[1]
    measured = []
    with output.progress(len(specs), "empirical distances") as bar:
        for spec in specs:
            networks = first_layers(spec, features, classes, range(initialisations))
            measured.append(empirical(networks, pairs, theta))
            bar.update(1)
    approximate = (float(eq4(connectivity(spec, features), spec.width, features)) for spec in specs)
    theorem = map(float, exact(specs, pairs))
    return dict(zip(specs, map(Distance, measured, theorem, approximate), strict=True))


def columns(distance: Distance, reference: str) -> dict[str, float]:
    """The columns of a table; the standard error is over networks, of at least two, since pairs share one."""
    values = distance.empirical[reference]
    stderr = values.std(ddof=1) / np.sqrt(len(values))
    return dict(zip(COLUMNS, map(float, (values.mean(), stderr, distance.exact, distance.eq4)), strict=True))


def compared(
    measured: Mapping[Spec, Distance], pairs: Pairs, theta: Mapping[str, Float64[np.ndarray, " pairs"]]
) -> str:
    """What the finite reference would change, in a line."""
    gap = np.mean((theta["finite"] - theta["exact"]) ** 2)
    k1, k2 = (arc_cosine(pairs.x, pairs.y, order) / pairs.x.shape[1] ** order for order in (1, 2))
    expected = np.mean(k2 - k1**2) / REFERENCE_WIDTH
    change = [d.empirical["finite"].mean() / d.empirical["exact"].mean() - 1 for d in measured.values()]
    return (
        f"Reference: a dense network of width {REFERENCE_WIDTH} has a mean squared distance of {gap:.2g} to the"
        f" infinitely wide one (Theorem 1: {expected:.2g});\nin its place it changes D by"
        f" {100 * min(change):+.2g} % to {100 * max(change):+.2g} %."
    )


def least(pairs: Pairs, base_width: int, classes: int) -> str:
    """Where exact D is least at the budget of the base network, its last layer dense, in a line: Figure 8's optimum."""
    some = Pairs(*(values[:LEAST_PAIRS] for values in pairs))
    features = some.x.shape[1]
    budget = base_width * (features + classes)
    widths = np.geomspace(base_width, budget / classes - 1, 25)
    curve = at_fixed_budget(some.x, some.y, widths, classes, budget, TOLERANCE).distance.mean(axis=0)
    found = minimum(widths, curve)
    if np.isnan(found.at):
        end = widths[np.argmin(curve)]
        return f"At this budget exact D has no minimum inside: it is least at width {end:.0f}, an end."
    p = float(budget_connectivity(found.at, features, classes, budget))
    return (
        f"At this budget exact D is least at width {found.at:.0f}, connectivity {100 * p:.3g} % of the first layer"
        f" (over {len(some.x)} pairs); equation (4) has its least at"
        f" {widths[np.argmin(eq4(budget_connectivity(widths, features, classes, budget), widths, features))]:.0f}."
    )


def correlation(
    distance: Float64[np.ndarray, "networks initialisations"],
    error: Float64[np.ndarray, "networks seeds"],
    ranked: bool = False,
) -> Correlation:
    """Correlation over networks of two means, of their values (Pearson) or ranks (Spearman); NaN where one is constant.

    A bootstrap sample draws initialisations and seeds with replacement, the same ones for every network.
    """
    rng = np.random.Generator(np.random.Philox(key=0))

    def centred(values: np.ndarray) -> np.ndarray:
        count = values.shape[1]
        drawn = rng.integers(count, size=(count, RESAMPLES))
        drawn[:, 0] = np.arange(count)  # first the data as they are
        shares = np.apply_along_axis(np.bincount, 0, drawn, minlength=count) / count
        means = values @ shares
        means = rankdata(means, axis=0) if ranked else means
        return means - means.mean(axis=0)

    a, b = centred(distance), centred(error)
    with np.errstate(invalid="ignore"):
        r = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return Correlation(float(r[0]), *map(float, np.quantile(r[1:], [0.025, 0.975])))


def fisher_interval(r: float, networks: int) -> tuple[float, float]:
    """95 % interval of Pearson's r by Fisher's z, as if the networks, at least 4, were independent draws."""
    half = norm.ppf(0.975) / np.sqrt(networks - 3)
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return float(low), float(high)
