"""Numbers out of range are refused in one line before anything is allocated or written; limits of memory."""

import dataclasses
import math

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import tiny

from experiments.lab import contents, flags, launch
from experiments.theory.theorem1 import threshold
from wsn import devices
from wsn.devices import hosts
from wsn.errors import UserError
from wsn.records import plan
from wsn.spec import LARGEST, Group, check_bounds, setting

COMMANDS = {name: contents.command(name) for name in contents.files()}
GIB = 2.0**30
NEGATIVE = {"gate_bias"}  # may be negative
EMPTY = {"base_widths", "features", "learning_rates", "sparsify"}  # may be empty, though a preset has some


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_number_has_bounds_and_every_list_an_item(command):
    for values in (command.run, *command.presets.values()):
        for flag in flags.table(type(values)):
            signed = flag.name in NEGATIVE
            bad: list = []
            if flag.type in (int, float):
                bounded = flag.metadata["least"] is not None or flag.metadata["above"] is not None
                assert signed or bounded, flag.name
                bad = [2**63] if flag.type is int else [math.nan, math.inf, -math.inf, *[-1.0] * (not signed)]
                bad = [(value,) if flag.many else value for value in bad]
            if flag.many and not flag.repeated and getattr(values, flag.name) and flag.name not in EMPTY:
                bad.append(())
            for value in bad:
                with pytest.raises(UserError, match=rf"^`{flag.name}[=`]"):
                    dataclasses.replace(values, **{flag.name: value})


@pytest.mark.parametrize(
    "line",
    [
        "theorem1 pairs", "theorem1 networks", "benchmark --of=theory pairs", "optimum pairs", "optimum gaussian_pairs",
        "optimum features", "optimum bootstrap", "kernel_distance pairs", "kernel_distance seeds",
        "resnet_width dense_seeds", "linear_network seeds", "own_network seeds", "benchmark members",
        "benchmark --of=resnet batch_sizes", "benchmark --of=input images",
    ],
)  # fmt: skip
def test_more_than_the_memory_of_the_machine_is_refused(line):
    name, *given, flag = line.split()
    with pytest.raises(UserError, match=rf"^`{flag}=10+` needs about .* GiB of memory, and there are .* GiB"):
        flags.parse(COMMANDS[name], [*given, f"--{flag}={10**12}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kernel_distance --tune_lr --learning_rate=1", "--tune_lr"),
        ("kernel_distance --schedule=steps", "--schedule: give --decay_epochs with --schedule=steps"),
        ("kernel_distance --decay_epochs=3", "--schedule: give --decay_epochs with --schedule=steps"),
        ("resnet_width --compare=nosuch", "--compare=nosuch is unknown"),
        ("kernel_distance --workdir --dry_run", "--workdir=--dry_run: a flag in the place"),
        ("kernel_distance --workdir=gs://bucket/x", "--workdir=gs://bucket/x: folders and files are local"),
        (
            "kernel_distance --data_dir=~nosuchuser/x",
            "--data_dir=~nosuchuser/x: there is no such home folder",
        ),
        ("benchmark --of=sparse --networks=nosuch", "--networks=nosuch is unknown: choose one of mlp"),
        ("benchmark --of=theory --members=3", "--members does not apply to --of=theory: only to mlp"),
        ("benchmark --of=resnet --dtypes=nan", "--dtypes=nan is unknown: choose one of float32"),
        ("width_test --families=mnist-6,mnist-60", "--families=mnist-60 is unknown"),
        ("width_predictions --families=mnist-60", "--families=mnist-60 is unknown"),
        (
            "rate_transfer --parameterizations=ntk --parameterizations=ntk",
            "--parameterizations=ntk is given twice",
        ),
        ("rate_transfer --learning_rate=0.1", "--learning_rate: this experiment tries a grid"),
        (
            "rate_transfer --preset=transformer --parameterizations=ntk",
            "--parameterizations=ntk: this preset",
        ),
        ("rate_transfer --widths=12,6", "--widths: add 3, the base width"),
        ("compile --machines=v5p", "--machines=v5p is unknown: choose one of h100"),
        ("compile --of=figure6 --machines=v5e", "--machines=v5e: --of compiles for none of these"),
        ("theorem1 --connectivities=", "--connectivities= is not a comma-separated list"),
        ("mlp_grid --last_connectivity=1e-30 --base_width=3", "--widths=3: a fraction of 1e-30 keeps none"),
        ("resnet_width --widths=1000000000", "--widths=1000000000 is too large"),
        ("layer_sparsity --num_classes=1000000000", "--num_classes=1000000000 is too large"),
        ("bottleneck --hidden_layers=1000000", "--hidden_layers=1000000 is too large"),
        (
            "theorem1 --against=neural_tangents --cases=F --widths=8,9",
            "--widths, --cases: not read where --against is given: leave it out",
        ),
        ("theorem1 --cases=F --networks=300", "--networks: not read where --cases is given"),
        (
            "bottleneck --model=resnet18 --hidden_layers=3",
            "--hidden_layers=3: --model=resnet18 does not read",
        ),
        ("theorem1 --level=1", "--level=1.0 is too large: give less than 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(line, message):
    name, *arguments = line.split()
    with pytest.raises(UserError) as error:
        settings, _ = flags.parse(COMMANDS[name], arguments)
        COMMANDS[name].main(settings, launch.Run("never written", dry_run=True))
    text = flags.as_flags(str(error.value))
    assert text.startswith(message) and "\n" not in text


@pytest.mark.parametrize(
    "address", ["localhost", ":34563", "localhost:", "localhost:0", "localhost:99999", "h:٣"]
)
def test_a_malformed_address_is_refused_before_waiting(address):
    with pytest.raises(UserError, match="^`coordinator"):
        hosts.join("auto", address, 0, 1)
    with pytest.raises(UserError, match="^`process_id=1` is too large"):
        hosts.join("auto", "localhost:1234", 1, 1)


@dataclasses.dataclass
class Bounded:
    x: tuple[float, ...] = setting("h", (1.0,), above=0, most=2, some=True)
    y: int = setting("h", 1, least=1, bytes=GIB)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": ()}, "`x`: give at least one"),
        ({"x": (1.0, 0.0)}, "`x=0.0` is not a positive number"),
        ({"x": (1.0, 3.0)}, "`x=3.0` is too large: give at most 2"),
        ({"y": 0}, "`y=0` is too small: give at least 1"),
        ({"y": LARGEST + 1}, "`y=9223372036854775808` is too large"),
        ({"y": 10**9}, "`y=1000000000` needs about 1e+09 GiB of memory"),
    ],
)
def test_bounds_hold_for_every_item_and_the_message_gives_them(values, message):
    check_bounds(Bounded())
    with pytest.raises(UserError) as error:
        check_bounds(Bounded(**values))
    assert str(error.value).startswith(message)


@pytest.fixture
def unchecked():
    """As outside of tests, where no annotation is enforced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("numbers", [np.int64, np.int32, np.array, jnp.asarray, np.float64])
def test_numbers_of_numpy_are_those_of_python(unchecked, numbers):
    """Scalars and arrays of no dimension, where `operator.index` or `float` accepts them; names of groups too."""
    whole = np.int64 if numbers is np.float64 else numbers
    real = {np.int64: np.float64, np.int32: np.float64}.get(numbers, numbers)
    ours = tiny.spec(
        width=whole(8), learning_rate=real(0.5), kept=[["hidden_0", whole(20)]], probes=["norms"]
    )
    theirs = tiny.spec(width=8, learning_rate=0.5, kept=(("hidden_0", 20),), probes=("norms",))
    assert ours == theirs and hash(ours) == hash(theirs) and repr(ours) == repr(theirs)
    assert (
        Group([ours], whole([0, 1]) if numbers is np.array else range(2)).name
        == Group((theirs,), (0, 1)).name
    )
    assert tiny.spec(learning_rate=np.int64(1)) == tiny.spec(learning_rate=1)
    assert tiny.spec(bias=np.True_, train_samples=None).bias is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": np.geomspace(8, 64, 4)[1]}, "`width=1[56].* is not a whole number"),
        ({"width": "8"}, "`width=8` is not a whole number"),
        ({"epochs": np.array([3, 4])}, "`epochs=.*` is not a whole number"),
        ({"learning_rate": "0.1"}, "`learning_rate=0.1` is not a number"),
        ({"learning_rate": np.array([0.1, 0.2])}, "`learning_rate=.*` is not a number"),
        ({"learning_rate": np.float32("nan")}, "`learning_rate=nan` is not a positive number"),
        ({"decay_epochs": 1}, "^`decay_epochs=1`: give a tuple$"),
        ({"decay_epochs": np.int64(1)}, "^`decay_epochs=1`: give a tuple$"),
        ({"probes": "path"}, "^`probes=path`: give a tuple$"),
        ({"kept": {"hidden_0": 20, "output": 20}}, "^`kept=hidden_0`: give a tuple$"),
    ],
)
def test_what_is_no_number_or_no_tuple_is_refused_in_a_line(unchecked, fields, message):
    with pytest.raises(UserError, match=message) as error:
        tiny.spec(**fields)
    assert "\n" not in str(error.value)


# Memory.


def test_a_group_that_does_not_fit_is_refused_before_training(monkeypatch):
    group = Group((tiny.spec(),), (0, 1))
    costs = [plan.Cost(2, (65,), 1.0, 4 * GIB)]
    monkeypatch.setattr(devices, "memory", lambda: 5 * GIB)
    plan.check([group], costs)
    monkeypatch.setattr(devices, "memory", lambda: 3 * GIB)
    with pytest.raises(UserError, match="`widths`: 2 networks of width 5: .* 4 GiB .* there are 3 GiB"):
        plan.check([group], costs)
    assert plan.cost(group, tiny.SPLITS).bytes > 2 * 65 * 4


def test_the_threshold_of_a_tiny_level_is_finite():
    assert 37 < threshold(60, 1e-300) < 38
    assert threshold(60, 0.01) == pytest.approx(3.76, abs=0.01)
