"""The list of folders is the road: imports run one way, down, and never in a circle."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import wsn

ROOT = Path(wsn.__file__).parents[1]
# From the ground up; a room imports from those before it and from itself.
ROOMS = [
    *("errors", "folders", "machine", "stored", "spec", "seeds", "devices", "native", "sparsity", "data"),
    *("networks", "tasks", "training", "records"),
]


def modules(package: str) -> dict[str, Path]:
    """Module name → file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of the project that a file names in its imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names & known


ALL = {name: path for package in ("wsn", "kernels", "experiments") for name, path in modules(package).items()}
IMPORTS = {name: imported(path, set(ALL)) - {name} for name, path in ALL.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_folder_of_wsn_is_on_the_road():
    assert {room(name) for name in modules("wsn") if "." in name} == set(ROOMS)


def test_rooms_import_from_below_alone():
    upwards = [
        (name, other)
        for name in modules("wsn")
        for other in IMPORTS[name]
        if "." in other and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not upwards


def test_packages_import_one_way():
    """The library knows neither theory nor experiments; theory needs no training; experiments share through lab."""
    for name, others in IMPORTS.items():
        package = name.split(".")[0]
        if package == "wsn":
            assert all(other.startswith("wsn") for other in others), name
        if package == "kernels":
            assert all(other.split(".")[0] in ("kernels", "wsn") for other in others), name
            assert not [o for o in others if o.startswith(("wsn.training", "wsn.records"))], name
        if name.startswith("experiments.lab"):
            scripts = [
                o for o in others if o.startswith("experiments.") and not o.startswith("experiments.lab")
            ]
            assert not scripts, name


def test_no_circle():
    """A package's face (its __init__) hands on names and counts as the files that it names."""
    faces = {name for name, path in ALL.items() if path.name == "__init__.py"}
    graph = {name: others - faces for name, others in IMPORTS.items() if name not in faces}
    graphlib.TopologicalSorter(graph).prepare()


def test_a_task_alone_says_what_is_measured():
    """Nothing outside a task knows of a metric by name."""
    for name, path in modules("wsn").items():
        if not name.startswith("wsn.tasks"):
            assert "accuracy" not in path.read_text(), name


def test_the_library_of_sparsity_needs_neither_data_nor_figures():
    code = "import sys, pkgutil, importlib, wsn.sparsity as s\n" + (
        "for m in pkgutil.iter_modules(s.__path__): importlib.import_module(f'wsn.sparsity.{m.name}')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('matplotlib', 'tensorflow_datasets', 'sklearn')"
        " or m.startswith(('wsn.data', 'wsn.training', 'wsn.networks', 'wsn.records'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"
