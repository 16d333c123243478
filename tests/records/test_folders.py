"""Paths that a user gives: of this machine, with `~` expanded, as text or as a path."""

from pathlib import Path

import pytest
import tiny

from experiments.lab.launch import Output, Run
from wsn import data, folders
from wsn.data.language.corpora import TEXTS
from wsn.data.prepared import data_folder
from wsn.data.speech.recordings import UTTERANCES
from wsn.errors import UserError
from wsn.records import runs
from wsn.spec import Group
from wsn.training import train

REMOTE = (
    "gs://bucket/x",
    "s3://bucket",
    "hdfs://host/x",
    "file:///x",
    "GS://bucket",
    "gs:/bucket",
    "https://x.org/y",
)
GROUP = Group((tiny.spec(),), (0,))
USES = {
    "workdir": lambda path: Output(path),
    "data_dir": lambda path: Run("out", data_dir=path),
    "workdir of runs": lambda path: runs.run([GROUP], path, lambda spec: tiny.SPLITS),
    "data_dir of TFDS": lambda path: data_folder(str(path)),
    "data_dir of texts": lambda path: TEXTS["text"].locate(str(path)),
    "data_dir of utterances": lambda path: UTTERANCES["packed"].locate(str(path)),
    "cache_dir": lambda path: data.load("digits", cache_dir=str(path)),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("path", [*REMOTE, Path("gs://bucket"), "~nobody_of_that_name/x"])
def test_remote_folders_and_unknown_homes_are_one_line(name, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=f"^`{name.split()[0]}={path}`: (folders and files are local|there is no)[^\n]*$"
    ):
        USES[name](path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["WSN_CACHE_DIR", "TFDS_DATA_DIR"])
@pytest.mark.parametrize("value", ["", "~/x", "gs://bucket"])
def test_variables_are_paths_too(variable, value, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    folder, default = folders.cache, ".cache/wsn"
    if variable == "TFDS_DATA_DIR":
        folder, default = lambda: Path(data_folder(None)), "tensorflow_datasets"
    if value.startswith("gs"):
        with pytest.raises(UserError, match=f"^`{variable}=gs://bucket`: folders and files are local[^\n]*$"):
            folder()
    else:
        assert folder() == tmp_path / (value[2:] or default)


@pytest.mark.parametrize("kind", [str, Path])
def test_home_is_expanded(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(train, "train", tiny.stub_train)
    assert Output(kind("~/out")).folder == tmp_path / "out"
    assert Run("out", data_dir=kind("~/data")).data_dir == str(tmp_path / "data")
    runs.run([GROUP], Path(kind("~/out")), lambda spec: tiny.SPLITS)
    assert (tmp_path / "out" / "runs" / GROUP.name / "record.jsonl").exists()
