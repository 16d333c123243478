"""How a network trains on this device: together or one after another, sparse or masked. Rules from measurements."""

import math
from collections.abc import Mapping

import jax

from wsn import devices
from wsn.errors import check_known
from wsn.native import library
from wsn.networks.layers import Model
from wsn.networks.models import has_convolutions
from wsn.networks.sequence.tokens import EMBEDDING
from wsn.sparsity.storage import has_storage
from wsn.spec import Group

# Networks with more weights run one after another. MLPs on a CPU: weights, masked copy and gradient of one fill the
# cache, those of ten wait for memory (2 cores, ten seeds, batch 256, step per network: 504,190 weights 6.2 ms together
# and 4.1 ms one after another; 171,504 weights 1.4 ms and 2.0 ms). Convolutions on any device: several networks become
# a grouped convolution, which pays only if the device would be idle.
LARGEST_TOGETHER = 300_000
# So do wider networks, whose activations are most of their memory and should exist only once.
WIDEST_TOGETHER = 2**15
# Several devices train whole networks, which needs no communication; they share the batch only of a network of this
# size that trains alone and uses its weights at many places of an example. By the compiler's estimates for a TPU v5e, a
# step of an MLP of width 635 (batch 256) takes 0.034 ms, and on a quarter of the batch 0.038 ms, without its all-reduce
# of 2 MB. A recurrent highway network of 13 million weights (batch 128, 150 characters) takes 65 ms, on a quarter of
# the batch 25 ms and one all-reduce of 52 MB, about 0.5 ms. A ResNet-18 of width 64 (batch 128) takes 4.8 ms, on an
# eighth of the batch 0.6 ms and 36 all-reduces with 45 MB, about 1 ms (of width 8: 0.6 ms, and most of 1 ms): three of
# them would be slower one after another than side by side.
SMALLEST_CUT = 1_000_000
# How layers that lose weights run: masked (dense products), sparse (kept weights only), or the faster one here.
EXECUTIONS = ("auto", "masked", "sparse")
# Connectivity up to which native sparse products are faster on a CPU (one core, ten MLPs): a step of Figure 8 takes 0.9
# of a masked one at 33 % and 0.8 at 24 % (batch 256), but 1.15 at 24 % and 0.7 at 12 % (batch 32).
# Dense layers with few outputs beside them run natively as well, which saves a change of layout.
LARGEST_CONNECTIVITY = 0.25
MOST_OUTPUTS = 16
# Native convolutions are faster even if they keep everything (ResNet-18, batch 128, one core: 0.4 of XLA's step at
# width 8, 0.5 at 18, 0.7 at 64). With more weights, their index of 24 bytes per weight would take seconds to make.
MOST_LISTED = 4_000_000


def goes_step_by_step(model: Model) -> bool:
    """Whether Python loops over the steps: on a CPU, XLA does not thread the convolutions inside loops."""
    return devices.platform() == "cpu" and has_convolutions(model)


def trains_together(model: Model, width: int, weights: int) -> bool:
    """Whether the networks of a group share each step. `weights`: those that the largest of them multiplies with.

    Recurrent networks do not on a CPU: their products are small and many, and several at once only fill the cache (one
    core, six seeds, CPU time of a step and network, together and one after another: highway network at width 64 2.7 ms
    and 1.8 ms, LSTM of two layers 5.4 ms and 4.3 ms).
    """
    cpu = devices.platform() == "cpu"
    if width > WIDEST_TOGETHER or (model.steps_through_time and cpu):
        return False
    return weights < LARGEST_TOGETHER or (not cpu and not has_convolutions(model))


def cuts_batch(group: Group, model: Model, weights: int) -> bool:
    """Whether several devices share each batch of a group; else each trains whole networks, without communication."""
    reused = has_convolutions(model) or model.steps_through_time or model.tokens is not None
    return len(group.members) == 1 and reused and weights >= SMALLEST_CUT


def multiplied_weights(group: Group, model: Model, sparse: tuple[str, ...]) -> int:
    """How many weights the largest network of a group multiplies with: masked layers count removed ones too."""

    def count(kept: Mapping[str, int], layer: str) -> int:
        size = math.prod(model.shapes[layer])
        return kept.get(layer, size) if layer in sparse else size

    return max(sum(count(dict(spec.kept), layer) for layer in model.shapes) for spec in group.specs)


def sparse_layers(group: Group, model: Model, execution: str) -> tuple[str, ...]:
    """The layers of a group that run sparse: with "sparse" all that lose weights, with "auto" if it is faster here.

    Never an embedding, which reads single rows, nor a convolution that is not square. Raises UserError for an unknown
    `execution`.
    """
    check_known(EXECUTIONS, "execution", execution)
    kept = [dict(spec.kept) for spec in group.specs]
    connectivity = {
        layer: max(counts.get(layer, math.prod(shape)) for counts in kept) / math.prod(shape)
        for layer, shape in model.shapes.items()
        if layer != EMBEDDING and has_storage(shape)
    }
    if execution == "sparse":
        lose = {layer for counts in kept for layer, n in counts.items() if n < math.prod(model.shapes[layer])}
        return tuple(layer for layer in connectivity if layer in lose)
    # Several processes could not agree on whether there is a compiler.
    native = devices.platform() == "cpu" and jax.process_count() == 1
    if execution == "masked" or not native or group.specs[0].compute_dtype != "float32":
        return ()
    faster = faster_sparse(model, connectivity)
    return faster if faster and library.available() else ()


def faster_sparse(model: Model, connectivity: Mapping[str, float]) -> tuple[str, ...]:
    """The layers that are faster as native ops. Convolutions go together, so that images keep one layout."""
    shapes = {layer: model.shapes[layer] for layer in connectivity}
    convolutions = {layer for layer, shape in shapes.items() if len(shape) > 2}
    faster = {layer for layer in shapes.keys() - convolutions if connectivity[layer] <= LARGEST_CONNECTIVITY}
    if sum(connectivity[layer] * math.prod(shapes[layer]) for layer in convolutions) <= MOST_LISTED:
        faster |= convolutions
    if faster:
        faster |= {layer for layer, shape in shapes.items() if len(shape) == 2 and shape[1] <= MOST_OUTPUTS}
    return tuple(layer for layer in shapes if layer in faster)
