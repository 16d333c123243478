"""The cost that is printed before training is that of the arithmetic."""

import pytest
import tiny

from wsn.records import plan
from wsn.spec import Group

WIDTH, INPUTS = 200, 9


def cost(seeds: int = 1, **changes) -> plan.Cost:
    spec = tiny.spec(**(dict(width=WIDTH, epochs=1) | changes))
    return plan.cost(Group((spec,), tuple(range(seeds))), tiny.SPLITS)


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


def test_held_out_examples_are_evaluated_in_place_of_the_test_split():
    saved = cost().flops - cost(validation_samples=tiny.VALIDATION).flops
    testing = 2 * WIDTH * (INPUTS + tiny.CLASSES)
    assert saved == pytest.approx((tiny.TEST - tiny.VALIDATION) * testing, rel=0.1)


def test_networks_and_weights_are_counted_per_spec():
    specs = tiny.spec(width=WIDTH), tiny.spec(width=WIDTH, kept=tiny.kept(100, 50))
    found = plan.cost(Group(specs, (0, 1)), tiny.SPLITS)
    assert found.members == 4
    assert found.weights == (INPUTS * WIDTH + WIDTH * tiny.CLASSES, 150)


def test_memory_holds_the_parameters_of_every_member_and_momentum():
    kernels = INPUTS * WIDTH + WIDTH * tiny.CLASSES
    assert cost(seeds=2).bytes - cost(seeds=1).bytes > 3 * 4 * kernels
    assert cost(momentum=0.9).bytes - cost().bytes == 4 * kernels
