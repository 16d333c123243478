"""Native ops are compiled once, safely, or replaced by plain JAX; and they never read outside their arrays."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsn.devices import compiled
from wsn.native import library

COMPILER = library.find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def available_in_another_process(**environment):
    """(whether native ops are available, the lines of stderr)."""
    code = "from wsn.native import library; print(library.available())"
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return run.stdout.strip() == "True", run.stderr.strip().splitlines()


def script(path, line):
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("broken", [False, True])
def test_without_a_working_compiler_there_is_one_notice(broken, tmp_path):
    compiler = script(tmp_path / "c++", "echo no way >&2; exit 1") if broken else "no-such-compiler"
    available, notices = available_in_another_process(CXX=compiler, WSN_CACHE_DIR=str(tmp_path))
    assert not available and len(notices) == 1
    assert ("no way" if broken else "no C++ compiler") in notices[0]
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_two_processes_at_once_compile_once(tmp_path):
    with ThreadPoolExecutor() as pool:
        answers = list(
            pool.map(lambda _: available_in_another_process(WSN_CACHE_DIR=str(tmp_path)), range(2))
        )
    assert answers == [(True, [])] * 2
    assert len(list((tmp_path / "native").glob("*.so"))) == 1


@needs_compiler
def test_a_corrupt_library_is_recompiled_and_old_leftovers_are_removed(tmp_path):
    name = f"{library.key(COMPILER)}.so"
    old, fresh = tmp_path / f".{name}.abcdefgh", tmp_path / f".{name}.hgfedcba"
    for path in (old, fresh, tmp_path / name):
        path.write_text("no library")
    os.utime(old, (0, 0))
    library.load(COMPILER, tmp_path).WsnSum  # noqa: B018
    assert not old.exists() and fresh.exists()
    assert (tmp_path / name).read_bytes().startswith(b"\x7fELF")


@needs_compiler
def test_the_name_depends_on_the_cpu_and_the_compiler_version_only(tmp_path, monkeypatch):
    """Not on the number of cores, which differs between workers on one machine."""
    name = library.key(COMPILER)
    monkeypatch.setattr(compiled, "usable_cores", lambda: 999)
    assert library.key(COMPILER) == name
    monkeypatch.setattr(compiled, "cpu", lambda: ["another"])
    versions = [library.key(script(tmp_path / "c++", f"echo {version}")) for version in (1, 2)]
    assert len({name, library.key(COMPILER), *versions}) == 4


@needs_compiler
def test_a_folder_that_is_not_writable_is_no_obstacle(tmp_path):
    (tmp_path / "native").write_text("a file, not a folder")
    library.load(COMPILER, tmp_path / "native").WsnSum  # noqa: B018
    if os.geteuid():  # root can write everywhere
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
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
// Random layers whose arrays have exactly their size, so that the sanitizer catches any read outside. Outputs and
// gradients equal sums from the definition.
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
      for (int p = 0; p < layer.first_plane + layer.in.count + 1; ++p)  // some outside x
        for (int t = 0; t < layer.size * layer.size; ++t)
          if (below(4) <= often) plane.push_back(p), tap.push_back(t), index.push_back(index.size());
      start.push_back(plane.size());
    }
    Lists lists{start.data(), plane.data(), tap.data(), index.data()};
    auto floats = [&](size_t n) {  // on the heap, of exactly this size
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
            if (terms.index[t] >= 0) gradient[terms.index[t]] += sums[t] / 2;  // both numbers of units at once
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
@pytest.mark.parametrize("machine", ["native", "x86-64", "haswell"])  # registers of up to 16, 4 and 8 floats
def test_sums_are_right_and_stay_inside_their_arrays(machine, tmp_path):
    source, program = tmp_path / "driver.cc", tmp_path / "driver"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*sanitizers, "-g", "-O1", "-std=c++17", f"-march={machine}", f"-I{library.SOURCE.parent}"]
    command = [COMPILER, *flags, str(source), "-o", str(program)]
    source.write_text(TRIAL)
    if subprocess.run(command, capture_output=True).returncode or subprocess.run([str(program)]).returncode:
        pytest.skip("no sanitizer, or a CPU of another kind")
    source.write_text(DRIVER)
    subprocess.run(command, check=True, capture_output=True)
    run = subprocess.run([str(program)], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stdout + run.stderr[:2000]
