"""Folders that are beside the package in a checkout, and inside it when installed: the recipes
(`configs`) and the programs (`launch`). setup.py puts them there."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The path of a shipped folder."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def names(name: str) -> list[str]:
    """The names of the Python files of a shipped folder, without their suffix."""
    return sorted(file.stem for file in folder(name).glob("[!_]*.py"))
