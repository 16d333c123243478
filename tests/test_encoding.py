"""Text files are UTF-8 in every locale, and characters that a terminal lacks are escaped."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsn

ROOT = Path(wsn.__file__).parents[1]
FILES = sorted(
    path for package in ("wsn", "kernels", "experiments") for path in (ROOT / package).rglob("*.py")
)


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file, or reads the text of a process, in the encoding of the locale."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if isinstance(getattr(text := keywords.get("text"), "value", None), bool):
        return ast.literal_eval(text)
    builtin = isinstance(call.func, ast.Name) or name == "fdopen"
    arguments = [*call.args[1 if builtin else 0 :], *filter(None, [keywords.get("mode")])]
    modes = [
        a.value for a in arguments if isinstance(a, ast.Constant) and re.fullmatch("[rwxabt+]+", str(a.value))
    ]
    if name in ("open", "fdopen") and (builtin or modes or "newline" in keywords or not call.args):
        return not any("b" in mode for mode in modes)
    return False


def test_every_text_file_has_an_encoding():
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert places == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='w', encoding='utf-8')", False),
        ("path.open(newline='')", True),
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.write_text(text, 'utf-8')", False),
        ("run(command, text=True)", True),
        ("Image.open(file)", False),
    ],
)
def test_calls_without_an_encoding_are_recognized(code, expected):
    assert lacks_encoding(ast.parse(code, mode="eval").body) == expected


def test_a_command_in_an_ascii_locale_writes_the_same_files(tmp_path):
    """Though the name of its folder is not ASCII; characters that the terminal lacks are escaped."""
    utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(folder: Path, variables: dict[str, str], *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONIOENCODING": ""} | variables,
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    files = []
    for variables in (utf8, ascii):
        folder = tmp_path / variables["LC_ALL"]
        folder.mkdir()
        run(folder, variables, "-m", "experiments.layer_sparsity", "--widths=8,12", "--workdir=é")
        files.append({path.name: path.read_bytes() for path in (folder / "é").iterdir()})
    assert len(files[0]) == 4 and files[0] == files[1]
    assert "--workdir=é" in files[1]["layer_sparsity.command"].decode()
    code = "from experiments.lab import endings\nwith endings.streams(): print('\\u00d7')"
    assert [run(tmp_path, variables, "-c", code) for variables in (utf8, ascii)] == ["×\n", "\\xd7\n"]
