"""Kernels by neural-tangents against ours: `python -m experiments.theorem1 --against=neural_tangents`.

Infinitely wide networks by its `stax`, and the networks of `wsn` themselves, masks by multiplication, by its empirical
kernels: to rounding against JAX's Jacobian, and over many networks with Bernoulli masks in standard errors against
Theorem 1 and the exact moments of the NTK (gamma = 1, as all layers have one rate).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import ArrayLike

from kernels import neural_tangents
from kernels.closed_forms import dense_kernels
from kernels.empirical import network_kernels, sparse_weights
from kernels.sparse_ntk import sparse_tangents, tangent_distance
from kernels.theorem1 import squared_distance
from wsn.networks import models
from wsn.sparsity.masks import apply_mask
from wsn.spec import Spec

COLUMNS = ["network", "quantity", "neural_tangents", "ours", "difference", "unit"]
ROUNDING, STANDARD_ERRORS = "relative", "standard errors"
LIMITS = {ROUNDING: 1e-4, STANDARD_ERRORS: 4.0}  # float32; the largest of about ten comparisons
FEATURES, OUTPUTS, PAIRS, WIDTH, CONNECTIVITY = 16, 3, 6, 12, 0.3
Row = dict[str, Any]
Apply = Callable[[Any, jax.Array], jax.Array]


def row(network: str, quantity: str, theirs: ArrayLike, ours: ArrayLike) -> Row:
    """A comparison to rounding: means over pairs, the largest difference over the largest value."""
    a, b = np.asarray(theirs, float), np.asarray(ours, float)
    difference = float(np.abs(a - b).max() / np.abs(b).max())
    return dict(zip(COLUMNS, (network, quantity, a.mean(), b.mean(), difference, ROUNDING), strict=True))


def infinite(x: np.ndarray, y: np.ndarray) -> Iterator[Row]:
    """Dense networks of one to three hidden layers, by stax."""
    stax = neural_tangents.load().stax
    for depth in (1, 2, 3):
        layers = [stax.Dense(1, W_std=1.0, b_std=0.0), stax.Relu()] * depth
        kernel = stax.serial(*layers, stax.Dense(1, W_std=1.0, b_std=0.0))[2]
        theirs = kernel(x, y, ("nngp", "ntk"))
        ours = dense_kernels(x, y, depth, gram=True)
        for name, value, expected in zip(("NNGP", "NTK"), theirs, ours, strict=True):
            yield row(f"infinite width, {depth} hidden", name, value, expected)


def model_of(**settings: Any) -> tuple[models.Model, dict[str, Any], Apply]:
    """A small network of `wsn`: model, initial parameters and function."""
    image = (8, 8, 3) if settings.get("model") == "resnet18" else (FEATURES, 1, 1)
    spec = Spec(dataset="digits", epochs=1, batch_size=1, learning_rate=1.0, **settings)
    model = models.build(spec, image, OUTPUTS)
    params, stats = model.init(jax.random.key(0))
    return model, params, lambda params, x: model.apply(params, stats, x)


def masked_half(params: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Bernoulli masks of every kernel but the last, which stays dense."""
    kernels = [path for path in flatten_dict(params, sep="/") if path.endswith("kernel")]
    leaves = flatten_dict(params, sep="/")
    return {path: rng.random(leaves[path].shape) < CONNECTIVITY for path in kernels[:-1]}


def by_jacobian(apply: Apply, params: Any, mask: Any, x: jax.Array, y: jax.Array) -> np.ndarray:
    """The NTK of each pair as a sum over the Jacobian."""

    def jacobian(z: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(jax.jacobian(lambda p: apply(apply_mask(p, mask), z[None])[0])(params))

    def pair(a: jax.Array, b: jax.Array) -> jax.Array:
        products = [jnp.vdot(m, n) for m, n in zip(jacobian(a), jacobian(b), strict=True)]
        return jnp.stack(products).sum() / OUTPUTS

    return np.array([pair(a, b) for a, b in zip(x, y, strict=True)])


def finite(x: jax.Array, y: jax.Array, rng: np.random.Generator) -> Iterator[Row]:
    """MLPs of one to three hidden layers and a ResNet-18 of `wsn`, masked."""
    mlps: list[dict[str, Any]] = [
        dict(width=WIDTH, hidden_layers=n, parameterization="ntk") for n in (1, 2, 3)
    ]
    for settings in [*mlps, dict(width=2, model="resnet18")]:
        _, params, apply = model_of(**settings)
        mask, resnet = masked_half(params, rng), "model" in settings
        readout = "linear/kernel" if resnet else "output/kernel"
        mask.pop(readout, None)
        a, b = (jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32) for _ in "xy") if resnet else (x, y)
        theirs = network_kernels(apply, params, mask, a, b, readout=readout)
        name = "ResNet-18, width 2" if resnet else f"width {WIDTH}, {settings['hidden_layers']} hidden"
        yield row(f"wsn, {name}, masked", "NTK", theirs.ntk, by_jacobian(apply, params, mask, a, b))


def sampled(x: jax.Array, y: jax.Array, networks: int, seed: int) -> Iterator[Row]:
    """Means and squared distances of many networks with one hidden layer against the exact theory."""
    model, _, apply = model_of(width=WIDTH, hidden_layers=1, parameterization="ntk")
    key, kernels = jax.random.key(seed), []
    for one in jax.random.split(key, networks):
        first, last = jax.random.split(one)
        u = sparse_weights(first, jnp.float32(CONNECTIVITY), WIDTH, FEATURES)
        v = jax.random.normal(last, (WIDTH, OUTPUTS))
        params = {"hidden_0": {"kernel": u.T}, "output": {"kernel": v}}
        mask = {"hidden_0/kernel": u.T != 0}
        kernels.append(network_kernels(apply, params, mask, x, y, readout="output/kernel"))
    a, b = (np.asarray(z).reshape(PAIRS, -1) for z in (x, y))
    tangents, dense = (sparse_tangents(a, b, p) for p in (CONNECTIVITY, 1.0))
    gp = tangents.gp
    ntk_mean, ntk_distance = tangent_distance(tangents, WIDTH, outputs=OUTPUTS, rate=1.0)
    exact = {  # mean, limit of infinite width, D
        "nngp": (gp.k1 / FEATURES, dense.gp.k1 / FEATURES, squared_distance(gp, WIDTH).total),
        "ntk": (ntk_mean, (dense.gp.k1 + dense.ck0) / FEATURES, ntk_distance.total),
    }
    for name, (mean, limit, distance) in exact.items():
        label = name.upper()
        theirs = np.array([getattr(kernel, name) for kernel in kernels], float)
        squared = (theirs - limit) ** 2
        for quantity, values, expected in (
            (f"mean of {label}", theirs, mean),
            (f"D of {label}", squared, distance),
        ):
            per_network = values.mean(axis=1)
            z = (per_network.mean() - expected.mean()) / per_network.std(ddof=1) * math.sqrt(networks)
            cells = (quantity, per_network.mean(), float(expected.mean()), float(z), STANDARD_ERRORS)
            yield dict(
                zip(COLUMNS, (f"wsn, width {WIDTH}, masked, {networks} networks", *cells), strict=True)
            )


def rows(networks: int, seed: int) -> Iterator[Row]:
    """All comparisons. Raises ImportError with one line where neural-tangents is missing."""
    neural_tangents.load()
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, PAIRS, FEATURES))
    yield from infinite(x, y)
    a, b = (jnp.asarray(z.reshape(PAIRS, FEATURES, 1, 1), jnp.float32) for z in (x, y))
    yield from finite(a, b, rng)
    yield from sampled(a, b, networks, seed)


def line(row: Row) -> str:
    """A comparison in words."""
    return f"{row['network']}, {row['quantity']}: difference {row['difference']:.2g} ({row['unit']})"


def agrees(row: Row) -> bool:
    return abs(row["difference"]) <= LIMITS[row["unit"]]
