"""The notebooks run from top to bottom, in a kernel of their own, and install what they need."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import AutoModelForCausalLM, AutoTokenizer

import interact_jax
from tests.runs import ROOT, read_lines, tiny

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]  # as their readers have

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(name):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def cell_with(notebook, text):
    """The source of the only cell of code that has this text."""
    (found,) = (c.source for c in notebook.cells if c.cell_type == "code" and text in c.source)
    return found


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """A function that runs a notebook in `tmp_path`, with other values behind its cell of settings
    (tagged "parameters"), and gives the executed one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(name, **values):
        notebook = read(name)
        (at,) = (
            n
            for n, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", ())
        )
        for setting in values:
            assert re.search(rf"^{setting} = ", notebook.cells[at].source, re.M)
        lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(lines))
        where = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=600, resources=where).execute()
        return notebook

    return run


def printed(notebook, below=""):
    """What cells of code have printed; or the one that has `below` in its source."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and below in c.source]
    assert cells
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def pages(notebook):
    """The pages of reports that are shown, by their titles."""
    shown = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    found = [unescape(re.search(r'srcdoc="([^"]*)"', one)[1]) for one in shown if "srcdoc" in one]
    return {re.search("<title>(.*?)</title>", page)[1]: page for page in found}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_shipped_without_results(file):
    cells = nbformat.read(file, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_quickstart(execute, tmp_path):
    # Enough to go through every cell.
    short = ["steps=3", "epochs=0", "evaluation.replies=16", "evaluation.prompts=8"]
    notebook = execute("quickstart", WORKDIR=str(tmp_path / "run"), CHANGES=short)
    assert "tokens in place of" in printed(notebook)
    assert "model.safetensors" in printed(notebook)
    assert (tmp_path / "run/report/before_after.png").exists()
    assert set(pages(notebook)) == {"Training run: pocket on pocket", "Signal before training"}


@pytest.mark.slow
def test_your_logs(execute, tmp_path):
    """From a log to a report and a model that transformers loads, with a tiny model in place of the
    download."""
    tiny(tmp_path / "model", max_position_embeddings=2048)
    notebook = execute(
        "your_logs",
        MODEL=str(tmp_path / "model"),
        EPOCHS=0.2,
        MORE="--config.evaluation.new_tokens=8 --config.evaluation.interactions=64 "
        "--config.check_hindsight=0 --config.report.interactions=0",
    )

    # What was read, mended and left out; a conversation, and its tree.
    read_of = printed(notebook, "read_conversations(")
    assert "121 records: 120 conversations, 240 interactions" in read_of
    assert "1 x broken JSON, such as runs/example.jsonl:121" in read_of
    assert "1 x two messages of one role in a row, such as runs/example.jsonl:8" in read_of
    assert "user: Capital of Algeria?" in printed(notebook, "message.role")
    looked = printed(notebook, "--check-hindsight")
    assert "tokens in place of" in looked
    assert "120 revised replies" in looked
    assert len(read_lines(tmp_path / "runs/scores.jsonl")) == 240

    # Measured before and after.
    held_out = int(
        re.search(r"held out, to measure by: (\d+) of 120", printed(notebook, " train "))[1]
    )
    assert 15 < held_out < 60
    table = printed(notebook, "before_after_lines").splitlines()
    assert table[0].split() == ["before", "after", "difference"]
    rows = {row.split()[0]: row.split()[1:3] for row in table[1:]}
    assert {"held_out_signal_abs", "held_out_margin", "held_out_distance"} <= set(rows)
    assert rows["held_out_margin"][0] != rows["held_out_margin"][1], "nothing was learned"

    # The pages: signal, replies side by side, the run.
    shown = pages(notebook)
    assert len(shown) == 3
    (replies,) = (page for title, page in shown.items() if title.startswith("Replies"))
    assert "All 16 replies are shown." in replies
    assert "capital of" in replies and "follow-up to the reply in the log" in replies
    (run,) = (page for title, page in shown.items() if title.startswith("Training run"))
    assert "Before and after" in run and "held-out" in run

    # The export: listed, loaded by a cell of the notebook, and here.
    assert "model.safetensors" in printed(notebook, "iterdir()")
    export = tmp_path / "runs/mine/export"
    model = AutoModelForCausalLM.from_pretrained(export)
    assert model.config.model_type == "qwen3"
    assert len(AutoTokenizer.from_pretrained(export)) <= model.config.vocab_size


@pytest.mark.slow
def test_first_steps_on_a_tpu_vm(execute, tmp_path, monkeypatch):
    """On eight virtual devices, and last in two processes with four each."""
    monkeypatch.delenv("XLA_FLAGS")
    tiny(tmp_path / "model", max_position_embeddings=2048)
    small = "--config.data.max_length=1024 --config.batch.row_tokens=1024 --config.batch.rows=1 "
    small += "--config.evaluation.name=none --config.check_hindsight=0 "
    small += "--config.report.interactions=0 --config.evaluation.holdout=0"
    notebook = execute("tpu_vm", MODEL=str(tmp_path / "model"), STEPS=4, MORE=small)
    assert "8 x cpu (cpu)" in printed(notebook, "def ask")
    assert "on 8 x cpu: fsdp=8" in printed(notebook, "mesh.fsdp=-1 --config.steps={STEPS}")
    went_on = printed(notebook, "mesh.tensor={tensor}")
    assert "resuming from step 4" in went_on and "8 steps; the first took" in went_on
    together = printed(notebook, "supervise --local 2")
    assert "resuming from step 8" in together and "12 steps; the first took" in together
    assert "model.safetensors" in printed(notebook, "iterdir()")


def test_files_are_uploaded_where_colab_is(tmp_path, monkeypatch):
    """The cell asks `google.colab` for files, and takes them all from a folder of their own."""
    colab = ModuleType("google.colab")
    colab.files = ModuleType("google.colab.files")
    colab.files.upload = lambda: {"a.jsonl": b"{}\n", "b (1).jsonl.gz": b"\x1f\x8b"}
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uploaded").mkdir()
    (tmp_path / "uploaded/earlier.jsonl").write_text("{}")
    names = {"DATA": "upload", "Path": Path}
    exec(cell_with(read("your_logs"), "files.upload()"), names)
    assert names["DATA"] == "uploaded"
    there = {file.name: file.read_bytes() for file in (tmp_path / "uploaded").iterdir()}
    assert there == {"a.jsonl": b"{}\n", "b (1).jsonl.gz": b"\x1f\x8b"}


# ----------------------------------------------------------------------------------------- install


INSTALL = cell_with(read("quickstart"), "REPOSITORY = ")
THEN = """
import interact_jax
subprocess.run([sys.executable, "-m", "interact_jax", "--version"], check=True)
print("from", interact_jax.__file__)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that runs the cell that installs, in a `folder`, by a Python that has pip and
    setuptools and fetches nothing; with this `repository`, and what `nvidia-smi` says is the
    driver."""
    venv.create(tmp_path / "python", with_pip=False)
    python = tmp_path / "python/bin/python"
    (site,) = (tmp_path / "python/lib").glob("*/site-packages")
    for name in ("pip", "setuptools", "_distutils_hack"):
        for path in Path(sysconfig.get_path("purelib")).glob(f"{name}*"):
            (site / path.name).symlink_to(path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, value in {"NO_DEPS": "1", "NO_INDEX": "1", "NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)

    def run(folder, repository="", driver=""):
        nvidia_smi = tmp_path / "bin/nvidia-smi"
        nvidia_smi.write_text(f"#!/bin/sh\necho '{driver or 'NVIDIA-SMI has failed'}'\n")
        nvidia_smi.chmod(0o755)
        cell = INSTALL.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        return subprocess.run(
            [python, "-c", cell + THEN], cwd=folder, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what is installed from."""
    copy = tmp_path_factory.mktemp("copy") / "interact_jax"
    nothing = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("interact_jax", "launch", "configs", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=nothing)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, copy / name)
    return copy


def test_the_notebooks_install_in_the_same_way():
    assert {cell_with(read(file.stem), "REPOSITORY = ") for file in NOTEBOOKS} == {INSTALL}


@pytest.mark.parametrize(
    "where, driver, extra",
    [
        pytest.param("notebooks", "", "", marks=pytest.mark.slow),
        (".", "580.65.06", "[cuda]"),
    ],
)
def test_without_an_address_a_notebook_installs_the_folder_it_lies_in(
    where, driver, extra, checkout, install
):
    done = install(checkout / where, driver=driver)
    assert done.returncode == 0, done.stderr
    assert f"installing -e {checkout}{extra}\n" in done.stdout
    assert f"from {checkout}/interact_jax/__init__.py" in done.stdout
    assert f"interact_jax {interact_jax.__version__}" in done.stdout


@pytest.fixture
def served(checkout, tmp_path, monkeypatch):
    """The address of a repository that git can clone."""
    repository = shutil.copytree(checkout, tmp_path / "served/interact_jax")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", "-C", repository]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"], ["update-server-info"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/interact_jax/.git"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_with_an_address_a_notebook_installs_from_there(served, install, tmp_path):
    (tmp_path / "interact_jax").mkdir()  # a folder of that name is no package
    done = install(tmp_path, repository=served, driver="550.54.15")
    assert done.returncode == 0, done.stderr
    assert f"installing interact_jax[cuda12] @ git+{served}" in done.stdout
    assert f"from {tmp_path}/python/lib" in done.stdout


def test_a_notebook_that_lies_alone_says_what_it_needs(install, tmp_path):
    done = install(tmp_path)
    assert "Set REPOSITORY to the project's address, or go to a copy" in done.stderr


def test_what_stops_pip_is_told(install, tmp_path):
    done = install(tmp_path, repository="http://127.0.0.1:1/nowhere")
    assert "RuntimeError" in done.stderr and "127.0.0.1:1/nowhere" in done.stderr
