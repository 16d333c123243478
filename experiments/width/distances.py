"""Figure 8b: distance D to the infinite-width kernel at initialization.

D of networks with one hidden layer in the NTK parameterization, in three ways: measured on the initial weights of
their training, exact by Theorem 1, and by equation (4). Nothing is stored: it is cheap enough to repeat.
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

from experiments.lab import output
from experiments.theory.inputs import Pairs, exact_kernels
from kernels.approximations import eq4
from kernels.closed_forms import arc_cosine
from kernels.empirical import gp_kernel, sparse_weights
from kernels.optimum import at_fixed_budget, budget_connectivity, minimum
from kernels.theorem1 import squared_distance
from wsn.networks import models
from wsn.spec import Group, Spec
from wsn.training import state

COLUMNS = ["distance_empirical", "distance_empirical_stderr", "distance_exact", "distance_eq4"]
REFERENCE_WIDTH = 10_000  # Appendix A
DRAWN = 2**23  # weights in memory at once
TOLERANCE = 1e-4  # estimated scaled error of K_l, far below the error of simulation
LEAST_PAIRS = 500  # for the search of the optimum


class Distance(NamedTuple):
    """D of one network, mean over pairs, in units of Theta^2."""

    empirical: dict[str, Float64[np.ndarray, " networks"]]  # by reference, one network per seed
    exact: float
    eq4: float


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
    """Initial first-layer weights of training, masks applied, seed by seed."""
    model = _model(dataclasses.replace(spec, kept=(), learning_rate=1.0), features, classes)
    seeds = tuple(seeds)
    count = max(1, DRAWN // (spec.width * features))
    for i in range(0, len(seeds), count):  # every call compiles a little
        members = state.initial_members(Group((spec,), seeds[i : i + count]), model, optax.identity())
        yield from (kernel.T for kernel in members.state.params["hidden_0"]["kernel"])


def references(pairs: Pairs) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Theta of each pair: `exact` of infinite width, `finite` of one dense network of width 10^4."""
    features = pairs.x.shape[1]
    wide = sparse_weights(jax.random.fold_in(jax.random.key(0), 0), jnp.float32(1), REFERENCE_WIDTH, features)
    return {
        "exact": arc_cosine(pairs.x, pairs.y, 1) / features,
        "finite": np.asarray(gp_kernel(wide, pairs.x, pairs.y), np.float64),
    }


def empirical(
    networks: Iterable[Float[np.ndarray, "width features"]],
    pairs: Pairs,
    theta: Mapping[str, Float64[np.ndarray, " pairs"]],
) -> dict[str, Float64[np.ndarray, " networks"]]:
    """Mean over pairs of (Theta_network - Theta_reference)^2 of each network, by reference.

    One network is in memory at a time. All hidden units count: no mask is applied to the gradient with respect to v.
    """
    x, y = jnp.asarray(pairs.x), jnp.asarray(pairs.y)
    kernels = (np.asarray(gp_kernel(jnp.asarray(u), x, y), np.float64) for u in networks)
    squares = [[np.mean((kernel - theta[name]) ** 2) for name in theta] for kernel in kernels]
    return dict(zip(theta, np.array(squares).T, strict=True))


def exact(specs: Sequence[Spec], pairs: Pairs) -> Float64[np.ndarray, " specs"]:
    """Mean over pairs of D by Theorem 1, with Bernoulli masks of each spec's first-layer connectivity."""
    features = pairs.x.shape[1]
    p, place = np.unique([connectivity(spec, features) for spec in specs], return_inverse=True)
    # Networks of one connectivity differ in width alone, which divides the variance.
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
    """D of every spec against each reference in `theta`, over the networks of seeds 0, 1, …

    The distribution of D over networks is so skewed (at width 635 of Figure 8 the mean is twenty times the median) that
    the paper's 10 networks are too few: more are drawn than are trained.
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
    """Columns of the table; the standard error is over networks, at least two, since pairs share a network."""
    values = distance.empirical[reference]
    stderr = values.std(ddof=1) / np.sqrt(len(values))
    return dict(zip(COLUMNS, map(float, (values.mean(), stderr, distance.exact, distance.eq4)), strict=True))


def compared(
    measured: Iterable[Distance], pairs: Pairs, theta: Mapping[str, Float64[np.ndarray, " pairs"]]
) -> str:
    """The effect of the finite reference, in a line."""
    gap = np.mean((theta["finite"] - theta["exact"]) ** 2)
    k1, k2 = (arc_cosine(pairs.x, pairs.y, order) / pairs.x.shape[1] ** order for order in (1, 2))
    expected = np.mean(k2 - k1**2) / REFERENCE_WIDTH
    change = [d.empirical["finite"].mean() / d.empirical["exact"].mean() - 1 for d in measured]
    return (
        f"Reference: a dense network of width {REFERENCE_WIDTH} has a mean squared distance of {gap:.2g} to the"
        f" infinitely wide one (Theorem 1: {expected:.2g});\nwith it D changes by"
        f" {100 * min(change):+.2g} % to {100 * max(change):+.2g} %."
    )


def least(pairs: Pairs, base_width: int, classes: int) -> str:
    """The width of least exact D at the budget of the base network, last layer dense, in a line."""
    first = Pairs(*(values[:LEAST_PAIRS] for values in pairs))
    features = first.x.shape[1]
    budget = base_width * (features + classes)
    widths = np.geomspace(base_width, budget / classes - 1, 25)
    curve = at_fixed_budget(first.x, first.y, widths, classes, budget, TOLERANCE).distance.mean(axis=0)
    best = minimum(widths, curve)
    if np.isnan(best.at):
        end = widths[np.argmin(curve)]
        return f"At this budget exact D has no minimum inside: it is least at width {end:.0f}, an end."
    p = float(budget_connectivity(best.at, features, classes, budget))
    approximate = eq4(budget_connectivity(widths, features, classes, budget), widths, features)
    return (
        f"At this budget exact D is least at width {best.at:.0f}, connectivity {100 * p:.3g} % of the first layer"
        f" (over {len(first.x)} pairs); equation (4) is least at {widths[np.argmin(approximate)]:.0f}."
    )
