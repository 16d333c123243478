"""The planned FLOPs are those of the arithmetic, the planned memory is that of the compiled program."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

from wsn import devices
from wsn.data.language.text import Text
from wsn.data.splits import Splits
from wsn.errors import UserError
from wsn.networks import models
from wsn.networks.models import TOKEN_MODELS
from wsn.records import plan
from wsn.spec import Group
from wsn.training import train

WIDTH, INPUTS = 200, 9


def cost(seeds: int = 1, execution: str = "masked", **changes) -> plan.Cost:
    spec = tiny.spec(**(dict(width=WIDTH, epochs=1) | changes))
    return plan.cost(Group((spec,), tuple(range(seeds))), tiny.SPLITS, execution)


@pytest.mark.parametrize("hidden_layers", [1, 3])
def test_flops_are_those_of_the_matrix_products(hidden_layers):
    """Multiply and add: forward, gradient of every kernel, gradient of all but the inputs."""
    first, last, hidden = INPUTS * WIDTH, WIDTH * tiny.CLASSES, (hidden_layers - 1) * WIDTH**2
    training = 4 * first + 6 * (hidden + last)
    testing = 2 * (first + hidden + last)
    flops = tiny.TRAIN * training + tiny.TEST * testing
    assert cost(hidden_layers=hidden_layers).flops == pytest.approx(flops, rel=0.06)


def test_flops_grow_with_seeds_and_epochs_and_not_with_masks():
    one = cost().flops
    assert cost(seeds=3).flops == pytest.approx(3 * one)
    assert cost(epochs=5).flops == pytest.approx(5 * one)
    assert cost(kept=tiny.kept(100, 100)).flops == one


def test_flops_of_sparse_layers_are_those_of_their_kept_weights():
    first, last = INPUTS * WIDTH, WIDTH * tiny.CLASSES
    left = cost(kept=tiny.kept(100, last), execution="sparse").flops / cost().flops
    assert left == pytest.approx((100 + last) / (first + last))


def test_held_out_examples_are_evaluated_in_place_of_the_test_split():
    saved = cost().flops - cost(validation_samples=tiny.VALIDATION).flops
    testing = 2 * WIDTH * (INPUTS + tiny.CLASSES)
    assert saved == pytest.approx((tiny.TEST - tiny.VALIDATION) * testing, rel=0.1)


def test_networks_and_weights_are_counted_per_spec():
    specs = tiny.spec(width=WIDTH), tiny.spec(width=WIDTH, kept=tiny.kept(100, 50))
    both = plan.cost(Group(specs, (0, 1)), tiny.SPLITS)
    assert both.members == 4
    assert both.weights == (INPUTS * WIDTH + WIDTH * tiny.CLASSES, 150)


def test_memory_holds_the_parameters_of_every_member_and_momentum():
    kernels = INPUTS * WIDTH + WIDTH * tiny.CLASSES
    assert cost(seeds=2).bytes - cost(seeds=1).bytes > 3 * 4 * kernels
    assert cost(momentum=0.9).bytes - cost().bytes == 4 * kernels


# Recurrent networks: every iteration of the scan is held for the backward pass.

TOKENS = np.random.default_rng(0).integers(0, 9, 4001).astype(np.uint16)


def of_text(sequence: int, seeds=(0, 1), model: str = "lstm") -> tuple[Group, Text]:
    spec = tiny.spec(model=model, task="characters", width=16, batch_size=8, sequence=sequence, epochs=1)
    return Group((spec,), seeds), Text("tiny", TOKENS, TOKENS[:500], tuple("abcdefghi"), sequence)


def of_images() -> tuple[Group, Splits]:
    """Wide and sparse: activations and kept weights, and no dense kernel."""
    spec = tiny.spec(width=20_000, batch_size=23, epochs=1, kept=tiny.kept(10_000, 2_000))
    return Group((spec,), (0, 1)), tiny.SPLITS


@pytest.mark.parametrize("model", [*TOKEN_MODELS, "mlp"])
def test_memory_is_that_of_the_compiled_program(model):
    group, source = of_images() if model == "mlp" else of_text(60, model=model)
    execution = "sparse" if model == "mlp" else "masked"
    prepared = train.prepare(group, source, tiny.SINGLE, execution)
    members = train.scattered(tiny.SINGLE, prepared.members)
    rows = prepared.feed.training(0, prepared.feed.steps)
    compiled = prepared.program.advance.lower(members, rows, prepared.feed.training_data).compile()
    sizes = compiled.memory_analysis()
    taken = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
    assert plan.cost(group, source, execution).bytes == pytest.approx(taken, rel=0.3)


def test_the_plan_of_a_text_without_a_window_leaves_it_to_training_to_refuse_it():
    group, text = of_text(10)
    assert plan.cost(group, dataclasses.replace(text, train=text.train[:1])).flops > 0


def test_a_half_of_every_convolution_is_half_of_the_arithmetic():
    network = dict(model="resnet18", width=2)
    shapes = models.build(tiny.spec(**network), tiny.IMAGE, tiny.CLASSES).shapes
    half = tuple((layer, math.prod(shape) // 2) for layer, shape in shapes.items())
    left = cost(execution="sparse", kept=half, **network).flops / cost(**network).flops
    assert left == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("model", ["rhn", "lstm"])
def test_every_iteration_of_a_scan_counts_its_kept_weights(model):
    """A weight meets every token once: half of those of some layers saves their share of all products."""
    group, text = of_text(10, model=model)
    (spec,) = group.specs
    shapes = {k: math.prod(v) for k, v in models.build(spec, (), text.classes).shapes.items()}
    softmax = shapes["softmax"]
    kept = {k: n if k in ("embedding", "softmax") else n // 2 for k, n in shapes.items()}
    half = dataclasses.replace(spec, kept=tuple(kept.items()))
    left = plan.cost(Group((half,), group.seeds), text, "sparse").flops / plan.cost(group, text).flops
    hidden = sum(shapes.values()) - softmax - shapes["embedding"]
    assert left == pytest.approx((hidden / 2 + softmax) / (hidden + softmax))


def test_beside_convolutions_kernels_in_scans_count_as_often_as_the_last_layer():
    """Half of one saves as much of each of its weights."""
    spec = tiny.spec(model="deepspeech", task="speech", width=6, epochs=1, batch_size=4, channels=2)
    shapes = models.build(spec, tiny.SPEECH.input_shape, tiny.SPEECH.classes).shapes
    sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
    *_, recurrent, last = sizes

    def left(halved: str) -> float:
        kept = tuple((layer, n // 2 if layer == halved else n) for layer, n in sizes.items())
        return plan.cost(Group((dataclasses.replace(spec, kept=kept),), (0,)), tiny.SPEECH, "sparse").flops

    whole = left("")
    assert (whole - left(recurrent)) / sizes[recurrent] == pytest.approx((whole - left(last)) / sizes[last])


def test_a_sequence_too_long_for_the_memory_is_refused_before_training(monkeypatch):
    costs = {length: plan.cost(*of_text(length)) for length in (10, 100)}
    assert costs[100].bytes > 5 * costs[10].bytes
    monkeypatch.setattr(devices, "memory", lambda: (costs[10].bytes + costs[100].bytes) / 2)
    plan.check([of_text(10)[0]], [costs[10]])
    with pytest.raises(UserError, match="^`batch_size`, `sequence`, `seeds`, `widths`: 2 networks [^\n]*$"):
        plan.check([of_text(100)[0]], [costs[100]])


def test_the_memory_of_this_machine_is_known():
    memory = devices.memory()
    assert memory is None or memory > 2**28
