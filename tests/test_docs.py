"""What the documentation says is so: links, commands, messages, the list of modules."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex

import pytest

from interact_jax import config
from interact_jax.data.columns import USUAL
from interact_jax.data.conversations import read_conversations
from interact_jax.hindsight_check import HindsightCheck
from launch import (
    aloe,
    answer,
    bench,
    chat,
    evaluate,
    export,
    generate,
    grade,
    inspect_data,
    plan,
    prepare_data,
    score,
    supervise,
    train,
)
from tests.runs import ROOT
from tests.snippets import python_blocks

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
RECIPES = sorted((ROOT / "configs").glob("*.py"))
LAUNCHED = sorted((ROOT / "launch").glob("*.py"))
PROGRAMS = {
    "aloe": aloe,
    "answer": answer,
    "bench": bench,
    "chat": chat,
    "evaluate": evaluate,
    "export": export,
    "generate": generate,
    "grade": grade,
    "inspect_data": inspect_data,
    "plan": plan,
    "prepare_data": prepare_data,
    "score": score,
    "supervise": supervise,
    "train": train,
}
COMMAND = re.compile(r"(?:python launch/(\w+)\.py|interact ([\w-]+)) ([^&|;)]*)")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def hooks():
    """The module that makes the site; no part of a package."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere_in_the_repository_and_on_the_site(page, hooks):
    text, file = page.read_text(), name_of(page)
    site = hooks.TOP.get(file, file.removeprefix("docs/"))
    pages = {hooks.TOP.get(name_of(p), name_of(p).removeprefix("docs/")) for p in PAGES}
    for _, _, target, _ in hooks.LINK.findall(hooks.relinked(text, file, site, "")):
        if target and ":" not in target:
            there = os.path.normpath(os.path.join(os.path.dirname(site), target))
            assert there in pages or (DOCS / there).is_file(), f"{file}: {target}"


def test_links_to_what_is_no_page_lead_into_the_repository_or_away(hooks):
    text = (
        "See [the licence](../LICENSE), ![it](pictures/before_after.png), [home](../README.md#a)."
    )
    rest = "![it](pictures/before_after.png), [home](index.md#a)."
    without = hooks.relinked(text, "docs/data.md", "data.md", "")
    assert without == f"See the licence, {rest}"
    with_one = hooks.relinked(text, "docs/data.md", "data.md", "https://forge.example/a/b")
    assert with_one == f"See [the licence](https://forge.example/a/b/blob/main/LICENSE), {rest}"
    named = hooks.relinked(
        "[docs/data.md](docs/data.md), [x](docs/data.md)", "README.md", "index.md", ""
    )
    assert named == "[Your own data](data.md), [x](data.md)"
    with pytest.raises(ValueError, match=r"docs/data\.md: a link to absent\.md"):
        hooks.relinked("[x](absent.md)", "docs/data.md", "data.md", "")


def commands(text):
    """(program, arguments) of every command of ours, but for those that leave something out."""
    whole = text.replace("\\\n", " ")
    for line in whole.splitlines():
        for found in COMMAND.finditer(line):
            script, command, given = found.groups()
            name = (script or command).replace("-", "_")
            shown = line.startswith((" ", "interact", "pip", "python")) or "FLAGS" in line
            if shown and name in PROGRAMS and "…" not in given and "..." not in given:
                yield name, shlex.split(given.split("`")[0])


def text_of(file):
    """What is read: pages and recipes as they are, a program's docstring as --help prints it."""
    text = file.read_text()
    return ast.get_docstring(ast.parse(text)) if file.parent.name == "launch" else text


@pytest.mark.parametrize("file", [*PAGES, *RECIPES, *LAUNCHED], ids=name_of)
def test_commands_are_accepted(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, given in commands(text_of(file)):
        if name == "supervise":
            _, (program, *given) = supervise.parse(given)
            name = os.path.basename(program).removesuffix(".py")
        if name in ("train", "plan", "chat"):
            args, overrides = PROGRAMS[name].parse(given)
            config.load(args.config, overrides)
        else:
            PROGRAMS[name].parse(given)


def test_messages_of_a_table_are_grouped(tmp_path, monkeypatch):
    """With the files as they are shown."""
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(
        r"cat > (\S+) <<'END'\n(.*?)END\n", (DOCS / "data.md").read_text(), re.DOTALL
    ):
        (tmp_path / name).write_text(content)
    tickets, report = read_conversations("tickets.csv", mapping="columns.toml")
    told, _ = read_conversations("talks.jsonl")
    assert [[m.content for m in c.messages] for c in tickets] == [
        [m.content for m in c.messages[:3]] for c in told
    ]
    assert [c.id for c in tickets] == ["7", "8"] and tickets[0].meta == {"rating": 2.0}
    assert not report.lost and not report.mended


def test_usual_names_of_columns_are_those_that_are_listed():
    for field, names in USUAL.items():
        listed = ", ".join(f"`{name}`" for name in names.split(", "))
        assert f"| {field} | {listed} |" in (DOCS / "data.md").read_text()


def test_users_react_and_endpoints_open_as_shown(capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # somebody's own server may want none
    scripted, endpoint, _ = python_blocks("users.md")
    names = {}
    exec(scripted, names)
    (reaction,) = names["reactions"]
    assert reaction.kind == "complaint" and capsys.readouterr().out == f"{reaction.text}\n"
    exec(endpoint, names)
    assert (names["model"].model, names["model"].concurrency) == ("Qwen/Qwen3-8B", 32)


def test_the_hindsight_check_reads_as_shown():
    lines = HindsightCheck(512, relevant=8.72, shuffled=1.0, helped=0.84, error=0.022).lines()
    shown = "".join(f"    {line}\n" for line in lines)
    assert shown in (DOCS / "objectives.md").read_text()


def test_there_are_commands_to_accept():
    counts = {name_of(f): len(list(commands(text_of(f)))) for f in (*PAGES, *RECIPES, *LAUNCHED)}
    for page in ("README.md", "docs/data.md", "docs/resume_and_export.md", "docs/performance.md"):
        assert counts[page] >= 4
    for file in (*RECIPES, *LAUNCHED):
        own = file.parent.name == "launch" and file.stem not in PROGRAMS
        assert counts[name_of(file)] >= 1 or own, file


def test_the_messages_that_are_explained_are_those_of_the_program():
    files = [*(ROOT / "interact_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    explained = re.findall(r"^\*\*`(.*?)`\*\*", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(explained) > 20
    for message in explained:
        fixed = max(re.findall(r"[A-Za-z ,]+", message), key=len).strip(" ,")
        assert fixed in source, message


def test_the_reference_has_every_module_once():
    named = [
        name
        for page in sorted((DOCS / "reference").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in (ROOT / "interact_jax").rglob("*.py")
    }
    assert sorted(named) == sorted(modules - {"interact_jax", "interact_jax.__main__"})
