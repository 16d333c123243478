"""Probes: quantities measured inside every step, per group of layers, besides the metrics of the task.

A probe is two pure functions: numbers of a step, which are summed over the steps between two evaluations (in float32 on
the device, over evaluations in float64 on the host), and numbers of the parameters at an evaluation. It has no state:
a resumed run continues from the sums in its history, bit for bit. Both are mapped over members.

Columns are `<group>/<quantity>`: the groups that the network assigns to its layers, and `all`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from wsn.errors import choose
from wsn.networks.layers import Params

Groups = Mapping[str, str]  # layer → group
Numbers = dict[str, Float[Array, "..."]]


class Step(NamedTuple):
    """One update: `params` and `gradient` before it, and the parameters at the `start` of training."""

    params: Params
    updates: Params
    gradient: Params
    start: Params


class Probe(NamedTuple):
    """Functions of one group's parameters: `sums` are summed over the steps, `reads` are of an evaluation."""

    sums: Callable[[Step], Numbers]
    reads: Callable[[Params, Params], Numbers]  # (params, start)


def path_sums(step: Step) -> Numbers:
    """The optimization path ("Empirically Characterizing Overparameterization Impact on Convergence", 4.3).

    With s the update and W(0) the start: Σ‖s‖, Σ‖s‖², Σ‖gradient‖ and Σ⟨W(t) − W(0), s⟩, for which
    2·projection_start = distance² − squared_steps exactly. Σ cosine and Σ angle (radians) between W(t) − W(0) and the
    gradient are over the `angles` steps at which it is defined: W(t) ≠ W(0), and the gradient is not 0.
    """
    moved = optax.tree.sub(step.params, step.start)
    squared = optax.tree.norm(step.updates, squared=True)
    lengths = optax.tree.norm(moved) * optax.tree.norm(step.gradient)
    defined = lengths > 0
    cosine = optax.tree.vdot(moved, step.gradient) / jnp.where(defined, lengths, 1.0)
    return {
        "path_length": jnp.sqrt(squared),
        "squared_steps": squared,
        "gradient": optax.tree.norm(step.gradient),
        "projection_start": optax.tree.vdot(moved, step.updates),
        "cosine_start": jnp.where(defined, cosine, 0.0),
        "angle_start": jnp.where(defined, jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 0.0),
        "angles": defined.astype(jnp.float32),
    }


def path_reads(params: Params, start: Params) -> Numbers:
    """‖W(t) − W(0)‖."""
    return {"distance": optax.tree.norm(optax.tree.sub(params, start))}


def norm_reads(params: Params, start: Params) -> Numbers:
    """‖W(t)‖, which weight decay shrinks."""
    return {"norm": optax.tree.norm(params)}


PROBES: dict[str, Probe] = {
    "path": Probe(path_sums, path_reads),
    "norm": Probe(lambda step: {}, norm_reads),
}


def split_groups(params: Params, groups: Groups) -> dict[str, dict[str, Array]]:
    """Group → its parameters by path. Parameters of no layer (normalization) are in `all` only."""
    parts: dict[str, dict[str, Array]] = {group: {} for group in (*dict.fromkeys(groups.values()), "all")}
    for path, leaf in flatten_dict(params, sep="/").items():
        for group in {groups.get(path.rpartition("/")[0], "all"), "all"}:
            parts[group][path] = leaf
    return parts


def over_groups(functions: Iterable[Callable[..., Numbers]], groups: Groups, *trees: Params) -> Numbers:
    """The numbers of functions of trees, group by group."""
    parts = [split_groups(tree, groups) for tree in trees]
    return {
        f"{group}/{name}": value
        for group in parts[0]
        for function in functions
        for name, value in function(*(tree[group] for tree in parts)).items()
    }


def measured(
    names: Iterable[str], groups: Groups
) -> tuple[Callable[[Step], Numbers], Callable[..., Numbers]]:
    """Functions of all probes in `names`: sums of a step, and reads of (params, start).

    Raises UserError for an unknown probe.
    """
    probes = [choose(PROBES, "probes", name) for name in names]
    if not probes:
        return (lambda step: {}), (lambda params, start: {})
    sums = [lambda *trees, probe=probe: probe.sums(Step(*trees)) for probe in probes]
    reads = [probe.reads for probe in probes]
    return (lambda step: over_groups(sums, groups, *step)), partial(over_groups, reads, groups)
