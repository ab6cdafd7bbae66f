"""What goes into a wheel, and what its metadata says."""

from __future__ import annotations

import re
import runpy
import shutil

import nbformat
import pytest
import setuptools

import interact_jax
from tests.runs import ROOT

ADDRESS = "https://forge.example/team/interact_jax"


@pytest.fixture
def metadata(tmp_path, monkeypatch):
    """A function from the addresses of the package to what setup.py hands to setuptools."""

    def of(repository: str, documentation: str = ""):
        folder = tmp_path / "checkout"
        (folder / "interact_jax").mkdir(parents=True)
        for name in ("setup.py", "README.md"):
            shutil.copyfile(ROOT / name, folder / name)
        (folder / "interact_jax/__init__.py").write_text(
            f'__version__ = "1.2.3"\nREPOSITORY = "{repository}"\n'
            f'DOCUMENTATION = "{documentation}"\n'
        )
        found = {}
        monkeypatch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(folder / "setup.py"))
        return found

    return of


def links(text):
    return [(image, target) for image, target in re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", text)]


def test_without_a_repository_nothing_leads_into_one(metadata):
    found = metadata("")
    assert list(found["project_urls"]) == ["Paper"]
    assert links(found["long_description"])
    for _, target in links(found["long_description"]):
        assert target.startswith("https://")


def test_with_a_repository_everything_leads_there(metadata):
    found = metadata(ADDRESS, "https://docs.example")
    assert found["version"] == "1.2.3"
    assert found["project_urls"]["Issues"] == f"{ADDRESS}/issues"
    assert found["project_urls"]["Documentation"] == "https://docs.example"
    ours = [(image, target) for image, target in links((ROOT / "README.md").read_text())]
    theirs = links(found["long_description"])
    assert len(theirs) == len(ours)
    for (image, before), (_, after) in zip(ours, theirs, strict=True):
        if "://" not in before:
            way = "raw" if image else "blob"
            assert after == f"{ADDRESS}/{way}/main/{before}" and (ROOT / before).exists()


def test_every_folder_with_code_goes_into_the_wheel(monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = {
        file.parent.relative_to(ROOT)
        for top in ("interact_jax", "launch", "configs")
        for file in (ROOT / top).rglob("*.py")
    }
    packed = {found["package_dir"].get(name, name.replace(".", "/")) for name in found["packages"]}
    assert packed == {folder.as_posix() for folder in folders}
    for folder, pattern in (
        (package, pattern) for package, some in found["package_data"].items() for pattern in some
    ):
        assert list((ROOT / folder.replace(".", "/")).glob(pattern)), f"{folder}: no {pattern}"


def test_notebooks_know_the_address_of_the_package():
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells)
        assert re.findall(r'^REPOSITORY = "(.*?)"', code, re.M) == [interact_jax.REPOSITORY]


def test_a_citation_names_the_version_of_the_package():
    found = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert found and found[1] == interact_jax.__version__
