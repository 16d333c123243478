"""The example of the README of wsn/records runs."""

import re
from pathlib import Path

from wsn import records


def test_the_example_runs_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r"```python\n(.*?)```", Path(records.__path__[0], "README.md").read_text(), re.DOTALL
    )
    printed = []
    for _ in range(2):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and len(printed[0].splitlines()) == 3
    assert len(list(tmp_path.glob("results/mine/runs/*/record.jsonl"))) == 1
