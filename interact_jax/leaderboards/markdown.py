"""What Arena-Hard notes about the form of an answer: headers, list items and bold text."""

from __future__ import annotations

import re
from typing import Any

FENCE = re.compile(r"```[^`]*```")
LISTS = {"ordered": r"^\s*\d+\.\s", "unordered": r"^\s*[-*+]\s"}
BOLD = {"**": r"\*\*[^*\n]+\*\*", "__": r"__[^_\n]+__"}


def count_markdown(text: str) -> dict[str, dict[str, int]]:
    """Counts outside code fences, under the names and by the patterns of Arena-Hard-Auto:

    "# A\\n- b\\n```\\n# c\\n```"  ->  header_count.h1 = 1, list_count.unordered = 1, the rest 0
    """
    text = FENCE.sub("", text)
    headers = {f"h{depth}": rf"^#{{{depth}}}\s" for depth in range(1, 7)}
    groups: dict[str, dict[str, Any]] = {
        "header_count": headers,
        "list_count": LISTS,
        "bold_count": BOLD,
    }
    return {
        group: {name: len(re.findall(pattern, text, re.M)) for name, pattern in patterns.items()}
        for group, patterns in groups.items()
    }
