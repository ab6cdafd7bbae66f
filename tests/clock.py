"""Another day, for the processes that render chat templates: their Python sees it as it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interact_jax.data import templates

LATER = """
import datetime


class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=1000)


datetime.datetime = Later
"""


@contextlib.contextmanager
def another_clock(monkeypatch: Any, directory: Path) -> Iterator[None]:
    """Templates that are loaded meanwhile are rendered a thousand days later."""
    place = directory / "later"
    place.mkdir()
    (place / "sitecustomize.py").write_text(LATER)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        templates._process.cache_clear()
        yield
    templates._process.cache_clear()
