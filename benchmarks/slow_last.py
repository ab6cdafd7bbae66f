"""A pytest plugin, for runs that end at the first failure: slow tests after all the quick ones.

With TEST_TIMES=FILE, a run writes there how many seconds each of its tests takes, and runs after it
put those that took more than SLOW seconds last.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SLOW = 1.0  # seconds, with what a test sets up

taken: Counter[str] = Counter()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    file = Path(os.environ["TEST_TIMES"])
    if file.exists():
        seconds = json.loads(file.read_text())
        items.sort(key=lambda item: seconds.get(item.nodeid, 0) > SLOW)


def pytest_runtest_logreport(report: Any) -> None:
    taken[report.nodeid] += report.duration


def pytest_sessionfinish() -> None:
    file = Path(os.environ["TEST_TIMES"])
    if not file.exists():
        file.write_text(json.dumps(taken))
