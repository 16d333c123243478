"""Networks: a spec → pure `init` and `apply`, and the shapes of its kernels. Models know nothing of masks.

`init` draws weights of unit scale; `scalings` says by what the spec's parameterisation multiplies them. A new model is
a file with `shapes`, `narrowed`, `group`, `module`, the `fields` of the spec that are its own, and a line in `MODELS`.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType

import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from wsn.errors import UserError, choose
from wsn.networks import deepspeech, highway, lstm, mlp, recurrent, resnet
from wsn.networks.layers import Model, Params, functional
from wsn.networks.parameterization import Role, Scaling, Widening, parameterization
from wsn.sparsity import bottleneck
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

# Networks that read tokens, one after the other, and those that hear utterances; the others see images.
RECURRENT: dict[str, ModuleType] = {"rhn": highway, "lstm": lstm}
HEARING: dict[str, ModuleType] = {"deepspeech": deepspeech}
MODELS: dict[str, ModuleType] = {"mlp": mlp, "resnet18": resnet} | RECURRENT | HEARING


def build(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Model:
    """The network of a spec for inputs of `input_shape` and so many classes. Raises UserError for an unknown one."""
    layers = plain_shapes(spec, input_shape, classes)
    shapes = bottleneck.transformed(layers, spec.bottleneck, dict(spec.inner))
    family = MODELS[spec.model]
    groups = groups_of(spec, shapes)
    module = family.module(spec, tuple(layers), shapes)
    if spec.model in RECURRENT:
        model = recurrent.functional(module, shapes, groups)
    else:
        example = deepspeech.example(input_shape) if spec.model in HEARING else jnp.zeros((1, *input_shape))
        model = functional(module, shapes, groups, example)
    scans = spec.model in RECURRENT or spec.model in HEARING
    return model._replace(scans=scans, reference=reference_shapes(spec, input_shape, classes))


def plain_shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """The kernels of the network of that width without bottlenecks.

    `input_shape` is () for tokens, (frames, features) for utterances, (height, width, channels) for images. Raises
    UserError for an unknown model, and for one that cannot read such inputs.
    """
    family = choose(MODELS, "model", spec.model)
    kind = "images"
    fitting: Collection[str] = MODELS.keys() - RECURRENT.keys() - HEARING.keys()
    if len(input_shape) in (0, 2):
        kind, fitting = ("text", RECURRENT.keys()) if input_shape == () else ("utterances", HEARING.keys())
    if spec.model not in fitting:
        names = ", ".join(name for name in MODELS if name in fitting)
        raise UserError(
            f"`model={spec.model}`: `dataset={spec.dataset}` is {kind}: choose `model` from {names}"
        )
    return family.shapes(spec, input_shape, classes)


def reference_shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """The kernels of the dense network of `rate_width`; none without one. Raises UserError for bottlenecks."""
    if not spec.rate_width:
        return {}
    if spec.bottleneck != "none":
        raise UserError(
            f"`rate_width={spec.rate_width}`: `bottleneck={spec.bottleneck}` has kernels that no dense network has;"
            " leave one of them out"
        )
    return plain_shapes(dataclasses.replace(spec, width=spec.rate_width), input_shape, classes)


def groups_of(spec: Spec, layers: Iterable[str]) -> dict[str, str]:
    """The group of every layer: in which probes report it, and families make it sparse."""
    return {layer: MODELS[spec.model].group(layer) for layer in layers}


def narrowed(spec: Spec, layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows; no two of them follow each other.

    Raises UserError where the network has too few layers.
    """
    return MODELS[spec.model].narrowed(layers)


def kernel_path(layer: str) -> str:
    """The parameter path of a layer's kernel."""
    return f"{layer}/kernel"


def has_convolutions(model: Model) -> bool:
    """Whether any of its kernels has taps."""
    return any(len(shape) > 2 for shape in model.shapes.values())


def scalings(spec: Spec, model: Model, params: Params) -> dict[str, Scaling]:
    """The `Scaling` of every parameter by its path, with each layer's connectivity as kept in the spec.

    fan_in and fan_out are those of the kernel in the same layer, also for its bias. Batch normalisation has neither:
    its parameters start as they were initialised, and have the rates of biases. Where the spec has a `rate_width`,
    every layer is compared to that of the dense network of that width.
    """
    kept = dict(spec.kept)
    rule = parameterization(spec.parameterization).scaling
    last = next(reversed(model.shapes))
    leaves = {}
    for path, values in flatten_dict(params, sep="/").items():
        layer, _, leaf = path.rpartition("/")
        widening = widening_of(spec, model, layer)
        if layer not in model.shapes:
            leaves[path] = rule(1, values.size, 1.0, "bias", widening)._replace(initial=1.0, forward=1.0)
            continue
        shape = model.shapes[layer]
        connectivity = kept[layer] / math.prod(shape) if kept else 1.0
        role: Role = "bias" if leaf == "bias" else "output" if layer == last else "kernel"
        leaves[path] = rule(fan_in(layer, shape), fan_out(shape), connectivity, role, widening)
    return leaves


def widening_of(spec: Spec, model: Model, layer: str) -> Widening | None:
    """How much wider a layer is than that of the dense network of `rate_width`; None without one.

    What has no kernel, batch normalisation, is as much wider as the network.
    """
    if not model.reference:
        return None
    if layer not in model.shapes:
        return Widening(1.0, spec.width / spec.rate_width, spec.optimizer)
    own, base = model.shapes[layer], model.reference[layer]
    return Widening(fan_in(layer, own) / fan_in(layer, base), fan_out(own) / fan_out(base), spec.optimizer)


def fan_in(layer: str, shape: Sequence[int]) -> int:
    """The inputs of a unit of a dense kernel; of an embedding one row is read."""
    return 1 if layer == recurrent.EMBEDDING else math.prod(shape[:-1])


def fan_out(shape: Sequence[int]) -> int:
    """Over the area of a kernel, its outputs."""
    return math.prod(shape) // shape[-2]
