"""Two processes of two virtual devices each are one run: one folder, one decision to stop, a single device's curves."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from wsn.devices import hosts
from wsn.errors import UserError

# Two groups, width 8 sparse and dense; steps of 100 of the 1000 examples.
COMMAND = [
    *("-m", "experiments.kernel_distance", "--base_width=4", "--widths=8", "--learning_rate=8", "--seeds=2"),
    *("--epochs=30", "--checkpoint_seconds=1000"),
]
# What is left between one device and four is the order of float32 sums, over 300 steps.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
SECONDS = 400


def free_port() -> int:
    """In the range from which Slurm job numbers choose a port, see `slurm`."""
    for port in range(61440 + os.getpid() % 2048, 65536):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise AssertionError("no free port")


def flags(port: int, process: int) -> tuple[list[str], dict[str, str]]:
    return [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={process}"], {}


def slurm(port: int, process: int) -> tuple[list[str], dict[str, str]]:
    """As `srun --ntasks=2` starts it: jax detects it."""
    job = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "2"}
    return [], job | {"SLURM_NTASKS": "2", "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}


def start(
    arguments: Sequence[str], place: Path, devices: int, environment: dict[str, str]
) -> subprocess.Popen:
    place.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *arguments, "--workdir=out"],
        cwd=place,
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def two(
    places: Sequence[Path], launcher=flags, commands=(COMMAND, COMMAND)
) -> Iterator[list[subprocess.Popen]]:
    """Start two processes that are one run; in the end none is left."""
    port, processes = free_port(), []
    try:
        for process, (place, command) in enumerate(zip(places, commands, strict=True)):
            arguments, environment = launcher(port, process)
            processes.append(start([*command, *arguments], place, 2, environment))
        yield processes
    finally:
        for process in processes:
            process.kill()
            with process:
                process.wait()


def wait_for(condition: Callable[[], bool], processes: Sequence[subprocess.Popen]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() < end
        time.sleep(0.01)


def finish(processes: Sequence[subprocess.Popen], code: int = 0) -> list[str]:
    """Stderr of each process without the greetings of the Gloo library; all end with that exit code."""
    printed = [process.communicate(timeout=SECONDS) for process in processes]
    errors = ["".join(x for x in text.splitlines(True) if "[Gloo]" not in x) for _, text in printed]
    assert [process.returncode for process in processes] == [code] * len(processes), errors
    return errors


def run_one(command: Sequence[str], place: Path) -> None:
    """The same command in one process with one device."""
    with start(command, place, 1, {}) as process:
        finish([process])


def members(place: Path) -> dict[str, list[str]]:
    """Group → the lines of its record but the header."""
    return {
        path.parent.name: path.read_text().splitlines()[1:] for path in place.glob("out/runs/*/record.jsonl")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, list[str]]:
    """The records of an uninterrupted run over two processes."""
    places = [tmp_path_factory.mktemp(f"process{process}") for process in range(2)]
    with two(places) as processes:
        finish(processes)
    assert {path.name for path in (places[0] / "out").iterdir()} > {"runs", "kernel_distance.png"}
    assert not (places[1] / "out").exists(), "one process writes"
    headers = [path.read_text().splitlines()[0] for path in places[0].glob("out/runs/*/record.jsonl")]
    assert {json.loads(header)["device"]["count"] for header in headers} == {4}
    return members(places[0])


def test_two_processes_give_the_curve_of_one_device(finished, tmp_path):
    run_one(COMMAND, tmp_path / "one")
    assert len(finished) == 2
    assert_same_curves(finished, members(tmp_path / "one"))
    for line in map(json.loads, itertools.chain(*finished.values())):
        assert len(line["train_loss"]) == 30 and line["test_accuracy"][-1] > 0.7, "the networks learn"


def assert_same_curves(found: dict[str, list[str]], expected: dict[str, list[str]]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        for left, right in zip(map(json.loads, found[name]), map(json.loads, expected[name]), strict=True):
            assert left.keys() == right.keys()
            for curve in left.keys() - {"status"}:
                np.testing.assert_allclose(left[curve], right[curve], err_msg=curve, **TOLERANCE)


@pytest.mark.slow
def test_two_processes_give_the_resnet_of_one_device(tmp_path):
    """The statistics of its normalization are those of the batch over both; they amplify what order leaves."""
    resnet = ["-m", "experiments.resnet_width", "--base_width=2", "--widths=3", "--dense_seeds=0"]
    resnet += ["--learning_rate=0.005", "--epochs=2"]
    places = [tmp_path / "0", tmp_path / "1"]
    with two(places, commands=(resnet, resnet)) as processes:
        finish(processes)
    run_one(resnet, tmp_path / "one")
    found, expected = members(places[0]), members(tmp_path / "one")
    assert found.keys() == expected.keys() and len(found) == 1
    (found_lines,), (expected_lines,) = found.values(), expected.values()
    assert len(found_lines) == 2
    for left, right in zip(map(json.loads, found_lines), map(json.loads, expected_lines), strict=True):
        for split in ("train", "test"):
            for epoch, tolerance in ((0, 1e-3), (1, 1e-2)):
                assert left[f"{split}_loss"][epoch] == pytest.approx(
                    right[f"{split}_loss"][epoch], rel=tolerance
                )


@pytest.mark.slow
def test_sigterm_of_any_process_stops_all_of_them_and_resuming_is_exact(finished, tmp_path):
    """The one that gets the signal is not the one that writes; started as Slurm does, without flags."""
    places = [tmp_path / "0", tmp_path / "1"]
    with two(places, slurm) as processes:
        wait_for(lambda: any(places[0].glob("out/runs/*/group.json")), processes)
        processes[1].send_signal(signal.SIGTERM)
        errors = finish(processes, 75)
    assert errors[0].splitlines()[-1] == "stopped by SIGTERM; the same command resumes it (exit code 75)"
    assert members(places[0]).keys() < finished.keys()
    assert len(list(places[0].glob("out/runs/*/checkpoints/*.sha256"))) == 1
    with two(places, slurm) as processes:
        finish(processes)
    assert members(places[0]) == finished
    assert not list(places[0].glob("out/runs/*/checkpoints"))


BY_BATCH = """
import runpy
from wsn.training import strategy
strategy.SMALLEST_CUT = 0  # as for a large network
runpy.run_module("experiments.halting_time", run_name="__main__")
"""


@pytest.mark.thorough
def test_a_recurrent_run_is_saved_by_both_processes_and_resumes_to_the_curve_of_one(tmp_path):
    """Its hidden state is cut over them with the batch, so that neither can save it alone."""
    command = ["-c", BY_BATCH, "--widths=8", "--seeds=1", "--epochs=4", "--fractions=1.0"]
    command += ["--eval_every=5", "--checkpoint_seconds=0"]
    places = [tmp_path / "0", tmp_path / "1"]
    with two(places, commands=(command, command)) as processes:
        wait_for(lambda: any(places[0].glob("out/runs/*/checkpoints/*.sha256")), processes)
        for process in processes:
            process.kill()
    (saved,) = places[0].glob("out/runs/*/checkpoints")
    first = max(int(path.stem) for path in saved.glob("*.sha256"))
    with two(places, commands=(command, command)) as processes:
        wait_for(
            lambda: max((int(path.stem) for path in saved.glob("*.sha256")), default=0) > first, processes
        )
        processes[1].send_signal(signal.SIGTERM)
        finish(processes, 75)
    with two(places, commands=(command, command)) as processes:
        finish(processes)
    run_one(command, tmp_path / "one")
    assert_same_curves(members(places[0]), members(tmp_path / "one"))


@pytest.mark.thorough
def test_the_second_pass_of_path_geometry_runs_in_both_processes(tmp_path):
    command = ["-m", "experiments.path_geometry", "--second_pass", "--dataset=digits", "--model=mlp"]
    command += ["--task=classification", "--widths=8", "--depths=1", "--seeds=1", "--fractions=1.0"]
    command += ["--train_samples=200", "--validation_samples=200", "--learning_rate=0.5", "--epochs=60"]
    command += ["--batch_size=50", "--eval_every=8"]
    places = [tmp_path / "0", tmp_path / "1"]
    with two(places, commands=(command, command)) as processes:
        finish(processes)
    run_one(command, tmp_path / "one")
    found, expected = (
        [row.split(",") for row in (place / "out/path_geometry_seeds.csv").read_text().split()]
        for place in (places[0], tmp_path / "one")
    )
    assert found[0] == expected[0] and found[0][-1] == "projection_end" and len(found) == 4
    for row, other in zip(found[1:], expected[1:], strict=True):
        assert row[:12] == other[:12]
        np.testing.assert_allclose(np.array(row[12:], float), np.array(other[12:], float), rtol=1e-3)


LOADS = """
import sys
from pathlib import Path
import jax
from wsn.devices import compiled, hosts
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name) if name.endswith("cache_hits") else None)
folder, coordinator, count, process = sys.argv[1:5]
hosts.join("auto", *(flag.partition("=")[2] for flag in [coordinator]), int(process[-1]), int(count[-1]))
jax.config.update("jax_compilation_cache_dir", None)  # that of the tests
jax.default_backend = lambda: "gpu"
compiled.keep(Path(folder))
total = jax.pmap(lambda x: jax.lax.psum(x * x, "batch"), axis_name="batch")(jax.numpy.arange(2.0))
print(total.tolist(), len(found))
"""


@pytest.mark.thorough
def test_processes_load_the_programs_of_an_earlier_run_from_a_folder_that_all_see(tmp_path):
    """JAX writes those of process 0, and only GPUs and TPUs have the same for all processes."""

    def loaded(*folders: Path) -> list[int]:
        commands = [["-c", LOADS, str(folder)] for folder in folders]
        with two([tmp_path / "0", tmp_path / "1"], commands=commands) as processes:
            printed = [process.communicate(timeout=SECONDS)[0] for process in processes]
        assert all("[2.0, 2.0]" in text for text in printed), printed
        return [int(text.split()[-1]) for text in printed]

    shared, apart = tmp_path / "cache", (tmp_path / "a", tmp_path / "b")
    loaded(shared, shared)
    assert loaded(shared, shared)[0] > 0
    loaded(*apart)
    assert loaded(*apart) == [0, 0]


EVERY_NETWORK = """
import sys
from wsn.devices import hosts
hosts.join("auto", sys.argv[2], int(sys.argv[4]), int(sys.argv[3]))
import every_network  # which uses devices
every_network.write(sys.argv[1])
"""


@pytest.mark.slow
def test_four_processes_train_every_kind_of_network_as_one_device_does(tmp_path):
    """Streamed images, too, of which every process decodes its part."""
    tests = Path(__file__).parents[1]
    environment = {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # where process 0 alone would find its programs

    def curves(count: int, devices: int) -> dict[str, np.ndarray]:
        file = tmp_path / f"{count}.npz"
        command = ["-c", EVERY_NETWORK, str(file), f"localhost:{free_port()}", str(count)]
        with contextlib.ExitStack() as stack:
            processes = []
            for i in range(count):
                processes.append(start([*command, str(i)], tmp_path / f"{count}-{i}", devices, environment))
                stack.enter_context(processes[-1])
                stack.callback(processes[-1].kill)
            assert not any(finish(processes))
        return dict(np.load(file))

    found, expected = curves(4, devices=2), curves(1, devices=1)
    assert found.keys() == expected.keys() and len(found) > 20
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_without_a_lost_process_the_others_end_and_fewer_resume_the_run(finished, tmp_path):
    """Within JAX's heartbeat of 100 s."""
    command = [*COMMAND, "--checkpoint_seconds=0"]
    places = [tmp_path / "0", tmp_path / "1"]
    with two(places, commands=(command, command)) as processes:
        wait_for(lambda: any(places[0].glob("out/runs/*/checkpoints/*.sha256")), processes)
        processes[1].kill()
        assert processes[0].wait(timeout=200) not in (0, 75)
    run_one(command, places[0])
    assert_same_curves(members(places[0]), finished)


WITHOUT_DATA = """
import runpy, sys
from wsn.data import sources
from wsn.errors import UserError
def dataset(name, data_dir):
    raise UserError(f"--dataset={name}: not on this host")
sources.dataset = dataset
runpy.run_module("experiments.kernel_distance", run_name="__main__")
"""


def test_a_process_without_data_ends_the_run_with_a_line_each(tmp_path):
    with two(
        [tmp_path / "0", tmp_path / "1"], commands=[COMMAND, ["-c", WITHOUT_DATA, *COMMAND[2:]]]
    ) as processes:
        errors = finish(processes, 1)
    assert errors == [
        "error: --data_dir: another process of this run cannot read its data, or has other data; its output says why\n",
        "error: --dataset=digits: not on this host\n",
    ]


@pytest.mark.parametrize(
    "given", [("localhost:1", None, None), ("localhost:1", 0, None), (None, 0, 2), ("localhost", 0, 2)]
)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_the_three_flags_go_together(mode, given):
    with pytest.raises(
        UserError, match="^`coordinator`, `process_id` and `num_processes`: give all three[^\n]*$"
    ):
        hosts.join(mode, *given)


def test_a_process_that_finds_no_others_says_so(monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        UserError, match="^`distributed=on`: cannot join [^\n]*`coordinator=HOST:PORT`[^\n]*$"
    ):
        hosts.join("on", None, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (f"SLURM_{name}", value)
            for name in ("JOB_ID", "NTASKS", "PROCID", "LOCALID")
            for value in ("", "x", "-1")
        ),
        ("SLURM_PROCID", "2"),
        ("SLURM_PROCID", None),
        ("SLURM_STEP_NODELIST", " "),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_nonsense_in_the_variables_of_slurm_is_one_line(monkeypatch, mode, name, value):
    _, variables = slurm(61441, 0)
    for variable, text in (variables | {name: value}).items():
        monkeypatch.delenv(variable, raising=False)
        if text is not None:
            monkeypatch.setenv(variable, text)
    with pytest.raises(UserError, match=f"^{name}[^\n]*`distributed=off`[^\n]*$"):
        hosts.join(mode, None, None, None)


@pytest.mark.parametrize("tasks", ["", "1", "0", "x", "-2", "²"])
def test_one_process_is_left_alone(monkeypatch, tmp_path, tasks):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    (tmp_path / "libtpu.py").touch()  # the library, as jax[tpu] installs it, but no chip
    monkeypatch.syspath_prepend(tmp_path)
    hosts.join("auto", None, None, None)
    hosts.join("off", "localhost:1", 0, 2)
    assert hosts.is_leader() and hosts.broadcast({"a": 1}) == {"a": 1}
    assert [hosts.any_process(flag) for flag in (False, True)] == [False, True]


def test_a_tpu_has_chips(tmp_path):
    assert not hosts.has_chips(tmp_path)
    for chip in ("accel0", "vfio/3"):
        (tmp_path / chip).parent.mkdir(exist_ok=True)
        (tmp_path / chip).touch()
        assert hosts.has_chips(tmp_path)
        (tmp_path / chip).unlink()
