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
    name = f"{library.key(COMPILER)}.so"
    old, fresh = tmp_path / f".{name}.abcdefgh", tmp_path / f".{name}.hgfedcba"
    for path in (old, fresh, tmp_path / name):
        path.write_text("nothing that a loader takes")
    os.utime(old, (0, 0))
    library.load(COMPILER, tmp_path).WsnSum  # noqa: B018
    assert not old.exists() and fresh.exists()
    assert (tmp_path / name).read_bytes().startswith(b"\x7fELF")


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


TRIAL = """
int main() {
#if defined(__AVX2__)
  return !__builtin_cpu_supports("avx2");
#endif
}
"""
DRIVER = r"""
#include "windows.h"
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
// Layers of all kinds whose arrays have exactly their size: whatever reads beside them is found. Outputs and gradients
// equal what is added up one by one.
using namespace wsn;
int main() {
  std::mt19937 random(0);
  auto below = [&](int n) { return int(random() % n); };
  auto number = [&] { return below(201) / 100.0f - 1; };
  for (int trial = 0; trial < 600; ++trial) {
    Layer layer{};
    layer.first_plane = below(3);
    layer.size = 1 + 2 * below(3), layer.stride = 1 + below(3), layer.batch = 1 + below(70);
    layer.in = {1 + below(4), 1 + below(6), 1 + below(6)};
    if (trial % 3 == 0) layer.in.height = layer.in.width = layer.size = layer.stride = 1, layer.batch *= 1 + below(9);
    auto less = [&](int64_t n) { return (n + layer.stride - 1) / layer.stride; };
    layer.out = {1 + below(9), less(layer.in.height), less(layer.in.width)};
    if (trial % 2) layer.transposed = true, std::swap(layer.in, layer.out);
    std::vector<int32_t> start{0}, plane, tap, index;
    int often = below(4);
    for (int u = 0; u < layer.out.count; ++u) {
      for (int p = 0; p < layer.first_plane + layer.in.count + 1; ++p)  // some that x lacks
        for (int t = 0; t < layer.size * layer.size; ++t)
          if (below(4) <= often) plane.push_back(p), tap.push_back(t), index.push_back(index.size());
      start.push_back(plane.size());
    }
    Lists lists{start.data(), plane.data(), tap.data(), index.data()};
    auto floats = [&](size_t n) {  // on the heap, of exactly that many
      std::unique_ptr<float[]> made(new float[n]);
      for (size_t i = 0; i < n; ++i) made[i] = number();
      return made;
    };
    auto whole = [&](Planes p) { return size_t(p.count * p.pixels() * layer.batch); };
    auto x = floats(whole(layer.in)), y = floats(whole(layer.out)), values = floats(index.size());
    auto slopes = floats(whole(layer.out));
    Packing at = packing(layer), of_slopes = packing_of_slopes(layer, at);
    std::vector<double> gradient(index.size());
    auto packed = floats(layer.in.count * at.plane() * at.lanes);
    auto those = floats(layer.out.count * of_slopes.plane() * at.lanes);
    for (int64_t units : {int64_t(1), TOGETHER}) {
      auto ends = blocks(lists, layer.out.count, 1 + below(40), units);
      for (size_t part = 0; part + 1 < ends.size(); ++part)
        for (int64_t b = 0; b < layer.batch; b += at.lanes) {
          int64_t first = ends[part], last = ends[part + 1];
          Planes own{last - first, layer.out.height, layer.out.width};
          const float *in = x.get(), *out = slopes.get() + first * own.pixels() * layer.batch;
          if (at.packed) {
            pack(layer.in, layer.batch, at, in, b, packed.get());
            pack(own, layer.batch, of_slopes, out, b, those.get());
            in = packed.get(), out = those.get();
          }
          for (int64_t cls = 0; cls < layer.classes() * layer.classes(); ++cls) {
            Terms terms = terms_of(layer, at, grid(layer, cls), lists, values.get(), first, last, units);
            (units == 1 ? sum_windows<1> : sum_windows<TOGETHER>)(layer, at, grid(layer, cls), terms, in, b, y.get());
          }
          if (layer.transposed) continue;
          Terms terms = terms_of(layer, at, grid(layer, 0), lists, nullptr, first, last, units);
          std::vector<float> sums(terms.index.size());
          dot_windows(layer, at, terms, in, out, sums.data());
          for (size_t t = 0; t < sums.size(); ++t)
            if (terms.index[t] >= 0) gradient[terms.index[t]] += sums[t] / 2;  // of two ways
        }
    }
    // The same from the definition: y[unit, r, c] = the sum of value * x[plane, r * stride + dy, c * stride + dx].
    int64_t s = layer.stride, pad = layer.pad(), batch = layer.batch;
    Planes fine = layer.transposed ? layer.out : layer.in, coarse = layer.transposed ? layer.in : layer.out;
    std::vector<double> expected(whole(layer.out)), slope(index.size());
    for (int64_t u = 0; u < layer.out.count; ++u)
      for (int32_t t = start[u]; t < start[u + 1]; ++t)
        for (int64_t r = 0; r < coarse.height; ++r)
          for (int64_t c = 0; c < coarse.width; ++c) {
            int64_t y0 = r * s + tap[t] / layer.size - pad, x0 = c * s + tap[t] % layer.size - pad;
            if (y0 < 0 || x0 < 0 || y0 >= fine.height || x0 >= fine.width) continue;
            int64_t near = r * coarse.width + c, far = y0 * fine.width + x0;
            int64_t p = plane[t] - layer.first_plane;
            if (p < 0 || p >= layer.in.count) continue;
            int64_t from = p * layer.in.pixels() + (layer.transposed ? near : far);
            int64_t to = u * layer.out.pixels() + (layer.transposed ? far : near);
            for (int64_t b = 0; b < batch; ++b) {
              expected[to * batch + b] += double(values[index[t]]) * x[from * batch + b];
              slope[index[t]] += double(slopes[to * batch + b]) * x[from * batch + b];
            }
          }
    for (size_t i = 0; i < expected.size(); ++i)
      if (std::abs(expected[i] - y[i]) > 1e-4) return std::printf("output of trial %d", trial);
    for (size_t i = 0; !layer.transposed && i < slope.size(); ++i)
      if (std::abs(slope[i] - gradient[i]) > 1e-3) return std::printf("gradient of trial %d", trial);
  }
  std::puts("done");
}
"""


@needs_compiler
@pytest.mark.parametrize(
    "machine", ["native", "x86-64", "haswell"]
)  # registers of 16, 4 and 8 floats, at most
def test_kernels_sum_what_they_should_and_stay_inside_their_arrays(machine, tmp_path):
    source, program = tmp_path / "driver.cc", tmp_path / "driver"
    flags = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-g",
        "-O1",
        "-std=c++17",
        f"-march={machine}",
    ]
    include = f"-I{Path(library.__file__).parent}"
    source.write_text(TRIAL)
    trial = subprocess.run([COMPILER, *flags, str(source), "-o", str(program)], capture_output=True)
    if trial.returncode or subprocess.run([str(program)]).returncode:
        pytest.skip("no sanitizer, or no such machine")
    source.write_text(DRIVER)
    subprocess.run(
        [COMPILER, *flags, include, str(source), "-o", str(program)], check=True, capture_output=True
    )
    said = subprocess.run([str(program)], capture_output=True, text=True)
    assert said.stdout == "done\n", said.stdout + said.stderr[:2000]
