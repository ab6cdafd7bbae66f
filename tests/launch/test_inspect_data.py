"""launch/inspect_data.py: what its page shows of logs and of prepared data, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import read_conversations
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.tokenise import Tokeniser
from interact_jax.models import hf
from interact_jax.report.inspect_page import Shown, write_inspect_page
from interact_jax.report.inspect_trees import clip, pieces_of, streams_of
from interact_jax.report.inspection import Reading, Remark, inspect_data
from launch import inspect_data as program
from tests.browser import CHROMIUM, Browser
from tests.pages import VOID, Page
from tests.prepare.little import prepared, write_logs
from tests.runs import outcome, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)> 'one' \"two\"\u2028three\u2029 &amp;",
    '" autofocus onfocus="alert(3)',
]


def talk(name, *texts, **more):
    turns = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]
    return {"id": name, "messages": turns, **more}


TALKS = [
    talk("plain", "Which sea?", "The North Sea.", "Too short", "It is the North Sea.", "Thanks"),
    talk("evil", EVIL[0], EVIL[1], EVIL[2], user='"><svg onload=alert(4)>'),
    talk("alone", "Nobody answers", "but me"),
    talk("again", "Which sea?", "The North Sea.", "Too short", "It is the North Sea.", "Thanks"),
    talk("plain", "Another one", "with an id", "that is taken", lang="en"),
    talk("marked", "I type <|im_end|> here", "Do you?", "Yes"),
    talk("wordy", "Tell me", "word " * 90, "Shorter"),
    {
        "id": "joined",
        "messages": [*talk("", "a", "b", "c")["messages"]] + talk("", "d")["messages"],
    },
    talk("<u id=x>'\"", "?", EVIL[1], "!", **{"<i>": "<u>", "<s>": ["<u>"]}),
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    file = tmp_path_factory.mktemp("logs") / "talks.jsonl"
    return write_lines(file, [*TALKS, b'{"broken'])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_logs(folder / "logs")
    prepared(folder / "logs", folder / "data", "talkative", "once", "quiet")
    return folder / "data"


@pytest.fixture
def page(tmp_path):
    """The page of some arguments."""

    def page(*given):
        file = tmp_path / "page.html"
        program.main([*map(str, given), "--out", str(file)])
        return InspectPage(file)

    return page


class InspectPage(Page):
    """The page, with the searchable text of each conversation by its id."""

    def __init__(self, file):
        self.texts, self.cards, self._depth, self._in_title = {}, [], [], False
        self.scripts = 0
        super().__init__(file)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        classes = (dict(attributes).get("class") or "").split()
        self.scripts += tag == "script"
        if "conversation" in classes:
            self.cards.append({"found": "", "all": "", "depth": len(self.open)})
        if "find" in classes and tag not in VOID:
            self._depth.append(len(self.open))

    def handle_endtag(self, tag):
        if self._depth and len(self.open) == self._depth[-1]:
            self._depth.pop()
        super().handle_endtag(tag)

    def handle_data(self, text):
        super().handle_data(text)
        if any(tag == "script" for tag, _ in self.open):
            return
        if self.cards and len(self.open) >= self.cards[-1]["depth"]:
            self.cards[-1]["all"] += text
            if self._depth:
                self.cards[-1]["found"] += text

    def matching(self, text):
        """The ids of the conversations in whose searchable text it is."""
        return [n for n, card in enumerate(self.cards) if text in card["found"]]


def test_every_conversation_is_shown_with_roles_interactions_and_trees(logs, page):
    shown = page("--data", logs, "--tokenizer", "pocket")
    assert len(shown.cards) == len(TALKS)
    assert "All 9 conversations are shown." in shown.everything
    first = shown.cards[0]
    for text in ("Which sea?", "plain_1", "follow-up to plain_3", "token tree: trunk", "hindsight"):
        assert text in first["all"]
    assert len(shown.classed("find")) > 2 * len(TALKS)
    learned = [a for a in shown.classed("y") if "find" in a["class"].split()]
    followed = [a for a in shown.classed("o") if "find" in a["class"].split()]
    assert len(learned) == 10 - 1 and len(followed) == 10  # "marked" is dropped
    assert "not learned from" in shown.cards[5]["all"]


def test_what_was_lost_is_told_with_its_reason_of_each_conversation(logs, page):
    shown = page("--data", logs, "--tokenizer", "pocket", "--max-reply", "16")
    for text in ("broken JSON", "talks.jsonl:10: ", "no follow-up", "two messages of one role"):
        assert text in shown.everything
    for reason, at in (
        ("lost: no follow-up", [2]),
        ("occurs again: copy of an earlier conversation", [3]),
        ("mended: duplicate id", [4]),
        ("text of a special token in a message", [5]),
        ("mended: two messages of one role in a row", [7]),
    ):
        assert shown.matching(reason) == at
        assert [b for b in shown.all("button") if reason in b.get("data-query", "")]
    assert 6 in shown.matching("replies cut at data.max_reply")
    assert "cut at 16 tokens, so that its end is lost" in shown.cards[6]["all"]


def test_texts_ids_users_and_reasons_are_searched(logs, page):
    shown = page("--data", logs)
    assert shown.matching("North Sea") == [0, 3]
    assert shown.matching("alone") == [2]  # an id
    assert shown.matching("svg onload") == [1]  # a user
    assert shown.matching("lang: en") == [4]
    assert shown.matching("token tree") == []


def test_nothing_of_the_logs_is_markup_or_runs(logs, page):
    shown = page("--data", logs, "--tokenizer", "pocket")
    assert shown.scripts == 1  # the page's own
    assert not shown.all("img") and not shown.all("svg")
    assert not [a for _, a in shown.elements if any(name.startswith("on") for name in a)]
    assert not [a for _, a in shown.elements if "autofocus" in a]
    assert not shown.all("u") and not shown.all("i") and not shown.all("s")
    assert "\u2028" not in shown.source and "\\u2028" in shown.cards[1]["found"]
    assert EVIL[0] in shown.cards[1]["found"] and EVIL[2] in shown.cards[1]["found"]
    (policy,) = [a["content"] for a in shown.all("meta", **{"http-equiv": POLICY})]
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    for _, attributes in shown.elements:
        assert not {"src", "href", "srcset"} & attributes.keys()


POLICY = "Content-Security-Policy"


def test_no_reason_is_markup(logs, tmp_path):
    """A chat template's refusal is quoted in one."""
    found = inspect_data(str(logs), Reading(), sample=1, seed=0, tokeniser=None)
    remarks = (Remark(EVIL[2], EVIL[0]), Remark(EVIL[1], EVIL[2]))
    entries = tuple(dataclasses.replace(entry, remarks=remarks) for entry in found.entries)
    hostile = dataclasses.replace(found, entries=entries)
    file = tmp_path / "page.html"
    write_inspect_page(file, hostile, Shown(EVIL[0], None, EVIL[0], 1, 0))
    shown = InspectPage(file)
    assert {b["data-query"] for b in shown.all("button") if "data-query" in b} >= {EVIL[2]}
    assert shown.scripts == 1 and not shown.all("img")
    assert not [a for _, a in shown.elements if {"autofocus", "onfocus", "onerror"} & a.keys()]


def test_a_path_without_an_interaction_of_its_own_is_told_apart(tmp_path):
    def node(role, text, *replies):
        return {"message_id": text, "role": role, "text": text, "replies": list(replies)}

    # The second path ends in another reply to the same follow-up.
    ends = (node("assistant", "d"), node("assistant", "e"))
    tree = node("prompter", "a", node("assistant", "b", node("prompter", "c", *ends)))
    file = write_lines(tmp_path / "tree.jsonl", [{"message_tree_id": "a", "prompt": tree}])
    found = inspect_data(str(file), Reading(), sample=9, seed=0, tokeniser=None)
    assert [(each.kind, each.reason) for each in found.findings] == [("lost", "only repeats")]
    assert [len(entry.remarks) for entry in found.entries] == [0, 1]


def test_nothing_of_a_card_is_markup(data, page, tmp_path):
    copy = tmp_path / "<img src=y>"
    copy.mkdir()
    for file in data.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    card = json.loads((data / "card.json").read_text())
    (sample,) = next(iter(card["filters"][0]["samples"].values()))[:1]
    sample |= dict.fromkeys(sample, EVIL[0] + EVIL[1])
    evil = {EVIL[0]: 1, EVIL[2]: 2}
    card["filters"][1] |= {"filter": EVIL[0], "changed": evil}
    card |= {"source": EVIL[0], "license": EVIL[2], "mended": evil, "examples": {EVIL[0]: EVIL[1]}}
    (copy / "card.json").write_text(json.dumps(card, ensure_ascii=True))
    shown = page("--data", copy)
    assert shown.scripts == 1 and not shown.all("img") and not shown.all("svg")
    assert not [a for _, a in shown.elements if {"autofocus", "onfocus", "onerror"} & a.keys()]
    assert shown.everything.count(EVIL[0]) >= 6


def test_without_a_tokenizer_there_are_no_trees_and_the_page_says_so(logs, page, capfd):
    shown = page("--data", logs)
    assert "no tokenizer was given" in shown.everything
    assert "token tree:" not in shown.everything and len(shown.cards) == len(TALKS)
    assert "no token trees, no --tokenizer" in " ".join(capfd.readouterr().out.split())


def test_a_mapping_names_the_columns_of_a_table(tmp_path, page):
    table, names = tmp_path / "tickets.csv", tmp_path / "columns.toml"
    said = ("client,Capital of France?", "agent,Paris.", "client,Thanks")
    table.write_text("\n".join(["ticket,who,said", *(f"7,{each}" for each in said)]) + "\n")
    names.write_text('session = "ticket"\nrole = "who"\ntext = "said"\n')
    with names.open("a") as file:
        file.write('[roles]\nclient = "user"\nagent = "assistant"\n')
    (card,) = page("--data", table, "--mapping", names).cards
    assert "y 7_1Paris." in card["found"]


def test_prepared_data_are_shown_with_filters_splits_and_lengths(data, page):
    shown = page("--data", data, "--tokenizer", "pocket", "--sample", 10)
    card = json.loads((data / "card.json").read_text())
    assert len(shown.cards) == 10
    total = card["splits"]["train"]["conversations"]
    assert f"10 of {total} conversations are shown." in shown.everything
    for each in card["filters"]:
        assert each["filter"] in shown.everything
        for reason, samples in each["samples"].items():
            assert reason in shown.everything
            for sample in samples:
                for text in sample.values():
                    assert text in shown.everything
    for kind in ("interactions", "messages", "characters"):
        assert kind in shown.everything
    totals = {k: set() for k in card["splits"]["train"]["histograms"]}
    for split in card["splits"].values():
        for kind, histogram in split["histograms"].items():
            totals[kind] |= histogram.keys()
    assert len(shown.classed("measure")) == sum(map(len, totals.values()))
    other = page("--data", data, "--split", "test")
    assert len(other.cards) == card["splits"]["test"]["conversations"]


def test_a_sample_depends_on_the_seed_alone_and_keeps_the_order(tmp_path):
    talks = [talk(f"t{n}", f"question {n}", "answer", "more") for n in range(50)]
    file = str(write_lines(tmp_path / "talks.jsonl", talks))

    def ids(seed):
        found = inspect_data(file, Reading(), sample=10, seed=seed, tokeniser=None)
        assert found.total == 50
        return [int(entry.conversation.id[1:]) for entry in found.entries]

    assert ids(0) == ids(0) == sorted(ids(0))
    assert len({*ids(0)}) == 10 and ids(0) != ids(1)
    drawn = {number for seed in range(40) for number in ids(seed)}
    assert drawn == set(range(50))


@pytest.mark.parametrize("repair", ["join", "drop", "stop"])
def test_what_is_found_is_what_a_run_reports(logs, repair):
    reading = Reading(repair=repair)
    found = inspect_data(str(logs), reading, sample=3, seed=0, tokeniser=None)
    read, report = read_conversations(str(logs), on_error="skip", repair=repair)
    counted = {each.reason: each.times for each in found.findings}
    assert counted == report.lost + report.mended + report.copies + report.unused
    assert found.read["records"] == report.records == 10
    assert found.read["interactions"] == report.interactions
    assert found.total == len(read) + counted["no follow-up"]
    for each in found.findings:
        assert each.examples[0] == report.examples[each.reason].partition("; data.copies")[0]


def test_marked_tokens_are_those_of_the_replies(logs):
    """In every stream, what is marked is y of a reply, with its end where it is in the stream."""
    chat = ChatFormat.load(hf.resolve("pocket", weights=False))
    tokeniser = Tokeniser(chat, EncodeSettings(on_error="skip"), "tree")
    found = inspect_data(str(logs), Reading(), sample=99, seed=0, tokeniser=tokeniser)
    seen = 0
    for entry in found.entries:
        for tree in entry.trees:
            replies = [chat.decode(reply.target.y) for reply in tree.replies]
            for stream in streams_of(tree):
                ids = [piece for _, piece in pieces_of(stream)]
                assert [i for piece in ids for i in piece] == list(stream.ids)
                for is_reply, piece in pieces_of(stream):
                    text = chat.decode(piece)
                    if is_reply:
                        seen += 1
                        whole = text.removesuffix(chat.decode([chat.eos_id]))
                        assert any(y.startswith(whole) for y in replies)
                        assert any(len(y) - len(text) <= len("<|im_end|>") for y in replies)
    assert seen >= 12


def test_a_long_text_loses_its_middle():
    assert clip("abc", 3) == "abc"
    assert clip("a" * 50 + "b" * 50, 10) == "aaaaa […90 characters…] bbbbb"


def test_long_conversations_and_many_make_a_page_of_some_megabytes(tmp_path, page):
    talks = [talk(f"t{n}", *["many words " * 200] * 41) for n in range(200)]
    file = write_lines(tmp_path / "talks.jsonl", talks)
    shown = page("--data", file)
    assert len(shown.cards) == 200 and len(shown.source) < 8e6
    assert "more messages, not shown" in shown.everything


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--data", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--data", "{logs}", "--tokenizer", "./absent"], "./absent"),
        (["--data", "{logs}", "--split", "test"], "not prepared data, so it has no split 'test'"),
        (["--data", "{data}", "--split", "tset"], "Did you mean test?"),
        (["--data", "{logs}", "--mapping", "./absent"], "absent: cannot be read (No such file"),
        (["--data", "{logs}", "--sample", "0"], "--sample"),
        (["--data", "{logs}", "--date", "today"], "--date"),
        (
            ["--data", "{empty}"],
            "no conversation could be read, so there is nothing to show. 1 x empty",
        ),
        (["--data", "{damaged}"], "not a card as `interact prepare-data` writes it"),
    ],
)
def test_bad_options_are_told_in_one_message(given, told, logs, data, tmp_path, capfd):
    (tmp_path / "empty.jsonl").write_text("[]")
    (tmp_path / "damaged").mkdir()
    for file in data.glob("*.*"):
        (tmp_path / "damaged" / file.name).write_bytes(file.read_bytes())
    card = json.loads((data / "card.json").read_text())
    (tmp_path / "damaged" / "card.json").write_text(json.dumps({**card, "filters": [3]}))
    places = {"logs": logs, "data": data, "empty": tmp_path / "empty.jsonl"}
    places["damaged"] = tmp_path / "damaged"
    arguments = [text.format(**places) for text in given]
    out = tmp_path / "page.html"
    status, said = outcome(program.main, [*arguments, "--out", str(out)], capfd)
    assert status == 2 and told in " ".join(said.split()) and not out.exists()


def test_the_data_are_not_overwritten(logs, capfd):
    before = logs.read_bytes()
    status, said = outcome(program.main, ["--data", str(logs), "--out", str(logs)], capfd)
    assert status == 2 and "is the file that is read" in " ".join(said.split())
    assert logs.read_bytes() == before


# ----------------------------------------------------------------------------------- in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_filters_as_one_types_and_asks_for_nothing(logs, page, tmp_path):
    page("--data", logs, "--tokenizer", "pocket")
    browser = Browser(tmp_path / "page.html", tmp_path / "profile", tmp_path, width=400)
    try:
        visible = "[...document.querySelectorAll('.conversation')].filter(c => !c.hidden).length"
        assert browser.text("#matches") == "9 of 9 conversations shown"
        browser.press("/")  # leads to the box
        for letter in "orth s":
            browser.press(letter)
        assert browser.text("#matches") == "2 of 9 match" and browser.value(visible) == 2
        browser.value("document.getElementById('open-all').click()")
        opened = "document.querySelectorAll('.conversation[open]').length"
        assert browser.value(opened) == 2
        browser.value("document.querySelector('[data-query^=\"lost: no follow-up\"]').click()")
        assert browser.text("#matches") == "1 of 9 match"
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        assert [address[-9:] for address in browser.requests] == ["page.html"]
        assert browser.problems == []
    finally:
        browser.close()
