"""The registry of networks: a spec → pure `init` and `apply`, and the shapes of its kernels.

`init` draws weights of unit scale; `scalings` gives the factors of the spec's parameterization. A network is a file
with `shapes`, `module`, `group` and `fields` (the fields of the spec that only it reads), and an entry in `MODELS`.
`bottleneck_layers` and `steps_through_time` are optional.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from types import ModuleType

import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from wsn.errors import UserError, choose
from wsn.networks import mlp, resnet
from wsn.networks.layers import Model, Params, functional
from wsn.networks.parameterization import Role, Scaling, Widening, parameterization
from wsn.networks.sequence import deepspeech, highway, lstm, tokens, transformer
from wsn.sparsity import bottleneck
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

TOKEN_MODELS: dict[str, ModuleType] = {
    "rhn": highway,
    "lstm": lstm,
    "transformer": transformer,
}  # read tokens
SPEECH_MODELS: dict[str, ModuleType] = {"deepspeech": deepspeech}  # read utterances
MODELS: dict[str, ModuleType] = {"mlp": mlp, "resnet18": resnet} | TOKEN_MODELS | SPEECH_MODELS


def reads(model: str) -> str:
    """What a network takes as inputs: text, utterances or images."""
    return "text" if model in TOKEN_MODELS else "utterances" if model in SPEECH_MODELS else "images"


def build(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Model:
    """The network of a spec. Raises UserError for an unknown one, and as `plain_shapes`."""
    layers = plain_shapes(spec, input_shape, classes)
    family = MODELS[spec.model]
    if spec.bottleneck != "none":
        _check_bottlenecks(spec, spec.bottleneck)
    shapes = bottleneck.transformed(layers, spec.bottleneck, dict(spec.inner))
    module, groups = family.module(spec, tuple(layers), shapes), groups_of(spec, shapes)
    if reads(spec.model) == "text":
        model = tokens.functional(module, shapes, groups)
    else:
        images = reads(spec.model) == "images"
        example = jnp.zeros((1, *input_shape)) if images else deepspeech.example(input_shape)
        model = functional(module, shapes, groups, example)
    return model._replace(
        steps_through_time=getattr(family, "steps_through_time", False),
        reference=reference_shapes(spec, input_shape, classes),
    )


def plain_shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """The kernels of the network without bottlenecks.

    `input_shape` is () for tokens, (frames, features) for utterances, (height, width, channels) for images. Raises
    UserError for an unknown model, and for one that cannot read such inputs.
    """
    family = choose(MODELS, "model", spec.model)
    kind = {0: "text", 2: "utterances"}.get(len(input_shape), "images")
    if reads(spec.model) != kind:
        names = ", ".join(name for name in MODELS if reads(name) == kind)
        raise UserError(
            f"`model={spec.model}`: `dataset={spec.dataset}` is {kind}: choose `model` from {names}"
        )
    return family.shapes(spec, input_shape, classes)


def reference_shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """The kernels of the dense network of `rate_width`, if it is set. Raises UserError with bottlenecks."""
    if not spec.rate_width:
        return {}
    if spec.bottleneck != "none":
        raise UserError(
            f"`rate_width={spec.rate_width}`: `bottleneck={spec.bottleneck}` has kernels that no dense network has;"
            " leave one of them out"
        )
    return plain_shapes(dataclasses.replace(spec, width=spec.rate_width), input_shape, classes)


def check_kept(specs: Iterable[Spec], shapes: Shapes) -> None:
    """Raises UserError for kept counts that are not of these kernels, such as those of another width."""
    sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
    for spec in specs:
        each_once = sorted(layer for layer, _ in spec.kept) == sorted(sizes)
        if spec.kept and not (each_once and all(1 <= count <= sizes[layer] for layer, count in spec.kept)):
            layers = ", ".join(f"{layer} ({size})" for layer, size in sizes.items())
            raise UserError(f"`kept`: give 1 to the size of each layer of width {spec.width} once: {layers}")


def groups_of(spec: Spec, layers: Iterable[str]) -> dict[str, str]:
    """The group of every layer, by which probes report and families choose what becomes sparse."""
    return {layer: MODELS[spec.model].group(layer) for layer in layers}


def bottleneck_layers(spec: Spec, layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows; no two of them are adjacent.

    Raises UserError if the network has too few layers, or no bottlenecks.
    """
    _check_bottlenecks(spec, "nonlinear")
    return MODELS[spec.model].bottleneck_layers(layers)


def _check_bottlenecks(spec: Spec, kind: str) -> None:
    if not hasattr(MODELS[spec.model], "bottleneck_layers"):
        raise UserError(f"`bottleneck={kind}`: `model={spec.model}` has no bottlenecks: leave it out")


def kernel_path(layer: str) -> str:
    """The parameter path of a layer's kernel."""
    return f"{layer}/kernel"


def has_convolutions(model: Model) -> bool:
    """Whether any layer is a convolution."""
    return any(len(shape) > 2 for shape in model.shapes.values())


def scalings(spec: Spec, model: Model, params: Params) -> dict[str, Scaling]:
    """The `Scaling` of every parameter by its path, with each layer's connectivity from the kept counts of the spec.

    A bias has the fan_in and fan_out of the kernel in its layer. Parameters of batch normalization start as
    initialized and have the learning rates of biases.
    """
    kept = dict(spec.kept)
    rule = parameterization(spec.parameterization).scaling
    output = tokens.SOFTMAX if spec.model in TOKEN_MODELS else next(reversed(model.shapes))
    by_path = {}
    for path, values in flatten_dict(params, sep="/").items():
        layer, _, leaf = path.rpartition("/")
        widening = widening_of(spec, model, layer)
        if layer not in model.shapes:
            by_path[path] = rule(1, values.size, 1.0, "bias", widening)._replace(initial=1.0, forward=1.0)
            continue
        shape = model.shapes[layer]
        connectivity = kept[layer] / math.prod(shape) if kept else 1.0
        role: Role = "bias" if leaf == "bias" else "output" if layer == output else "kernel"
        by_path[path] = rule(fan_in(layer, shape), fan_out(shape), connectivity, role, widening)
    return by_path


def widening_of(spec: Spec, model: Model, layer: str) -> Widening | None:
    """A layer relative to that of the dense network of `rate_width`; None if that is not set.

    Batch normalization, which has no kernel, is widened as the network.
    """
    if not model.reference:
        return None
    if layer not in model.shapes:
        return Widening(1.0, spec.width / spec.rate_width, spec.optimizer)
    shape, base = model.shapes[layer], model.reference[layer]
    return Widening(
        fan_in(layer, shape) / fan_in(layer, base), fan_out(shape) / fan_out(base), spec.optimizer
    )


def fan_in(layer: str, shape: Sequence[int]) -> int:
    """The inputs of a unit of a dense kernel; 1 for an embedding, of which one row is read."""
    return 1 if layer == tokens.EMBEDDING else math.prod(shape[:-1])


def fan_out(shape: Sequence[int]) -> int:
    """The outputs of a kernel times its area."""
    return math.prod(shape) // shape[-2]
