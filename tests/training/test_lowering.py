"""The programs lower for devices that are not here: what a GPU or a TPU would be given."""

import jax
import jax.export
import pytest
import tiny

from wsn import devices
from wsn.spec import Group
from wsn.training import train

NETWORKS = {
    "mlp": tiny.spec(kept=tiny.kept(20, 15), momentum=0.9),
    "resnet18": tiny.spec(model="resnet18", width=1, momentum=0.9, learning_rate=0.1),
}
DEVICES = tuple(jax.local_devices())


def prepared(name: str, kind: str) -> train.Prepared:
    placement = devices.Placement(kind, DEVICES if kind != "single" else DEVICES[:1])
    return train.prepare(Group((NETWORKS[name],), (0, 1, 2, 3)), tiny.SPLITS, placement)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["single", "members", "batch"])
def test_steps_and_evaluation_lower(name, kind, platform, monkeypatch):
    """In one program each, as on those devices, `pmap`ped over members or over the batch."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cuda" else "tpu")
    ready = prepared(name, kind)
    members = train.scattered(ready.placement, ready.members)
    rows, data = ready.feed.training(0, ready.feed.steps), ready.feed.training_data
    held_out, held_out_data = ready.feed.held_out(), ready.feed.held_out_data
    for program, arguments in (
        (ready.program.advance, (members, rows, data)),
        (ready.program.evaluate, (members, held_out, held_out_data)),
    ):
        lowered = program.trace(*arguments).lower(lowering_platforms=(platform,))
        assert "stablehlo" in lowered.as_text()
