"""The programs of training lower for GPUs and TPUs, on a machine without either."""

import jax
import pytest
import tiny

from wsn import devices
from wsn.spec import Group
from wsn.training import strategy, train

NETWORKS = {
    "mlp": tiny.spec(kept=tiny.kept(20, 15), momentum=0.9, probes=("path",)),
    "resnet18": tiny.spec(model="resnet18", width=1, momentum=0.9, learning_rate=0.1),
}
DEVICES = tuple(jax.local_devices())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mlp", "single"), ("mlp", "members"), ("mlp", "batch"), ("resnet18", "single"), ("resnet18", "batch")],
)
def test_steps_and_evaluation_lower_for_gpus_and_tpus(name, kind, monkeypatch):
    """One program for all steps, as on those devices; by `pmap` over members or over the batch."""
    monkeypatch.setattr(strategy, "goes_step_by_step", lambda model: False)
    placement = devices.Placement(kind, DEVICES if kind != "single" else DEVICES[:1])
    ready = train.prepare(Group((NETWORKS[name],), (0, 1, 2, 3)), tiny.SPLITS, placement)
    members, feed = train.scattered(placement, ready.members), ready.feed
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # convolutions as on a GPU
    for program, rows, data in (
        (ready.program.advance, feed.training(0, feed.steps), feed.training_data),
        (ready.program.evaluate, feed.held_out(), feed.held_out_data),
    ):
        traced = jax.jit(program).trace(members, rows, data)
        assert "stablehlo" in traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
