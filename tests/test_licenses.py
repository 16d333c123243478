"""The licenses of all that an installation brings: licenses.csv has each once, as its own metadata say it.

python tests/test_licenses.py > tests/licenses.csv     # after constraints.txt has changed
"""

import csv
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LICENSES = Path(__file__).with_name("licenses.csv")


def pinned() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line.partition("==")[0] for line in lines if line and not line.startswith("#")]


def license(name: str) -> str:
    """By the expression, else by the classifiers, else by the first line of the text. Raises PackageNotFoundError."""
    found = importlib.metadata.metadata(name)
    if expression := found.get("License-Expression"):
        return expression
    classified = [
        kind.rpartition(" :: ")[2]
        for kind in found.get_all("Classifier") or []
        if re.match("License :: (?!OSI Approved$)", kind)
    ]
    told = (found.get("License") or "").strip().splitlines()
    return " and ".join(sorted(classified)) or (told[0] if told else "not said")


def written() -> dict[str, str]:
    with open(LICENSES, newline="") as file:
        return {row["package"]: row["license"] for row in csv.DictReader(file)}


def test_every_pinned_package_is_listed_once_with_its_license():
    names = [line.partition(",")[0] for line in (LICENSES).read_text().splitlines()[1:]]
    assert names == pinned()
    assert all(written().values())


@pytest.mark.parametrize("name", pinned())
def test_a_license_is_that_of_the_installed_package(name):
    try:
        found = license(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    assert written()[name] == found


if __name__ == "__main__":
    before = written() if (LICENSES).exists() else {}
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["package", "license"])
    for package in pinned():
        try:
            table.writerow([package, license(package)])
        except importlib.metadata.PackageNotFoundError:
            table.writerow([package, before[package]])
