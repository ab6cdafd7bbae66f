"""Folders that stand beside the package in a checkout, and inside it where it is installed: the
recipes (`configs`) and the programs (`launch`). setup.py puts them there."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """Where a shipped folder is."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def names(name: str) -> list[str]:
    """The Python files of a shipped folder, without their ending."""
    return sorted(file.stem for file in folder(name).glob("[!_]*.py"))
