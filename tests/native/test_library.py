"""Native kernels are compiled once, safely, or done without; and they never read outside their arrays."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsn.devices import compiled
from wsn.native import library

COMPILER = library.find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
ASKS = "from wsn.native import library; print(library.available())"


def asked(**environment):
    """What another process says: (whether there are kernels, its notices)."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    said = subprocess.run([sys.executable, "-c", ASKS], env=env, capture_output=True, text=True, check=True)
    return said.stdout.strip() == "True", said.stderr.strip().splitlines()


@pytest.fixture
def broken(tmp_path):
    """A compiler that fails."""
    path = tmp_path / "broken"
    path.write_text("#!/bin/sh\necho no way >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_there_is_one_notice(tmp_path):
    found, notices = asked(CXX="no-such-compiler", WSN_CACHE_DIR=str(tmp_path))
    assert not found and len(notices) == 1 and "no C++ compiler" in notices[0]


def test_a_broken_compiler_is_done_without(tmp_path, broken):
    found, notices = asked(CXX=broken, WSN_CACHE_DIR=str(tmp_path))
    assert not found and len(notices) == 1 and "no way" in notices[0]
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_two_processes_at_once_compile_once(tmp_path):
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda _: asked(WSN_CACHE_DIR=str(tmp_path)), range(2)))
    assert said == [(True, [])] * 2
    assert len(list((tmp_path / "native").glob("*.so"))) == 1


@needs_compiler
def test_a_damaged_library_is_compiled_anew_and_leftovers_go(tmp_path):
    old, fresh = tmp_path / ".old.so", tmp_path / ".fresh.so"
    for path in (old, fresh, tmp_path / f"{library.key(COMPILER)}.so"):
        path.write_text("nothing that a loader takes")
    os.utime(old, (0, 0))
    library.load(COMPILER, tmp_path).WsnSum  # noqa: B018
    assert {path.name for path in tmp_path.glob("*.so")} == {".fresh.so", f"{library.key(COMPILER)}.so"}
    assert (tmp_path / f"{library.key(COMPILER)}.so").read_bytes().startswith(b"\x7fELF")


@needs_compiler
def test_the_name_is_of_the_cpu_and_the_version_of_the_compiler(tmp_path, monkeypatch):
    """Not of the number of cores, which a share of the machine changes."""
    name = library.key(COMPILER)
    monkeypatch.setattr(compiled, "usable_cores", lambda: 999)
    assert library.key(COMPILER) == name
    monkeypatch.setattr(compiled, "cpu", lambda: ["another"])
    found = {name, library.key(COMPILER)}
    compiler = tmp_path / "c++"
    for version in (1, 2):
        compiler.write_text(f"#!/bin/sh\necho {version}\n")
        compiler.chmod(0o755)
        found.add(library.key(str(compiler)))
    assert len(found) == 4


@needs_compiler
def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "native").write_text("in the way")
    library.load(COMPILER, tmp_path / "native").WsnSum  # noqa: B018
    if os.geteuid():  # root writes everywhere
        folder = tmp_path / "closed"
        folder.mkdir()
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        library.load(COMPILER, folder / "native").WsnSum  # noqa: B018


DRIVER = r"""
#include "windows.h"
#include <cstdio>
#include <random>
// Layers of all kinds whose arrays have exactly their size: whatever reads beside them is found.
int main() {
  std::mt19937 random(0);
  auto below = [&](int n) { return int(random() % n); };
  for (int trial = 0; trial < 400; ++trial) {
    wsn::Layer layer{};
    layer.size = 1 + 2 * below(3), layer.stride = 1 + below(3), layer.batch = 1 + below(70);
    layer.in = {1 + below(4), 1 + below(6), 1 + below(6)};
    auto less = [&](int64_t n) { return (n + layer.stride - 1) / layer.stride; };
    layer.out = {1 + below(4), less(layer.in.height), less(layer.in.width)};
    if (trial % 2) layer.transposed = true, std::swap(layer.in, layer.out);
    std::vector<int32_t> start{0}, plane, tap, index;
    for (int u = 0; u < layer.out.count; ++u) {
      for (int t = below(9); t; --t)
        plane.push_back(below(layer.in.count)), tap.push_back(below(layer.size * layer.size)),
            index.push_back(index.size());
      start.push_back(plane.size());
    }
    wsn::Lists lists{start.data(), plane.data(), tap.data(), index.data()};
    auto floats = [&](wsn::Planes p) { return std::vector<float>(p.count * p.height * p.width * layer.batch, 1.0f); };
    std::vector<float> x = floats(layer.in), y = floats(layer.out), values(index.size(), 1.0f), gradient(index.size());
    wsn::sum_windows(layer, lists, values.data(), x.data(), y.data(), 0, layer.out.count, 0, layer.out.height);
    if (!layer.transposed)
      wsn::value_gradient(layer, lists, x.data(), y.data(), gradient.data(), 0, layer.out.count);
    double sum = 0;
    for (float v : y) sum += v;
    if (!(sum >= 0)) return 1;
  }
  std::puts("done");
}
"""


@needs_compiler
def test_kernels_stay_inside_their_arrays(tmp_path):
    source, program = tmp_path / "driver.cc", tmp_path / "driver"
    flags = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-g",
        "-O1",
        "-std=c++17",
        "-march=native",
    ]
    include = f"-I{Path(library.__file__).parent}"
    source.write_text("int main() {}")
    trial = subprocess.run([COMPILER, *flags, str(source), "-o", str(program)], capture_output=True)
    if trial.returncode:
        pytest.skip("the compiler has no sanitizer")
    source.write_text(DRIVER)
    subprocess.run(
        [COMPILER, *flags, include, str(source), "-o", str(program)], check=True, capture_output=True
    )
    said = subprocess.run([str(program)], capture_output=True, text=True)
    assert said.stdout == "done\n", said.stderr[:2000]
