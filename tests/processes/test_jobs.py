"""Job files without a cluster: the commands that they start, with mocked srun, scontrol and python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import wsn

JOBS = Path(wsn.__file__).parents[1] / "experiments" / "jobs"
SLURM = JOBS / "slurm.sh"


@pytest.fixture
def bin(tmp_path) -> Path:
    """A folder of commands: `python` and `scontrol` print their arguments, `srun` starts the program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "python": 'printf "%s\\n" python "$@"; exit ${CODE:-0}',
        "scontrol": 'echo scontrol "$@"',
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    }
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def started(bin: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    path = {"PATH": f"{bin}:{os.environ['PATH']}"}
    return subprocess.run(command, env=path | environment, capture_output=True, text=True, timeout=60)


def slurm(bin: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return started(bin, str(SLURM), *arguments, **{"SLURM_JOB_ID": "70"} | environment)


ARRAY = {"SLURM_ARRAY_JOB_ID": "68", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}


def test_a_slurm_array_trains_a_share_in_each_job(bin):
    ended = slurm(bin, "kernel_distance", "--widths=4,8", "--workdir=a b", **ARRAY)
    command = ["python", "-m", "experiments.kernel_distance", "--widths=4,8", "--workdir=a b"]
    assert ended.stdout.splitlines() == [*command, "--shard=3/8"] and ended.returncode == 0
    ended = slurm(bin, "kernel_distance", **ARRAY | {"SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"})
    assert ended.stdout.splitlines()[-1] == "--shard=3/8"


def test_a_slurm_job_without_an_array_is_one_run(bin):
    ended = slurm(bin, "kernel_distance", "--epochs=3")
    assert ended.stdout.splitlines() == ["python", "-m", "experiments.kernel_distance", "--epochs=3"]


@pytest.mark.parametrize(("environment", "job"), [({}, "70"), (ARRAY, "68_3")])
@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, False), (75, True), (137, False), (143, True)]
)
def test_slurm_requeues_a_command_that_asks_to_be_resumed(bin, environment, job, code, requeued):
    ended = slurm(bin, "kernel_distance", **environment, CODE=str(code))
    assert ended.returncode == code
    assert (ended.stdout.splitlines()[-1] == f"scontrol requeue {job}") == requeued
    assert ("scontrol" in ended.stdout) == requeued


def test_slurm_without_an_experiment_is_one_line(bin):
    ended = slurm(bin)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("error: name an experiment") and ended.stderr.count("\n") == 1


def test_the_options_of_the_slurm_script_stand_before_its_first_command():
    """Slurm reads no #SBATCH line after that; it wants the time of the signal to be below the limit."""
    lines = SLURM.read_text().splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0].startswith("#!") and options and max(options) < first
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@300", "#SBATCH --open-mode=append"} <= set(lines)
    assert subprocess.run(["bash", "-n", SLURM], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def jobset() -> dict:
    return yaml.safe_load((JOBS / "jobset.yaml").read_text())


def test_the_jobset_has_the_fields_of_its_schema(jobset):
    """Required fields, names and allowed values of jobset.x-k8s.io/v1alpha2 and batch/v1."""
    assert jobset.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    policy = jobset["spec"]["failurePolicy"]
    assert policy.keys() == {"maxRestarts", "rules"} and isinstance(policy["maxRestarts"], int)
    (rule,) = policy["rules"]
    assert rule["action"] in {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
    assert rule["name"].isidentifier() and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert job.keys() == {
        *("parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy", "template")
    }
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    assert job["backoffLimit"] == 0, "or a pod would be replaced by itself, and not the whole run"
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule["action"] == "FailJob" and len(rule.keys() & {"onExitCodes", "onPodConditions"}) == 1
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    (container,) = pod["containers"]
    assert {"name", "image", "command", "env", "resources", "volumeMounts"} == container.keys()
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes == {"containerName": container["name"], "operator": "In", "values": [75, 143]}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert all(isinstance(variable.get("value", ""), str) for variable in container["env"])


def test_the_image_of_the_jobset_has_the_jax_of_its_accelerator():
    lines = (JOBS / "Dockerfile").read_text().splitlines()
    assert "ARG JAX=jax[cuda12]" in lines and lines[-1].endswith('"$JAX"')
    assert "--build-arg JAX='jax[cuda12]'" in (JOBS / "jobset.yaml").read_text()


def pod(jobset: dict, bin: Path, **environment: str) -> list[str]:
    """The output of the container's command."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    assert int(given["PODS"]) == job["completions"]
    given |= {"JOBSET": jobset["metadata"]["name"]} | environment
    ended = started(bin, *container["command"], **given)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_pods_of_a_jobset_are_one_run_or_train_a_share_each(jobset, bin):
    experiment = ["--preset=paper", "--dataset=mnist", "--workdir=/results/kernel_distance"]
    command = ["python", "-m", "experiments.kernel_distance", *experiment]
    one = ["--coordinator=wsn-worker-0-0.wsn:8476", "--process_id=2", "--num_processes=4"]
    assert pod(jobset, bin, JOB_COMPLETION_INDEX="2") == [*command, *one]
    shares = [pod(jobset, bin, JOB_COMPLETION_INDEX=str(i), MODE="sweep")[len(command) :] for i in range(4)]
    assert shares == [["--distributed=off", f"--shard={i}/4"] for i in (1, 2, 3, 4)]


def test_the_experiments_take_the_flags_of_the_job_files(bin, tmp_path):
    (bin / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    root = {"PYTHONPATH": str(JOBS.parents[1]), "HOME": str(tmp_path)}
    ended = slurm(bin, "kernel_distance", "--dry_run", "--distributed=off", **ARRAY, **root)
    assert ended.returncode == 0, ended.stderr
    assert "20 networks;" in ended.stdout, (
        "of thirteen, the third share of eight has the third and the eleventh"
    )
