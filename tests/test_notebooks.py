"""The notebooks run from top to bottom, in a kernel of their own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHORT = "steps=12 epochs=0 evaluation.replies=64"  # enough to go through every cell


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(file, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERACT_WORKDIR", str(tmp_path))
    monkeypatch.setenv("INTERACT_OVERRIDES", SHORT)
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as its readers have
    monkeypatch.setenv("PYTHONPATH", str(file.parents[1]))
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # shipped without results
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(file.parent)}}
    ).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "tokens in place of" in printed
    assert "model.safetensors" in printed
    assert (tmp_path / "report" / "before_after.png").exists()
