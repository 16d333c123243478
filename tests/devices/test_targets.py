"""Programs of training compiled for TPUs, on a machine without one; skipped without the TPU's compiler."""

import re
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import tiny

from experiments.lab import ahead
from wsn import devices
from wsn.data.splits import Splits
from wsn.devices import hlo, targets
from wsn.errors import UserError
from wsn.records import plan
from wsn.spec import Group, Spec
from wsn.training import train

SEEDS = (0, 1, 2, 3)
NETWORKS = {
    "mlp": tiny.spec(kept=tiny.kept(20, 15), momentum=0.9, probes=("path",)),
    "resnet18": tiny.spec(model="resnet18", width=1, momentum=0.9, compute_dtype="bfloat16"),
}
needs_compiler = pytest.mark.skipif(
    not targets.library("tpu"), reason="TPU_LIBRARY_PATH does not name the TPU's compiler"
)


def compiled(spec: Spec, kind: str) -> Iterator[tuple[targets.Compiled, int]]:
    """Its training and its evaluation, and the number of arrays of its members."""
    with targets.target("v5e:2x2") as machine:
        placement = devices.Placement(kind, machine.devices[: 1 if kind == "single" else 4])
        ready = train.prepare(Group((spec,), SEEDS), tiny.SPLITS, placement)
        members, feed = train.scattered(placement, ready.members), ready.feed
        for program, rows, data in (
            (ready.program.advance, feed.training(0, feed.steps), feed.training_data),
            (ready.program.evaluate, feed.held_out(), feed.held_out_data),
        ):
            yield ahead.compile_call(machine, program, members, rows, data), len(jax.tree.leaves(members))


@needs_compiler
@pytest.mark.parametrize(
    ("name", "kind", "all_reduces"),
    [("mlp", "single", 0), ("mlp", "members", 0), ("mlp", "batch", 2), ("resnet18", "batch", 36)],
)
def test_programs_compile_for_a_tpu(name, kind, all_reduces):
    """Batch normalization needs two all-reduces a layer, the gradient one, totals one a call."""
    (training, arrays), (evaluation, _) = compiled(NETWORKS[name], kind)
    aliases = training.text.partition("input_output_alias={")[2].partition("entry_computation_layout")[0]
    assert len(re.findall(r"\{\d+\}: \(", aliases)) == arrays
    assert training.text.count(" all-reduce(") <= all_reduces
    assert (training.costs.all_reduces > 0) == (kind == "batch")
    for text in (training.text, evaluation.text):
        constants = re.findall(r"= (\S+) constant\(", text)
        assert max(map(hlo.size, constants), default=0) <= 2**20
        if NETWORKS[name].compute_dtype == "bfloat16":
            assert not re.search(r"= f32\[(\d+,){3}\d+\]\S* convolution\(f32", text)


@needs_compiler
def test_memory_of_figure_8_is_the_planned_one():
    """In bfloat16: float32 products on a TPU hold their operands in parts too, here 51 MB, which no plan counts."""
    images, labels = np.zeros((12048, 28, 28, 1), np.uint8), np.zeros(12048, np.int32)
    train_set, test_set = (images[:2048], labels[:2048]), (images[2048:], labels[2048:])
    mean, deviation = np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    source = Splits(*train_set, images[:0], labels[:0], *test_set, mean, deviation, 10)
    kept = (("hidden_0", 6271), ("output", 6350))
    common = dict(epochs=1, batch_size=256, learning_rate=0.1, compute_dtype="bfloat16")
    spec = Spec(dataset="zeros", width=635, kept=kept, **common)
    group = Group((spec,), tuple(range(10)))
    row = ahead.describe_group(group, source, "v5e:1")
    with targets.target("v5e:1"):
        assert plan.cost(group, source).bytes / 2**30 == pytest.approx(row["peak_gib"], rel=0.1)
    assert row["bound"] in ("products", "cycles") and row["fits"]


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_undrawn_members_have_the_shapes_of_drawn_ones(name, monkeypatch):
    group = Group((NETWORKS[name],), SEEDS)
    drawn = train.prepare(group, tiny.SPLITS, tiny.SINGLE).members
    monkeypatch.setattr(train, "initial_members", train.undrawn_members)
    undrawn = train.prepare(group, tiny.SPLITS, tiny.SINGLE).members
    assert targets.shapes(undrawn) == targets.shapes(drawn)


def test_a_missing_compiler_and_unknown_machines_are_one_line(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    for name, message in (
        ("v9", "^`target=v9` is unknown: choose one of v4, [^\n]*$"),
        ("v5e:2x3", "^`target=v5e:2x3`: needs the compiler's library[^\n]* TPU_LIBRARY_PATH=[^\n]*$"),
    ):
        with pytest.raises(UserError, match=message), targets.target(name):
            pass


HLO = """
%fused (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,8}
}

%condition (p: (s32[], f32[100,8], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[100,8]{1,0}, f32[8]{0}) parameter(0)
  %limit = s32[] constant(100)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[100,8], f32[8])) -> (s32[], f32[100,8], f32[8]) {
  %p.2 = (s32[], f32[100,8]{1,0}, f32[8]{0}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%p.2), index=0
  %data = f32[100,8]{1,0} get-tuple-element(%p.2), index=1
  %sum = f32[8]{0:T(8,128)} get-tuple-element(%p.2), index=2
  %row = f32[1,8]{1,0} fusion(%data, %i.1), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"50"}
  %reduced = f32[1,8]{1,0} all-reduce(%row), to_apply=%add
  %on_chip = f32[8]{0:S(1)} copy(%sum)
  ROOT %result = (s32[], f32[100,8]{1,0}, f32[8]{0}) tuple(%i.1, %data, %sum)
}

ENTRY %main (a: f32[100,8]) -> f32[8] {
  %a = f32[100,8]{1,0} parameter(0)
  %start = (s32[], f32[100,8]{1,0}, f32[8]{0}) tuple(%a)
  ROOT %loop = (s32[], f32[100,8]{1,0}, f32[8]{0}) while(%start), condition=%condition, body=%body
}
"""


def test_costs_count_iterations_slices_and_tiles():
    """An iteration: a row read and written, in an all-reduce read and written again, and a padded tile read."""
    costs = hlo.costs(HLO)
    assert costs == hlo.Costs(100 * (4 * 32 + 512), 100 * 50, 100, 100 * 32)
