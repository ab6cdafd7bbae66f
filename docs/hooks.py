"""What makes the pages of the site from the files of the repository (mkdocs.yml names this file).

Links between files are written as they work in the repository. On the site, those to another page
lead to that page, and bear its title where they bear its path; those to any other file lead into
the repository, where it has an address.
"""

from __future__ import annotations

import os.path
import posixpath
import re
from pathlib import Path
from typing import Any

import interact_jax

ROOT = Path(__file__).resolve().parents[1]
TOP = {  # files at the top of the repository that are pages
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(^(?:```.*?^```| {4}[^\n]*))", re.DOTALL | re.MULTILINE)


def on_config(config: Any) -> None:
    """Addresses are those of the package; without one the site has no such link."""
    if interact_jax.DOCUMENTATION:
        config.site_url = interact_jax.DOCUMENTATION + "/"
    if interact_jax.REPOSITORY:
        config.repo_url = interact_jax.REPOSITORY
        config.repo_name = posixpath.basename(interact_jax.REPOSITORY)


def on_files(files: Any, config: Any) -> None:
    """Add the pages that lie at the top of the repository."""
    from mkdocs.structure.files import File

    for name, page in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page with its links as the site has them."""
    homes = {site: name for name, site in TOP.items()}
    here = page.file.src_uri
    return relinked(markdown, homes.get(here, f"docs/{here}"), here, interact_jax.REPOSITORY)


def title(path: str) -> str:
    """The heading of a page, a path in the repository; the path where it has none."""
    found = re.search(r"^# (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else path


def relinked(markdown: str, file: str, page: str, repository: str) -> str:
    """The text of `file`, a path in the repository, for its `page` of the site. Raises ValueError
    for a link to what is not there."""

    def link(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups()
        if not target or ":" in target:
            return found[0]
        path = os.path.normpath(posixpath.join(posixpath.dirname(file), target))
        if not (ROOT / path).exists():
            raise ValueError(f"{file}: a link to {target}, which is not there")
        site = TOP.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if site is not None:
            text = title(path) if not image and text in (path, target) else text
            target = posixpath.relpath(site, posixpath.dirname(page) or ".")
            return f"{image}[{text}]({target}{anchor or ''})"
        return f"{image}[{text}]({repository}/blob/main/{path})" if repository else text

    parts = CODE.split(markdown)  # every second one is code
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(parts))
