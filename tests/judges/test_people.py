"""The page of blind pairs: what it shows, how it is used, and its answers read back."""

from __future__ import annotations

import json
import re

import pytest

from interact_jax.judges import people
from interact_jax.judges.pairwise import CANDIDATE, LOSS, TIE, WIN
from interact_jax.schema import InputError
from tests.browser import CHROMIUM, Browser
from tests.judges.programs import pair

PERSONA = "Short, please. <b>No</b> emoji."
NAMES = ("step 40", "the model told")
EVIL = (
    "</script ><script>document.title = 'gone'</script><img src=x onerror='alert(1)'> <!-- \u202e"
)


def some_pairs():
    found = {
        name: [pair(f"{name[-2:]}{n} ours", f"{n} theirs", f"p{n}", index=n) for n in range(10)]
        for name in NAMES
    }
    found[NAMES[0]][3] = pair(EVIL, "{plain}\n\n  two", prompt=EVIL, index=3)
    return found


@pytest.fixture
def page():
    return people.Page.of(some_pairs(), PERSONA, seed=3)


def saved(shown_by, given, file, **changed):
    content = {"format": people.FORMAT, "page": shown_by.id, "session": "5e55", "name": " Ann "}
    file.write_text(json.dumps(content | {"answers": given} | changed))
    return str(file)


def data_of(html):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text[1])


def test_a_page_is_blind_and_holds_every_pair_once(page, tmp_path):
    html = page.write(tmp_path / "pairs.html").read_text()
    data = data_of(html)
    assert data["page"] == page.id and data["persona"] == PERSONA
    assert not any(name in html for name in (*NAMES, "candidate", "baseline"))
    assert all(set(each) == {"prompt", "first", "second"} for each in data["pairs"])
    shown = sorted(sorted((each["first"], each["second"])) for each in data["pairs"])
    given = [p for some in some_pairs().values() for p in some]
    assert shown == sorted(sorted((p.candidate, p.baseline)) for p in given)
    sides = [each.first for each in page.shown]
    assert 4 < sides.count(CANDIDATE) < 16
    order = [(each.candidate, each.pair.index) for each in page.shown]
    asked = [(name, p.index) for name, some in some_pairs().items() for p in some]
    assert order != asked and sorted(order) == sorted(asked)


def test_a_page_can_show_some_of_the_pairs_and_its_id_is_of_all_it_shows(page):
    pairs = some_pairs()
    fewer = people.Page.of(pairs, PERSONA, most=7, seed=3)
    assert fewer.shown == page.shown[:7]
    other = some_pairs()
    other[NAMES[0]][0] = pair("else", "0 theirs", "p0")
    pages = [
        page,
        fewer,
        people.Page.of(pairs, PERSONA, seed=4),
        people.Page.of(pairs, "", seed=3),
        people.Page.of(other, PERSONA, seed=3),
    ]
    assert len({each.id for each in pages}) == len(pages)
    assert people.Page.of(some_pairs(), PERSONA, seed=3).id == page.id


def test_answers_become_judgements_of_whoever_gave_them(page, tmp_path):
    choices = ["first", "second", "neither"]
    answers = {str(n): choices[n % 3] for n in range(len(page.shown) - 2)}
    found = page.read(saved(page, answers, tmp_path / "a.json"))
    assert (found.name, found.open) == ("Ann", 2)
    for n, choice in answers.items():
        shown = page.shown[int(n)]
        (judged,) = [j for j in found.judgements[shown.candidate] if j.pair == shown.pair]
        first_wins = WIN if shown.first == CANDIDATE else LOSS
        second_wins = LOSS if shown.first == CANDIDATE else WIN
        expected = {"first": first_wins, "second": second_wins, "neither": TIE}[choice]
        assert judged.outcome == expected and judged.judge == "Ann"
        assert [vote.verdict.answer for vote in judged.votes] == [choice]
    assert sum(map(len, found.judgements.values())) == len(answers)
    nameless = page.read(saved(page, {}, tmp_path / "b.json", name="  "))
    assert nameless.name == "anonymous 5e55" and nameless.open == len(page.shown)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"page": "0" * 40}, "given on another page"),
        ({"format": "other"}, "expected the file that the page of pairs saves"),
        ({"name": 3}, "name=3"),
        ({"answers": ["first"]}, "answers="),
        ({"answers": {"20": "first"}}, "answers.20=.*below 20"),
        ({"answers": {"-1": "first"}}, "answers.-1="),
        ({"answers": {"1": "both"}}, "answers.1='both'.*first, second, neither"),
        ({"answers": {"1": ["first"]}}, "answers.1="),
        ({"answers": {"²": "first"}}, "answers.²="),
        ({"answers": {"1": "first", "01": "second"}}, "answers.01="),
    ],
    ids=lambda given: str(given)[:30],
)
def test_other_files_are_refused(page, tmp_path, changed, said):
    file = saved(page, {}, tmp_path / "a.json", **changed)
    with pytest.raises(InputError, match=said) as refused:
        page.read(file)
    assert str(refused.value).startswith(file)


def test_files_that_lack_something_or_are_of_one_sitting_are_refused(page, tmp_path):
    first = saved(page, {"0": "first"}, tmp_path / "a.json")
    second = saved(page, {"0": "second"}, tmp_path / "b.json", session="other")
    assert [a.session for a in people.read_all(page, [first, second])] == ["5e55", "other"]
    with pytest.raises(InputError, match=r"same sitting of Ann as .*a\.json"):
        people.read_all(page, [first, second, saved(page, {}, tmp_path / "c.json")])
    (tmp_path / "d.json").write_text('{"format": "interact_jax judgements 1"}')
    with pytest.raises(InputError, match="expected the file that the page"):
        page.read(str(tmp_path / "d.json"))


# ----------------------------------------------------------------------------------- in a browser


@pytest.fixture
def browse(page, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    file, downloads = page.write(tmp_path / "pairs.html"), tmp_path / "downloads"
    downloads.mkdir()
    opened = []

    def browse(**options):
        opened.append(Browser(file, tmp_path / f"profile{len(opened)}", downloads, **options))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


def test_pairs_are_judged_by_keys_saved_and_read_back(page, browse, tmp_path):
    browser = browse()
    assert PERSONA in browser.text("#persona")
    expected = {}
    for n, shown in enumerate(page.shown):
        assert browser.text("#progress") == f"Pair {n + 1} of 20, {n} answered"
        comparison = shown.pair.ordered(shown.first)
        texts = [
            browser.value(f"document.getElementById({part!r}).textContent")
            for part in ("first", "second")
        ]
        assert texts == [comparison.first, comparison.second]
        prompt = browser.value("document.querySelector('#prompt .said').textContent")
        assert prompt == shown.pair.prompt[0].content
        if n == 12:
            break
        expected[str(n)] = ("first", "neither", "second")[n % 3]
        browser.press("102"[n % 3])
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.text("#progress") == "Pair 11 of 20, 12 answered"
    assert browser.text("[aria-pressed=true]").startswith("Neither")
    browser.press("1")  # another choice; the next open pair comes
    expected["10"] = "first"
    assert browser.text("#progress") == "Pair 13 of 20, 12 answered"
    # What was answered is kept. What one process of a browser stores, another sees a moment later.
    for _ in range(50):
        browser.reload()
        if not browser.text("#progress").endswith(" 0 answered"):
            break
    assert browser.text("#progress") == "Pair 13 of 20, 12 answered"
    browser.value("document.getElementById('name').focus()")
    for letter in "Bo 2":  # a digit in a name is no answer
        browser.press(letter)
    assert browser.text("#progress") == "Pair 13 of 20, 12 answered"
    assert "Not yet saved" in browser.text("#kept")
    browser.save("#save")
    assert browser.text("#kept") == ""
    (file,) = (tmp_path / "downloads").iterdir()
    assert json.loads(file.read_text())["answers"] == expected
    found = page.read(str(file))
    assert (found.name, found.open) == ("Bo 2", 8)
    # Nothing in a text was obeyed, and nothing was fetched but the page.
    assert browser.value("document.title") == "Which answer is better?"
    assert {re.sub(r".*/", "", address) for address in browser.requests} == {"pairs.html"}
    assert browser.problems == []


def test_a_second_person_at_the_browser_is_another_sitting(page, browse, tmp_path):
    browser = browse()
    browser.press("1")
    browser.save("#save")
    browser.value("window.confirm = () => true; document.getElementById('anew').click()")
    assert browser.text("#progress") == "Pair 1 of 20, 0 answered"
    browser.press("2")
    browser.save("#save")
    answers = people.read_all(page, sorted(map(str, (tmp_path / "downloads").iterdir())))
    outcomes = {j.outcome for each in answers for some in each.judgements.values() for j in some}
    assert len(answers) == 2 and outcomes == {WIN, LOSS}


def test_everything_has_room_on_a_small_screen(browse):
    browser = browse(width=500)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    places = browser.value(
        "['first', 'second'].map(id => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert places[0] < places[1]  # below one another
    wide = browse(width=1200).value(
        "['first', 'second'].map(id => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert wide[0] == wide[1]
