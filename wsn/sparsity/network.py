"""Masks for anyone's network: parameters, a budget and a key → a mask, and the sparse network's initial parameters.

`params` is any tree of arrays (Flax's linen or nnx, or your own), or of anything that has their shapes. A mask is a
tree of the same structure. A leaf that counts as weights has a boolean array of its shape there, True where a weight is
kept, any other leaf a single True: so the mask alone says how many weights there are.

Leaves are named by their path, keys joined by '/', as in `hidden_0/kernel`; those of nnx have the names that linen
would give them. The draw of a leaf depends on (key, path, shape, kept count) alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray, PyTree

from wsn.errors import UserError, check_known, real_number, whole_number
from wsn.sparsity import patterns
from wsn.sparsity.axes import Axes, AxesOf, View, known_axes, view
from wsn.sparsity.budget import BY_SIZE, DISTRIBUTIONS, kept_counts
from wsn.sparsity.masks import by_path, check_scalar, mask_array, placed
from wsn.sparsity.shapes import weights

STATE = ("batch_stats/", "cache/", "intermediates/")  # collections of linen's variables beside "params/"

Predicate = Callable[[str, Any], bool]  # (path, leaf) → whether the leaf counts as weights


def is_kernel(path: str, leaf: Any) -> bool:
    """Real numbers in two or more dimensions, and by Flax's names no bias (attention has some of two), scale or
    embedding, and no state among whole variables."""
    name = path.rpartition("/")[2]
    # Tables of positions are integers.
    numbers = jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jnp.inexact)
    named = name in ("bias", "scale") or "embedding" in name or path.startswith(STATE)
    return len(leaf.shape) >= 2 and numbers and not named


def random_mask(
    params: PyTree,
    *,
    key: PRNGKeyArray,
    total: SupportsIndex | SupportsFloat | None = None,
    connectivity: SupportsFloat | None = None,
    like: PyTree | None = None,
    distribution: str = "largest_first",
    pattern: str = "elementwise",
    counted: Predicate = is_kernel,
    last: str | None = None,
    axes: AxesOf | None = None,
) -> PyTree[Bool[np.ndarray, "..."]]:
    """A mask of the structure of `params`, drawn at random within each leaf.

    The budget is one of `total` weights, a share `connectivity` in (0, 1] of those that `params` have, or as many
    as `like` has, the parameters of a narrower network. `counted` chooses the leaves that hold weights, in both. The
    `distribution` gets them in the order of the tree, which for dictionaries is that of their sorted keys: name by its
    path the one that is `last` in the network if the distribution treats it differently. A pattern may leave a few
    weights of the budget over (`patterns.rounded`).

    `axes` says which dimensions are inputs and outputs: `linen_axes(module, rngs, x)`, `nnx_axes(model)`, or a function
    (path, leaf) → roles such as `ttio`. Each of stacked layers is a layer of its own. Without it, three and more
    dimensions are known for attention and for convolutions (square windows, or layers named `conv`); stacked layers
    are then one layer.

    `params` and `like` may be shapes, as of `jax.eval_shape`. The draw is made on the host: inside `jit` the key must
    be a constant. Raises UserError for a budget that cannot be met, for unknown names, for leaves that cannot count,
    and for kernels of unknown axes where they matter.
    """
    check_known(DISTRIBUTIONS, "distribution", distribution)
    check_known(patterns.PATTERNS, "pattern", pattern)
    if isinstance(key, jax.core.Tracer):
        raise UserError("`key`: masks are drawn on the host, so call random_mask outside of jit and vmap")
    leaves = by_path(params)
    if axes:
        _check_axes(axes, leaves)
    if counted is is_kernel and axes:
        counted = _kernels_by(axes)
    counting = _counted(leaves, counted, last)
    matter = distribution not in BY_SIZE or pattern != "elementwise"
    views = {path: _view(leaves, path, axes, matter) for path in counting}
    layers = {path: _layers(path, views[path].layers) for path in counting}
    shapes = {name: views[path].shape for path in counting for name in layers[path]}
    budget = _budget(weights(shapes), total, connectivity, like, counted)
    try:
        stack = layers[list(counting)[-1]]
        whole = stack if distribution == "dense_last" and len(stack) > 1 else ()
        kept = patterns.rounded(pattern, kept_counts(distribution, shapes, budget, whole), shapes)
    except UserError as error:
        raise UserError(f"`distribution={distribution}`, `pattern={pattern}`: {error}") from None
    with jax.ensure_compile_time_eval():
        positions = patterns.draw(key, shapes, kept, pattern)
    kernels = {name: mask_array(at, shapes[name]) for name, at in positions.items()}
    mask = {path: np.ones((), np.bool_) for path in leaves}
    for path in counting:
        drawn = [kernels.get(name, np.ones(shapes[name], np.bool_)) for name in layers[path]]
        mask[path] = views[path].restore(np.stack(drawn), counting[path])
        assert mask[path].sum() == sum(kept[name] for name in layers[path])
    return jax.tree.unflatten(jax.tree.structure(params), mask.values())


def _kernels_by(axes: AxesOf) -> Predicate:
    """`is_kernel`, but for vectors of stacked layers, which have two dimensions."""

    def predicate(path: str, leaf: Any) -> bool:
        said = axes(path, leaf)
        roles = said.roles if isinstance(said, Axes) else said or "io"
        return is_kernel(path, leaf) and len(roles.replace("l", "")) > 1

    return predicate


def _check_axes(axes: AxesOf, leaves: Mapping[str, Any]) -> None:
    if all(axes(path, leaf) is None for path, leaf in leaves.items() if hasattr(leaf, "shape")):
        raise UserError(
            f"`axes` knows none of {', '.join(leaves)}: give it of the same tree as `params`, or leave it out"
        )


def num_kept(mask: PyTree) -> dict[str, int]:
    """Path → number of kept weights, of every leaf that counts; their sum is that of the network."""
    return {path: int(np.sum(leaf)) for path, leaf in by_path(mask).items() if np.ndim(leaf)}


def mask_and_rescale(params: PyTree, mask: PyTree, axes: AxesOf | None = None) -> PyTree[Array]:
    """Initial parameters of the sparse network: removed weights 0, kept ones times (connectivity of their leaf)^-1/2.

    So weights that were initialized by their fan-in are initialized by their effective fan-in, fan-in × connectivity.
    With `axes` (as of `random_mask`) the connectivity is that of each of stacked layers. Leaves that lose nothing stay
    the same. Raises UserError where `mask` does not fit the parameters.
    """
    leaves, masks = by_path(params), by_path(aligned(mask, params))
    if axes:
        _check_axes(axes, leaves)
    rescaled = [
        _rescaled(path, masks[path], _array(path, leaf), axes and axes(path, leaf))
        for path, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(params), rescaled)


def aligned(mask: PyTree, params: PyTree) -> PyTree:
    """`mask` in the structure of `params`, which may lack some of its leaves or hold them in nnx's variables."""
    masks, leaves = by_path(mask), by_path(params)
    for path, leaf in leaves.items():
        if path not in masks:
            raise UserError(f"`mask` has no {path}, only {', '.join(masks)}")
        check_scalar(path, masks[path])
        if np.ndim(masks[path]) and np.shape(masks[path]) != leaf.shape:
            raise UserError(
                f"`mask`: {path} has shape {np.shape(masks[path])} there, and {leaf.shape} in `params`"
            )
    return jax.tree.unflatten(jax.tree.structure(params), [masks[path] for path in leaves])


def _array(path: str, leaf: Any) -> Array:
    try:
        return jnp.asarray(leaf)
    except TypeError as error:
        raise UserError(f"`params`: {path} is no array of numbers: leave it out") from error


def _rescaled(path: str, mask: ArrayLike, param: Array, axes: Any) -> Array:
    mask = placed(mask, param)
    if not mask.ndim:
        return param
    if not jnp.issubdtype(param.dtype, jnp.inexact):
        raise UserError(f"`params`: {path} has type {param.dtype}, which cannot be rescaled: do not count it")
    roles = getattr(axes, "roles", axes) or ""
    within = tuple(d for d in range(mask.ndim) if roles[d : d + 1] != "l")
    kept = mask.sum(within, keepdims=True) if "l" in roles else mask.sum()
    scale = jnp.sqrt(mask.size // kept.size / kept).astype(param.dtype)
    return jnp.where(mask, scale * param, 0)


def _counted(leaves: Mapping[str, Any], counted: Predicate, last: str | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves that count, `last` at the end."""
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items() if hasattr(leaf, "shape")}
    shapes = {path: shape for path, shape in shapes.items() if counted(path, leaves[path])}
    if not shapes:
        raise UserError(f"`counted`: no leaf counts as weights, of {', '.join(leaves) or 'none'}")
    for path, shape in shapes.items():
        if not shape or 0 in shape:
            raise UserError(f"`counted`: {path} has shape {shape}, which holds no weights; leave it out")
    if last is not None:
        if last not in shapes:
            raise UserError(f"`last={last}` is no leaf that counts: choose one of {', '.join(shapes)}")
        shapes[last] = shapes.pop(last)
    return shapes


def _view(leaves: Mapping[str, Any], path: str, axes: AxesOf | None, matter: bool) -> View:
    shape = tuple(leaves[path].shape)
    known = known_axes(axes, leaves, path)
    if known is None:
        if matter:
            raise UserError(
                f"`axes`: {path} has shape {shape}: say which dimensions are inputs (i), outputs (o), taps (t) or"
                " layers (l), by linen_axes(module, rngs, x), nnx_axes(model) or a function (path, leaf) → 'tio'"
            )
        return View(1, shape, tuple(range(len(shape))))
    return view(path, shape, known)


def _layers(path: str, layers: int) -> list[str]:
    return [path] if layers == 1 else [f"{path}[{layer}]" for layer in range(layers)]


def _budget(
    size: int,
    total: SupportsIndex | SupportsFloat | None,
    connectivity: SupportsFloat | None,
    like: PyTree | None,
    counted: Predicate,
) -> int:
    """The number of weights to keep, of `size`."""
    budgets = {"total": total, "connectivity": connectivity, "like": like}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) != 1:
        chosen = " and ".join(given) or "none"
        raise UserError(f"give one budget, `total`, `connectivity` or `like`: here {chosen}")
    if like is not None:
        return weights(_counted(by_path(like), counted, None))
    if total is not None:
        return whole_number("total", total)
    share = real_number("connectivity", connectivity)
    if not 0 < share <= 1:
        raise UserError(f"`connectivity={share:g}` is outside (0, 1]")
    return round(share * size)
