"""Probes: what is measured inside every step, per group of layers, beside what the task measures.

A probe is two pure functions: numbers of one step, which are summed over the steps between two evaluations (in
float32 on the device, over evaluations in float64 on the host), and numbers of the parameters at an evaluation. So it
has no state of its own: a resumed run goes on from the sums in its history, bit for bit. Both are mapped over members.

Columns are `<group>/<quantity>`; the groups are those that the network gives its layers, and `all`.
"""

from collections.abc import Callable, Iterable, Mapping
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
    """One update: `params` and `gradient` before it, `start` the parameters that training started from."""

    params: Params
    updates: Params
    gradient: Params
    start: Params


class Probe(NamedTuple):
    """Numbers of a part of the parameters; `sums` are added up over the steps, `reads` are of the moment."""

    sums: Callable[[Step], Numbers]
    reads: Callable[[Params, Params], Numbers]  # (params, start)


def path_sums(step: Step) -> Numbers:
    """The way through weight space ("Empirically Characterizing Overparameterization Impact on Convergence", 4.3).

    With s the update and W(0) the start: Σ‖s‖, Σ‖s‖², Σ‖gradient‖ and Σ⟨W(t) − W(0), s⟩, for which
    2·projection_start = distance² − squared_steps exactly. Σ cosine and Σ angle (radians) between W(t) − W(0) and the
    gradient are over the `angles` steps at which there is one: not at the start, nor where the gradient is 0.
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


def parts(params: Params, groups: Groups) -> dict[str, dict[str, Array]]:
    """The parameters of every group by path, and of all; those of no layer (normalisation) are in `all` alone."""
    leaves = flatten_dict(params, sep="/")
    found: dict[str, dict[str, Array]] = {group: {} for group in (*dict.fromkeys(groups.values()), "all")}
    for path, leaf in leaves.items():
        layer = path.rpartition("/")[0]
        if layer in groups:
            found[groups[layer]][path] = leaf
        found["all"][path] = leaf
    return found


def over_groups(function: Callable[..., Numbers], groups: Groups, *trees: Params) -> Numbers:
    """The numbers of a function of trees, part by part."""
    cut = [parts(tree, groups) for tree in trees]
    return {
        f"{group}/{name}": value
        for group in cut[0]
        for name, value in function(*(tree[group] for tree in cut)).items()
    }


def measured(
    names: Iterable[str], groups: Groups
) -> tuple[Callable[[Step], Numbers], Callable[..., Numbers]]:
    """The sums of a step and the reads of (params, start) of those probes. Raises UserError for an unknown one."""
    probes = [choose(PROBES, "probes", name) for name in names]

    def sums_of_part(*trees: Params) -> Numbers:
        return {name: x for probe in probes for name, x in probe.sums(Step(*trees)).items()}

    def reads_of_part(*trees: Params) -> Numbers:
        return {name: x for probe in probes for name, x in probe.reads(*trees).items()}

    def sums(step: Step) -> Numbers:
        return over_groups(sums_of_part, groups, *step) if probes else {}

    def reads(params: Params, start: Params) -> Numbers:
        return over_groups(reads_of_part, groups, params, start) if probes else {}

    return sums, reads
