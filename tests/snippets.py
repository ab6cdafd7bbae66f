"""The code that the documentation shows, to be run as it stands."""

from __future__ import annotations

import re

from tests.runs import ROOT


def python_blocks(page: str) -> list[str]:
    """The fenced blocks of Python of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def entry(page: str, name: str) -> str:
    """What a page in docs/ says that a table has under `name`: of `"name": VALUE`, the VALUE."""
    found = re.search(rf'`"{name}": (.+?)`', (ROOT / "docs" / page).read_text())
    assert found, f"{page} has no entry {name!r}"
    return found[1]
