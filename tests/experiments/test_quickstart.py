"""The notebook runs from its first cell to its picture."""

from pathlib import Path

import pytest

import experiments

TEXT = (Path(experiments.__file__).parent / "quickstart.py").read_text()


@pytest.mark.slow
def test_eight_cells_from_a_budget_to_a_figure(tmp_path, monkeypatch, capsys):
    cells = [cell for cell in TEXT.split("# %% ")[1:] if not cell.startswith("[markdown]")]
    assert len(cells) == 8
    monkeypatch.chdir(tmp_path)
    quick = TEXT.replace("(3, 6, 12, 18), (0, 1, 2), 60", "(3, 6), (0, 1), 5")
    assert quick != TEXT
    exec(compile(quick, "quickstart.py", "exec"), {"__name__": "notebook"})
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "3 dense" and lines[1].startswith("6 {") and lines[-1] == "wrote results/quickstart.png"
    )
    assert [line.split(":")[0] for line in lines[2:4]] == ["width  3", "width  6"]
    assert (tmp_path / "results" / "quickstart.png").read_bytes().startswith(b"\x89PNG")
