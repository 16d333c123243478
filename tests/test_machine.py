"""Limits of memory and cores: control groups of both versions, nested ones, and affinity."""

import math
from pathlib import Path

import pytest

from wsn import machine


@pytest.fixture
def container(tmp_path):
    """The root of a file system where a process is in some control groups, of which these files exist."""

    def made(groups: str, files: dict[str, str]) -> Path:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "1024"}, 1024),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "2048"}, 2048),
        ("0::/a\n", {"memory.max": "max"}, math.inf),
        ("5:cpu:/x\n4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "4096"}, 4096),
        ("4:memory:/outside\n", {"memory/memory.limit_in_bytes": "4096"}, 4096),
        ("", {}, math.inf),
    ],
)
def test_memory_is_limited_by_the_control_group(container, groups, files, limit):
    physical = machine.memory_limit(Path("/nowhere"))
    assert machine.memory_limit(container(groups, files)) == min(limit, physical)
    assert 2**20 < physical < math.inf


V1 = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "800000 100000", "a/cpu.max": "150000 50000", "cpu.max": "max 100000"},
            3,
        ),
        ("0::/outside/of/it\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/x\n", {f"cpu,cpuacct/x/{name}": text for name, text in V1.items()}, 1.5),
        ("4:cpu,cpuacct:/x/y\n", {f"cpu/x/{name}": text for name, text in V1.items()}, 1.5),
        (
            "4:cpu:/\n",
            {f"cpu/{name}": text for name, text in (V1 | {"cpu.cfs_quota_us": "-1"}).items()},
            math.inf,
        ),
        ("3:cpuset:/x\n", {f"cpuset/x/{name}": text for name, text in V1.items()}, math.inf),
        ("4:memory:/x\n0::/x\n", {"unified/x/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "broken"}, math.inf),
        ("not a line\n", {"cpu.max": "100000 100000"}, math.inf),
    ],
)
def test_the_cpu_quota_of_a_container(container, monkeypatch, groups, files, quota):
    root = container(groups, files)
    assert machine.cpu_quota(root) == quota
    for cores in (1, 64):
        monkeypatch.setattr(machine, "affinity", lambda cores=cores: frozenset(range(cores)))
        assert machine.usable_cores(root) == min(cores, math.ceil(min(quota, 64)))


def test_affinity_limits_the_cores(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert machine.affinity() == {3, 5, 7} and machine.usable_cores(Path("/nowhere")) == 3
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    assert len(machine.affinity()) == (machine.os.cpu_count() or 1)
