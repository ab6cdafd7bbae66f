"""Two replies to one history mean the same in every format; no pair is made up or lost unseen."""

import json
import random

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.data.formats import recognise
from interact_jax.data.messages import Fault, require
from interact_jax.schema import Conversation, InputError, Message
from tests.logs import chat, good, write

ROLES = ("user", "assistant")
EXPECTED = "two replies to one history"


def count(conversation: Conversation) -> int:
    return len(conversation.preferences or ())


def read(path: str, format: str = "auto", on_error: str = "stop"):
    return read_conversations(path, format, on_error, count, EXPECTED)


def said(*texts: str) -> list[dict]:
    return [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(texts)]


def reply(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def transcript(*texts: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(texts))


def completion(text: str, score: object) -> dict:
    return {"response": text, "overall_score": score, "model": "m", "annotations": {}}


# what was said, the preferred reply and the other -> the record, by format and form. The first ones
# can tell a single question only.
ONE_TURN = {
    "plain": (
        "preference",
        lambda x, y, z: {"prompt": x[0], "chosen": y, "rejected": z},
    ),
    "ultrafeedback": (
        "ultrafeedback",
        lambda x, y, z: {
            "source": "s",
            "instruction": x[0],
            "models": ["a", "b"],
            "completions": [completion("So-so", 5.5), completion(z, 2), completion(y, 9)],
        },
    ),
}
FORMS = {
    "explicit": (
        "preference",
        lambda x, y, z: {"prompt": said(*x), "chosen": reply(y), "rejected": reply(z)},
    ),
    "explicit_texts": (
        "preference",
        lambda x, y, z: {"prompt": said(*x), "chosen": y, "rejected": z},
    ),
    "implicit": (
        "preference",
        lambda x, y, z: {"chosen": said(*x, y), "rejected": said(*x, z)},
    ),
    "null_prompt": (
        "preference",
        lambda x, y, z: {"prompt": None, "chosen": said(*x, y), "rejected": said(*x, z)},
    ),
    "binarized": (
        "preference",
        lambda x, y, z: {
            "prompt": x[0],
            "chosen": said(*x, y),
            "rejected": said(*x, z),
            "messages": said(*x, y),
            "score_chosen": 8.5,
            "score_rejected": 7.0,
        },
    ),
    "native": (
        "native",
        lambda x, y, z: {
            **chat("chats.1", *x, y),
            "preferences": [{"index": len(x), "chosen": y, "rejected": {"content": z}}],
        },
    ),
    "hh_rlhf": (
        "hh_rlhf",
        lambda x, y, z: {"chosen": transcript(*x, y), "rejected": transcript(*x, z)},
    ),
    "hh_rlhf_cut": (
        "hh_rlhf",
        lambda x, y, z: {
            "prompt": f"{transcript(*x)}\n\nAssistant:",
            "chosen": f" {y}",
            "rejected": f" {z}",
        },
    ),
}
LONG = ("Hi", "Hello, what is it?", "2 + 2?\n\nPlease!", "Which 2?", "Any ñ 🙂")


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize(
    ("form", "turns"),
    [(form, 1) for form in ONE_TURN] + [(form, turns) for form in FORMS for turns in (1, 3, 5)],
)
def test_forms_agree(tmp_path, form, turns, named):
    """A history and two replies to it come out of every form, found or named."""
    name, build = {**ONE_TURN, **FORMS}[form]
    history, better, worse = LONG[:turns], "4.\n\nHuman error aside.", "4. Or 5?"
    path = write(tmp_path, "chats.jsonl", [build(history, better, worse)])
    [conversation], report = read(path, name if named else "auto")
    roles = [ROLES[i % 2] for i in range(turns + 1)]
    assert [m.role for m in conversation.messages] == roles
    assert [m.content for m in conversation.messages] == [*history, better]
    [pair] = conversation.preferences
    assert pair.index == turns
    assert pair.chosen == Message("assistant", better) == conversation.messages[turns]
    assert pair.rejected == Message("assistant", worse)
    assert conversation.id == "chats.1" and conversation.source == f"{path}:1"
    assert (report.conversations, report.interactions) == (1, 1) and not report.lost


@pytest.mark.parametrize("form", [*ONE_TURN, *FORMS])
def test_replies_of_the_same_words(tmp_path, form):
    """They prefer nothing: no pair, counted, and never a reason to stop."""
    name, build = {**ONE_TURN, **FORMS}[form]
    same, other = build(("Hi",), "Yes", "Yes"), {**build(("Hi",), "Yes", "No"), "id": "other"}
    conversations, report = read(write(tmp_path, "a.jsonl", [same, other]), name)
    assert [count(c) for c in conversations] == [1]
    assert conversations[0].preferences[0].rejected.content == "No"
    assert report.lost.pop("chosen equals rejected") == 1
    # Where a record is a dialogue as well as a pair, it is this that has nothing to learn from.
    assert report.lost == ({"nothing to learn from": 1} if name in ("native", "hh_rlhf") else {})


def test_system_message(tmp_path):
    """It may open the prompt, also under its newer name, and content may come in parts."""
    system = {"role": "system", "content": "Be brief."}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    developer = {"role": "developer", "content": "Be brief."}
    records = [
        {"prompt": [system, parts], "chosen": reply("A"), "rejected": reply("B")},
        {"chosen": [system, *said("Hi", "A")], "rejected": [developer, *said("Hi", "B")]},
    ]
    conversations, report = read(write(tmp_path, "a.jsonl", records))
    for conversation in conversations:
        assert [m.role for m in conversation.messages] == ["system", "user", "assistant"]
        assert [m.content for m in conversation.messages] == ["Be brief.", "Hi", "A"]
        assert conversation.preferences[0].index == 2
    assert len(conversations) == 2 and not report.lost


def test_white_space_stays(tmp_path):
    """As in TRL's own examples, where the reply begins with a space."""
    record = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.\n"}
    [conversation], _ = read(write(tmp_path, "a.jsonl", [record]))
    assert [m.content for m in conversation.messages] == ["The sky is", " blue."]
    assert conversation.preferences[0].rejected.content == " green.\n"


def test_dialogue_that_begins_with_the_assistant(tmp_path):
    hello = {"role": "assistant", "content": "Welcome."}
    record = {"chosen": [hello, *said("Hi", "A")], "rejected": [hello, *said("Hi", "B")]}
    [conversation], _ = read(write(tmp_path, "a.jsonl", [record]))
    assert [m.content for m in conversation.messages] == ["Welcome.", "Hi", "A"]
    assert conversation.preferences[0].index == 2


def test_names_and_what_goes_along(tmp_path):
    """The record's own id, for a prompt may come with several pairs; single values are kept, texts
    of messages not twice."""
    rest = {"prompt": "Q", "chosen": said("Q", "A"), "rejected": said("Q", "B")}
    plain = {"prompt": "Q", "chosen": "A", "rejected": "B", "user": "eve"}
    records = [
        {"prompt_id": "p", "messages": said("Q", "A"), "score_chosen": 8.5, **rest},
        {"id": 7, "prompt_id": "p", **rest},
        plain,
    ]
    first, second, third = read(write(tmp_path, "a.jsonl", records))[0]
    assert [c.id for c in (first, second, third)] == ["a.1", "7", "a.3"]
    assert first.meta == {"prompt_id": "p", "score_chosen": 8.5}
    assert third.user == "eve" and third.meta == {}
    record = {**ONE_TURN["ultrafeedback"][1](("Q",), "A", "B"), "id": "u"}
    [conversation], _ = read(write(tmp_path, "u.jsonl", [record]))
    assert conversation.id == "u" and conversation.meta == {"source": "s"}


def test_prompt_that_is_not_in_the_dialogue(tmp_path):
    """The dialogue counts, as for TRL; that it says something else than the prompt is told."""
    whole = {"chosen": said("Hi", "A"), "rejected": said("Hi", "B")}
    path = write(tmp_path, "a.jsonl", [{"prompt": "Hi\n", **whole}, {"prompt": "Ho", **whole}])
    conversations, report = read(path)
    assert [c.messages[0].content for c in conversations] == ["Hi", "Hi"]
    assert report.lost == {"prompt is not in the dialogue": 1}
    assert report.examples["prompt is not in the dialogue"].startswith(f"{path}:2: ")


# case -> a bad record, the reason it is counted under, words of the message
BAD = {
    "plain, no prompt": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "no prompt",
        ["cannot be split", "'prompt'"],
    ),
    "nothing shared": (
        {"chosen": said("Q", "A"), "rejected": said("P", "B")},
        "no prompt",
        ["begin with different messages"],
    ),
    "one is a dialogue": (
        {"prompt": "Q", "chosen": said("Q", "A"), "rejected": "B"},
        "no prompt",
        ["different messages"],
    ),
    "prompt ends in a reply": (
        {"prompt": said("Q", "A"), "chosen": reply("B"), "rejected": reply("C")},
        "bad prompt",
        ["'assistant'", "'user'"],
    ),
    "prompt is the system's": (
        {"prompt": [{"role": "system", "content": "S"}], "chosen": "A", "rejected": "B"},
        "bad prompt",
        ["'system'", "'user'"],
    ),
    "more than a reply": (
        {"prompt": "Q", "chosen": reply("A"), "rejected": [*reply("B"), *said("P", "C")]},
        "not one reply",
        ["'rejected' has assistant, user, assistant"],
    ),
    "they part early": (
        {"chosen": said("Q", "A", "P", "B"), "rejected": said("Q", "A", "R", "B")},
        "not one reply",
        ["'chosen' has user, assistant"],
    ),
    "one goes on": (
        {"chosen": said("Q", "A"), "rejected": said("Q", "A", "P", "B")},
        "not one reply",
        ["'rejected' has assistant, user, assistant"],
    ),
    "no reply": (
        {"prompt": said("Q"), "chosen": [], "rejected": reply("B")},
        "not one reply",
        ["'chosen' has no message"],
    ),
    "user replies": (
        {"prompt": "Q", "chosen": reply("A"), "rejected": said("B")},
        "no prompt",
        ["different messages"],
    ),
    "no rejected": ({"prompt": "Q", "chosen": "A"}, "missing key", ["'rejected'"]),
    "null": ({"prompt": "Q", "chosen": "A", "rejected": None}, "wrong type", ["string or a list"]),
    "empty": (
        {"prompt": "Q", "chosen": "A", "rejected": " "},
        "not one reply",
        ["'rejected' has no message"],
    ),
    "empty prompt": ({"prompt": " ", "chosen": "A", "rejected": "B"}, "bad prompt", ["empty"]),
    "role": (
        {"prompt": [{"role": "narrator", "content": "Q"}], "chosen": "A", "rejected": "B"},
        "unknown role",
        ["prompt[0]", "narrator"],
    ),
    "half": (
        {"prompt": "Q", "chosen": "\ud83d", "rejected": "B"},
        "broken character",
        ["chosen[0]"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pair(tmp_path, case):
    """Stopping names line, reason and remedy; skipping counts, and keeps the neighbours."""
    bad, reason, words = BAD[case]
    fine = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    lines = [json.dumps(record).encode() for record in (fine, bad, fine)]
    path = write(tmp_path, "a.jsonl", b"\n".join(lines))
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: {reason}: ")
    assert "Fix the line" in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    conversations, report = read(path, on_error="skip")
    assert [c.id for c in conversations] == ["a.1", "a.3"] and report.lost == {reason: 1}


def test_need_names_every_kind():
    with pytest.raises(Fault, match="expected a string or a list"):
        require({"a": 1}, "a", str, list)
    assert require({"a": []}, "a", str, list) == []


# ----------------------------------------------------------------------------------- UltraFeedback


@pytest.mark.parametrize("seed", range(5))
def test_best_against_worst(tmp_path, seed):
    """Whatever the scores: the highest and the lowest, and of equals the first."""
    draw = random.Random(seed)
    records, expected = [], []
    for _ in range(30):
        scores = [draw.choice([None, 1, 2.5, 4, 10]) for _ in range(draw.randrange(5))]
        replies = [completion(f"reply {i}", score) for i, score in enumerate(scores)]
        records.append({"instruction": "Q", "completions": replies})
        known = [score for score in scores if score is not None]
        if known and min(known) < max(known):
            pair = scores.index(max(known)), scores.index(min(known))
            expected.append(tuple(f"reply {i}" for i in pair))
    conversations, report = read(write(tmp_path, "a.jsonl", records))
    found = [(p.chosen.content, p.rejected.content) for c in conversations for p in c.preferences]
    assert 0 < len(expected) < 30 and found == expected
    assert report.lost == {"no best completion": 30 - len(expected)}


@pytest.mark.parametrize(
    ("change", "reason", "word"),
    [
        ({"overall_score": "9"}, "wrong type", "'overall_score' is '9'"),
        ({"overall_score": True}, "wrong type", "'overall_score' is True"),
        ({"overall_score": float("nan")}, "wrong type", "finite"),
        ({"response": ""}, "empty message", "'response'"),
        ({"response": None}, "empty message", "'response'"),
        ({"overall_score": 10**400}, "wrong type", "finite"),
    ],
)
def test_bad_completion(tmp_path, change, reason, word):
    replies = [completion("A", 3), {**completion("B", 9), **change}]
    fine = ONE_TURN["ultrafeedback"][1](("Q",), "A", "B")
    path = write(tmp_path, "a.jsonl", [fine, {"instruction": "Q", "completions": replies}])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: {reason}: completions[1]: ")
    assert word in str(caught.value)
    assert read(path, on_error="skip")[1].lost == {reason: 1}


def test_reply_that_nobody_compares_is_not_checked(tmp_path):
    replies = [completion("A", 3), completion("", 5), completion("B", 9), {"response": ""}]
    [conversation], report = read(
        write(tmp_path, "a.jsonl", [{"instruction": "Q", "completions": replies}])
    )
    assert conversation.preferences[0].chosen.content == "B" and not report.lost


# ---------------------------------------------------------------------------------------- HH-RLHF


@pytest.mark.parametrize(
    ("rejected", "words"),
    [
        (transcript("Q", "A", "Other?", "B"), "do not share"),
        (transcript("Q", "B"), "do not share"),
        (transcript("Q", "A", "P", "B", "More?", "C"), "do not share"),
        (transcript("Q"), "do not share"),
        (transcript("Q", "A", "P", ""), "rejected[3]"),
        ("Hello", "not a transcript"),
        (["Hello"], "'rejected'"),
    ],
)
def test_transcripts_without_a_pair(tmp_path, rejected, words):
    """The conversation comes through as if there were no `rejected`, and that is counted."""
    path = write(
        tmp_path, "a.jsonl", [{"chosen": transcript("Q", "A", "P", "C"), "rejected": rejected}]
    )
    [conversation], report = read_conversations(path)
    assert [m.content for m in conversation.messages] == ["Q", "A", "P", "C"]
    assert conversation.preferences == () and report.lost == {"no pair": 1}
    assert words in report.examples["no pair"]
    alone = write(tmp_path, "b.jsonl", [{"chosen": transcript("Q", "A", "P", "C")}])
    [same], report = read_conversations(alone)
    assert same.messages == conversation.messages and not report.lost


def test_transcripts_that_the_user_ends(tmp_path):
    """What follows the last reply makes no difference to the pair."""
    record = {"chosen": transcript("Q", "A", "Thanks"), "rejected": transcript("Q", "B", "No!")}
    [conversation], report = read_conversations(write(tmp_path, "a.jsonl", [record]))
    [pair] = conversation.preferences
    assert (pair.index, pair.chosen.content, pair.rejected.content) == (1, "A", "B")
    assert report.interactions == 1 and not report.lost


def test_transcript_that_begins_with_the_assistant(tmp_path):
    """There is no user's message to reply to, so there is no pair."""
    record = {"chosen": "\n\nAssistant: A\n\nHuman: Q", "rejected": "\n\nAssistant: B\n\nHuman: Q"}
    records = [record, {"chosen": transcript("Q", "A", "P")}]
    [conversation], report = read_conversations(write(tmp_path, "a.jsonl", records))
    assert conversation.id == "a.2" and report.lost == {"no pair": 1, "no follow-up": 1}


# ----------------------------------------------------------------------------------------- native


def test_a_pair_at_every_turn(tmp_path):
    """Any turn may have pairs, with what a sampler produced; the dialogue is what it was."""
    record = chat("c", "Q", "A", "P", "B", "Thanks")
    sampled = {"content": "B2", "token_ids": [5, 6], "logps": [-0.5, -1]}
    record["preferences"] = [
        {"index": 1, "chosen": "A", "rejected": "A1"},
        {"index": 3, "chosen": {"role": "assistant", "content": "B1"}, "rejected": sampled},
        {"index": 3, "chosen": "B", "rejected": "B"},
        {"index": 5, "chosen": "C", "rejected": "C1"},
    ]
    path = write(tmp_path, "a.jsonl", [record, {**chat("d", "Q", "A", "P"), "preferences": None}])
    (conversation, plain), report = read_conversations(path)
    pairs = [(p.index, p.chosen.content, p.rejected.content) for p in conversation.preferences]
    assert pairs == [(1, "A", "A1"), (3, "B1", "B2"), (5, "C", "C1")]
    sampled = conversation.preferences[1].rejected
    assert (sampled.token_ids, sampled.logps) == ((5, 6), (-0.5, -1.0))
    assert conversation.preferences[1].chosen.token_ids is None
    assert [m.content for m in conversation.messages] == ["Q", "A", "P", "B", "Thanks"]
    assert [i.id for i in conversation.interactions()] == ["c_1", "c_3"]
    assert report.interactions == 3 and report.lost == {"chosen equals rejected": 1}
    assert plain.preferences is None


@pytest.mark.parametrize(
    ("pair", "reason", "words"),
    [
        ({"index": 0}, "bad index", "'index' is 0, expected a whole number from 1 to"),
        ({"index": 4}, "bad index", "messages, 3"),
        ({"index": True}, "bad index", "True"),
        ({"index": "1"}, "bad index", "'1'"),
        ({"index": None}, "bad index", "None"),
        ({"index": 2}, "bad index", r"messages\[1\] is of 'assistant', expected 'user'"),
        ({"chosen": None}, "wrong type", "'chosen' is None, expected a string or an object"),
        ({"rejected": ""}, "empty message", "rejected: 'content'"),
        ({"rejected": {"words": "B"}}, "missing key", "rejected: no 'content'"),
        ({"rejected": {"role": "user", "content": "B"}}, "unknown role", "'user'.* assistant"),
        (
            {"chosen": {"content": "A", "logps": [-1]}},
            "bad token_ids or logps",
            "chosen: token_ids",
        ),
    ],
)
def test_bad_native_pair(tmp_path, pair, reason, words):
    pair = {"index": 1, "chosen": "A", "rejected": "B", **pair}
    bad = {**good("bad"), "preferences": [{"index": 1, "chosen": "A", "rejected": "B"}, pair]}
    path = write(tmp_path, "a.jsonl", [good("a"), bad])
    with pytest.raises(InputError, match=rf"a\.jsonl:2: {reason}: preferences\[1\]: .*{words}"):
        read_conversations(path)
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a"] and report.lost == {reason: 1}


@pytest.mark.parametrize("preferences", [{}, "A", [["A", "B"]], [None]])
def test_preferences_of_another_kind(tmp_path, preferences):
    path = write(tmp_path, "a.jsonl", [{**good("a"), "preferences": preferences}])
    with pytest.raises(InputError, match=r"a\.jsonl:1: (wrong type|not an object): .*preferences"):
        read_conversations(path)


# ------------------------------------------------------------------------------ choosing a format


@pytest.mark.parametrize(
    ("record", "name"),
    [
        # The rows of ultrafeedback_binarized, with an id or without.
        ({"messages": said("Q", "A"), "chosen": said("Q", "A"), "rejected": []}, "preference"),
        ({"id": 1, "messages": [], "chosen": said("Q", "A"), "rejected": None}, "preference"),
        # A dialogue that happens to have such keys.
        ({"id": 1, "messages": [], "chosen": "A", "rejected": "B"}, "native"),
        ({"messages": [], "chosen": "A", "rejected": "B"}, "openai"),
        ({"messages": [], "chosen": said("Q", "A")}, "openai"),
        ({"conversations": [], "chosen": said("A"), "rejected": said("B")}, "wildfeedback"),
        ({"conversation": [], "chosen": said("A"), "rejected": said("B")}, "wildchat"),
        # Transcripts, also where one of them is none.
        ({"chosen": transcript("Q", "A"), "rejected": transcript("Q", "B")}, "hh_rlhf"),
        ({"chosen": "Human: Q\n\nAssistant: A", "rejected": "B", "prompt": "Q"}, "hh_rlhf"),
        ({"chosen": "A", "rejected": transcript("Q", "B")}, "hh_rlhf"),
        ({"chosen": "A"}, "hh_rlhf"),
        ({"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": "A", "rejected": "B"}, "hh_rlhf"),
        # Plain texts, also those that talk of humans.
        ({"prompt": "Human: Q", "chosen": "A", "rejected": "B"}, "preference"),
        ({"prompt": "Q", "chosen": "The Human: A", "rejected": "B"}, "preference"),
        ({"prompt": "Q", "chosen": "A\n\nHuman: P", "rejected": "B"}, "preference"),
        ({"chosen": "A", "rejected": "B"}, "preference"),
        ({"prompt": {"role": "prompter", "text": "Q"}}, "oasst_tree"),
        ({"instruction": "Q", "completions": []}, "ultrafeedback"),
        ({"instruction": "Q", "completion": "A"}, None),
    ],
)
def test_recognise(record, name):
    assert recognise(record) == name


@pytest.mark.parametrize("named", ["preference", "ultrafeedback", "native", "openai", "hh_rlhf"])
@pytest.mark.parametrize("form", [*ONE_TURN, *FORMS])
def test_format_that_does_not_fit(tmp_path, form, named):
    """Read as another format, pairs come out the same, or an error names the right format.

    Rows that are well-formed in two formats may also have no pair in the one that was named.
    """
    right, build = {**ONE_TURN, **FORMS}[form]
    path = write(tmp_path, "chats.jsonl", [build(("Hi",), "A", "B")])
    try:
        [conversation], _ = read(path, named)
        [pair] = conversation.preferences
        # The prompt of a cut transcript is taken for plain text by who says that it is.
        assert (pair.chosen.content.strip(), pair.rejected.content.strip()) == ("A", "B")
    except InputError as error:
        looks = f"looks like {right}" in str(error)
        assert looks or "nothing to learn from" in str(error)


# ----------------------------------------------------------------------------------- what is usable


def test_nothing_to_learn_from(tmp_path):
    """Who learns from something else says so in the reason, and in what was expected."""
    pair = {**chat("p", "Q", "A"), "preferences": [{"index": 1, "chosen": "A", "rejected": "B"}]}
    path = write(tmp_path, "a.jsonl", [good("a"), pair])
    [conversation], report = read(path)
    assert conversation.id == "p" and report.lost == {"nothing to learn from": 1}
    assert "'a': expected two replies to one history" in report.examples["nothing to learn from"]
    [conversation], report = read_conversations(path)
    assert conversation.id == "a" and report.lost == {"no follow-up": 1}
    path = write(tmp_path, "b.jsonl", [good("a")])
    with pytest.raises(InputError) as caught:
        read(path)
    headline, *rest = str(caught.value).split("\n")
    assert headline == f"{path}: nothing to learn from. Expected two replies to one history."
    assert rest[-1].startswith("  1 x nothing to learn from, such as")


def test_the_words_where_nobody_says_otherwise(tmp_path):
    path = write(tmp_path, "a.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}])
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    headline, _, reason = str(caught.value).split("\n")
    assert headline == (
        f"{path}: no interaction to learn from. Expected at least one user message, an "
        "assistant's reply to it, and the user's next message."
    )
    assert reason == (
        f"  1 x no follow-up, such as {path}:1: conversation 'a.1': "
        "no reply that stands between two user messages; but a pair of replies, of which "
        "objective.name=dpo learns"
    )


def test_usable_counts_and_repeats(tmp_path):
    """The report counts as the caller does; a path that owns nothing only repeats for him too."""

    def tokens(conversation: Conversation) -> int:
        return sum(len(i.y.content) for i in conversation.interactions())

    def node(name: str, role: str, *replies: dict) -> dict:
        return {"message_id": name, "role": role, "text": name, "replies": list(replies)}

    last = node("u2", "prompter", node("y2", "assistant"), node("y3", "assistant"))
    tree = {"message_tree_id": "t", "prompt": node("u", "prompter", node("y", "assistant", last))}
    path = write(tmp_path, "t.jsonl", [tree, {"message_tree_id": "s", "prompt": last}])
    [conversation], report = read_conversations(path, count_units=tokens, expected="tokens")
    assert conversation.id == "t.0" and report.interactions == tokens(conversation) == 1
    assert report.lost == {"only repeats": 1, "nothing to learn from": 2}
