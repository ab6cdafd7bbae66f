"""benchmarks/claims.py on a few interactions, and its page on records that are written here."""

import dataclasses
import functools
import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import claims, claims_asked, claims_page
from interact_jax import config
from interact_jax.online.schedule import parse_schedule, phase_at
from tests.runs import outcome, read_lines, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

TWO = ["--quick", "--only", "(personalise|unrelated)/emoji,-sentence,polite/recommended/0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the first of two cases, and a page of them."""
    folder = tmp_path_factory.mktemp("claims")
    claims.main([*places(folder), "--quick", "--only", "unrelated/emoji,.*/recommended/0"])
    return folder


def places(folder):
    return ["--out", str(folder), "--docs", str(folder / "docs")]


@pytest.mark.slow
def test_goes_on_where_it_was(folder, capsys):
    file = folder / "RESULTS.jsonl"
    before = file.read_text()
    claims.main([*places(folder), *TWO, "--list"])
    assert "1 are done, 1 are left" in capsys.readouterr().out
    claims.main([*places(folder), *TWO, "--minutes", "0"])
    assert "1 cases are left" in capsys.readouterr().out and file.read_text() == before
    claims.main([*places(folder), *TWO])
    assert file.read_text().startswith(before)
    unrelated, personal = read_lines(file)
    assert (unrelated["kind"], personal["kind"]) == ("unrelated", "personalise")
    for record in (unrelated, personal):
        assert [mark["interactions"] for mark in record["marks"]] == [0, 10, 20]
    first, same = (record["marks"][0]["correct"] for record in (unrelated, personal))
    assert first == same  # of one model and seed
    text = (folder / "docs" / "claims.md").read_text()
    assert "2 runs are done" in text and f"{len(claims.cases()) - 2} are left" in text
    for kind in ("personalise", "unrelated"):
        assert f"pictures/claims_{kind}.svg" in text
        ElementTree.fromstring((folder / "docs/pictures" / f"claims_{kind}.svg").read_text())
    assert read_lines(folder / "docs/data/claims.jsonl") == read_lines(file)


@pytest.mark.slow
def test_what_users_want_can_be_turned_into_its_opposite(tmp_path):
    claims.main([*places(tmp_path), "--quick", "--only", "flip/emoji,-sentence,.*/recommended/0"])
    (flip,) = read_lines(tmp_path / "RESULTS.jsonl")
    assert [mark["interactions"] for mark in flip["marks"]] == [0, 10, 20, 30, 40]
    first, second = flip["wants"]
    for mark in flip["marks"]:
        assert mark["wanted"][first] + mark["wanted"][second] == pytest.approx(mark["readable"])
    assert flip["marks"][0]["wins"] == {first: None, second: None}  # against itself


def test_results_of_other_sizes_are_refused(tmp_path, capsys):
    case = next(iter(claims.cases()))
    write_lines(tmp_path / "RESULTS.jsonl", [{"case": case.name, **claims.QUICK}])
    arguments = [*places(tmp_path), "--only", "none", "--replies", "64"]
    status, error = outcome(claims.main, arguments, capsys)
    assert status == 2 and "was made with other replies, phase, every" in error


def test_cases_ask_for_what_their_names_say():
    names = [case.name for case in claims.cases()]
    assert len(set(names)) == len(names)
    chosen = {case.kind: case for case in claims.cases() if case.seed == 0}
    flip = claims.settings(chosen["flip"])
    schedule = parse_schedule(flip.online.users, flip.online.schedule)
    before, after = (phase_at(schedule, count).user_of(0) for count in (249, 250))
    assert dict(after.preference) == {style: not on for style, on in before.preference}
    growing = claims.settings(chosen["growing"])
    *_, last = parse_schedule(growing.online.users, growing.online.schedule)
    assert {style for style, _ in last.user_of(0).preference} == set(claims.world.STYLES)
    assert claims.settings(chosen["unrelated"]).online.unrelated


def test_the_papers_mode_has_the_papers_objective():
    paper = config.flatten(config.load("online_paper"))
    case = next(case for case in claims.cases() if case.mode == claims.PAPER)
    ours = config.flatten(claims.settings(case))
    same = [name for name in paper if name.startswith(("objective.", "teacher.", "hindsight"))]
    assert len(same) > 10 and {n: ours[n] for n in same} == {n: paper[n] for n in same}
    assert ours["optim.clip_norm"] == 1.0 and ours.items() >= claims.PAPER_PACE.items()
    assert ours["model.path"] == "pocket"


def record(kind, users, mode, seed, *shares, correct=(0.97,), readable=1.0):
    """A record with these shares of wanted styles, of which the last correct share is repeated."""
    case = claims.Case(kind, users, "", 1, mode, seed)
    marks = [
        {
            "interactions": 250 * n // max(1, len(shares) - 1),
            "correct": correct[min(n, len(correct) - 1)],
            "readable": readable,
            "wanted": {users: share},
            "all_wanted": {users: share},
            "wins": {users: share if n else None},
        }
        for n, share in enumerate(shares)
    ]
    sizes = {"replies": 32, "phase": 250, "every": 50}
    shown = [["Capital of Peru?", "Lima.", ""]]
    return {
        **{"case": case.name, **dataclasses.asdict(case), **sizes, "wants": [users]},
        **{"marks": marks, "shown": shown},
    }


def test_the_page_reports_failures(tmp_path):
    good = [record("personalise", "emoji", "recommended", n, 0.4, 0.88 + n / 50) for n in (0, 1)]
    bad = record("personalise", "emoji", "paper", 0, 0.4, 0.6, 0.9, correct=(0.97, 0.8, 0.96))
    page = claims_page.write([*good, bad], 5, tmp_path).read_text()
    assert "3 runs are done, 5 are left" in page
    row = next(line for line in page.splitlines() if line.startswith("| one preference"))
    assert "40.0 → 89.0 % (least 88.0); correct +0.0 points (worst +0.0); 0 of 2 collapsed" in row
    assert "correct -1.0 points (worst -1.0); 1 of 1 collapsed" in row  # in the middle
    assert "| recommended | emoji | 40.0 ± 0.0 | 89.0 ± 1.0 | 97.0 → 97.0 | +0.0 | 0 of 2 |" in page
    assert "40.0 → 90.0; 97.0 → 96.0 (collapsed)" in page
    assert "| `Capital of Peru?` | `Lima.` | ` ` |" in page  # a reply without text has its place


def test_an_unreadable_run_has_collapsed():
    assert claims_asked.collapsed(record("flip", "emoji", "paper", 0, 0.4, 0.9, readable=0.85))
    assert not claims_asked.collapsed(record("flip", "emoji", "paper", 0, 0.4, 0.1))


def test_pictures_have_the_colours_of_both_schemes(tmp_path):
    records = [record("flip", "emoji", mode, 0, 0.4, 0.9) for mode in claims_asked.MODES]
    claims_page.write(records, 0, tmp_path)
    text = (tmp_path / "pictures/claims_flip.svg").read_text()
    style, _, drawing = text.partition("</style>")
    assert "prefers-color-scheme: dark" in style and "svg { background: var(--page) }" in style
    assert "#" not in drawing.replace("url(#", "").replace('href="#', "")
    ElementTree.fromstring(text)


def test_the_page_names_what_is_missed(tmp_path):
    def text(*records):
        return claims_page.write(records, 0, tmp_path).read_text()

    def by(mode="recommended", kind="flip", *shares, **more):
        return [
            record(kind, "emoji", mode, n, 0.4, share, **more) for n, share in enumerate(shares)
        ]

    title = "What falls short"
    recommended = functools.partial(by, "recommended")
    assert title not in text(*recommended("flip", 0.8, 0.9))  # 85 % over both seeds
    assert title not in text(*by("paper", "flip", 0.6))  # nothing is asked of it
    assert "- flipped, `emoji`: 80.0 % at the end" in text(*recommended("flip", 0.78, 0.82))
    assert "`emoji` 80.0 % at the end" in text(*recommended("sequence", 0.8))
    assert title not in text(*recommended("sequence", 0.81))
    assert "follow-ups, `emoji`: -6.0 points" in text(*recommended("unrelated", 0.34, 0.44))
    assert title not in text(*recommended("unrelated", 0.36, 0.44))
    wrong = text(*recommended("personalise", 0.9, correct=(0.97, 0.94)))
    assert "- one preference, `emoji`: 3.0 points of correct answers lost" in wrong
    unread = text(*recommended("personalise", 0.9, 0.9, readable=0.85))
    assert "- one preference, `emoji`: 2 of 2 collapsed" in unread


def test_a_page_takes_no_results_of_other_settings_or_another_model(folder, tmp_path, capsys):
    unrelated, *_ = read_lines(folder / "RESULTS.jsonl")
    for name in ("settings", "model"):
        line = json.dumps(unrelated | {name: "other"})
        (tmp_path / "RESULTS.jsonl").write_text(line + "\n")
        status, error = outcome(claims.main, [*places(tmp_path), "--quick", "--page"], capsys)
        assert status == 2 and f"{unrelated['case']} was made with other {name}: " in error
    assert not (tmp_path / "docs").exists()
