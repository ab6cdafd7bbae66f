"""What a chat template refuses or does not show is mended or left out, whatever template it is."""

import dataclasses

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.templates import ChatTemplate
from interact_jax.schema import InputError, Message
from tests.logs import chat as record_of
from tests.logs import good, write
from tests.tiny import tiny_tokenizer

LINE = "{{ '<' + m.role + '>' + (m.content or '') }}"
CALLS = "{% for c in m.tool_calls or [] %}{{ '!' + c.function.name + ARGUMENTS }}{% endfor %}"
LOOP = "{% for m in messages %}LINE{% endfor %}{{ '<assistant>' }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TEMPLATES = {
    "plain": LOOP.replace("LINE", LINE),
    "no system": NO_SYSTEM + LOOP.replace("LINE", LINE),
    "drops system": LOOP.replace("LINE", "{% if m.role != 'system' %}" + LINE + "{% endif %}"),
    "turns": NO_SYSTEM
    + LOOP.replace(
        "LINE",
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('user and assistant take turns') }}{% endif %}" + LINE,
    ),
    "tools": "{% for t in tools or [] %}{{ '?' + t.function.name }}{% endfor %}"
    + LOOP.replace("LINE", LINE + CALLS.replace("ARGUMENTS", "(c.function.arguments | tojson)")),
    "tools as text": LOOP.replace(
        "LINE", LINE + CALLS.replace("ARGUMENTS", "'' + c.function.arguments")
    ),
}
TAKES = {  # system, greeting, results, calls, tools
    "plain": (True, True, True, False, False),
    "no system": (False, True, True, False, False),
    "drops system": (False, True, True, False, False),
    "turns": (False, False, False, False, False),
    "tools": (True, True, True, True, True),
    "tools as text": (True, True, True, True, False),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


@pytest.fixture(params=TEMPLATES)
def name(request):
    return request.param


@pytest.fixture
def chat(plain, name):
    return dataclasses.replace(plain, template=ChatTemplate(TEMPLATES[name], {}, "t.jinja"))


def load(tmp_path, chat, *records: dict, **settings: str):
    path = write(tmp_path, "chats.jsonl", list(records))
    return load_dataset(path, "auto", chat, EncodeSettings(**settings), "tree")


def prompts(dataset, chat) -> dict[str, str]:
    """By id: the plain context of every reply, as text."""
    return {
        reply.target.id: chat.decode(tree.path(reply, "plain")[: reply.places["plain"].start + 1])
        for trees in dataset.trees
        for tree in trees
        for reply in tree.replies
    }


def test_abilities_are_found_by_trying(chat, name):
    able = chat.abilities
    assert (able.system, able.greeting, able.results, able.calls, able.tools) == TAKES[name]
    assert able.arguments_as_text == (name == "tools as text")


def test_a_system_message(tmp_path, chat, name):
    """Shown as one, or put before the user's first message; in every window of a long dialogue."""
    record = record_of("c", "Q", "A", "P", "B", "O")
    record["messages"].insert(0, {"role": "system", "content": "SYS"})
    dataset = load(tmp_path, chat, record, good("z"))
    shown = "<system>SYS<user>Q" if TAKES[name][0] else "<user>SYS\n\nQ"
    assert prompts(dataset, chat)["c_2"] == shown + "<assistant>"
    assert dataset.interactions == [2, 1]
    told = [line for line in dataset.lines() if "system message" in line]
    assert len(told) == (not TAKES[name][0]) and all("chats.jsonl:1" in line for line in told)
    if not TAKES[name][0]:
        assert load(tmp_path, chat, record, good("z"), repair="drop").interactions == [1]
        with pytest.raises(InputError, match=r"chats\.jsonl:1: system message.*repair=join"):
            load(tmp_path, chat, record, repair="stop")
        dataset = load(tmp_path, chat, record, good("z"), repair="stop", on_error="skip")
        assert dataset.interactions == [1]
        [(reason, count)] = dataset.counts.items()
        assert count == 1 and "chat template" in reason


def test_the_system_message_stays_when_the_window_hops(tmp_path, chat):
    record = record_of("c", *(f"{n} " + "word " * 60 for n in range(21)))
    record["messages"].insert(0, {"role": "system", "content": "SYS"})
    dataset = load(tmp_path, chat, record, max_length=1500)
    found = prompts(dataset, chat)
    assert len(dataset.trees[0]) > 1 and len(found) == 10
    assert all(text.startswith(("<system>SYS<user>", "<user>SYS\n\n")) for text in found.values())


def test_a_greeting(tmp_path, chat, name):
    record = {"id": "c", "messages": [{"role": "assistant", "content": "Welcome"}]}
    record["messages"] += good("c")["messages"]
    dataset = load(tmp_path, chat, record)
    greeted = "<assistant>Welcome" * TAKES[name][1]
    assert prompts(dataset, chat) == {"c_2": f"{greeted}<user>Hi<assistant>"}
    assert sum("greeting" in reason for reason in dataset.counts) == (not TAKES[name][1])


def call(arguments: object = "{}") -> dict:
    function = {"name": "look", "arguments": arguments}
    calls = [{"id": "t", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize("arguments", ['{"at": 1}', {"at": 1}])
def test_tools(tmp_path, chat, name, arguments):
    """Shown as they are; or history begins anew behind them, and what follows is learned."""
    record = record_of("c", "Q", "A", "P", "B", "O", "C", "N")
    record["messages"][1:1] = [call(arguments), {"role": "tool", "content": "3"}]
    record["tools"] = [{"type": "function", "function": {"name": "look"}}]
    dataset = load(tmp_path, chat, record, good("z"))
    found = prompts(dataset, chat)
    if TAKES[name][3]:
        assert list(found) == ["c_3", "c_5", "c_7", "z_1"]
        offered = "?look" * TAKES[name][4]
        assert found["c_3"] == f'{offered}<user>Q<assistant>!look{{"at": 1}}<tool>3<assistant>'
        # In hindsight the block stands with what the user said last, not with the tool's answer.
        tree = dataset.trees[0][0]
        text = chat.decode(tree.path(tree.replies[0], "hindsight"))
        assert text.index("HINDSIGHT") < text.index("!look") and "Message: P<assistant>" in text
    else:
        assert found == {
            "c_5": "<user>P<assistant>",
            "c_7": "<user>P<assistant>B<user>O<assistant>",
            "z_1": "<user>Hi<assistant>",
        }
        [line] = [line for line in dataset.lines() if "calls and results of tools" in line]
        assert "chats.jsonl:1" in line
        with pytest.raises(InputError, match=r"chats\.jsonl:1: calls and results of tools"):
            load(tmp_path, chat, record, repair="stop")


def test_calls_beside_words(tmp_path, chat, name):
    """The words are kept; that a template does not show the rest is told."""
    record = record_of("c", "Q", "A", "P", "B", "O")
    record["messages"][1] |= {**call(), "content": "A", "reasoning_content": "hm"}
    dataset = load(tmp_path, chat, record)
    shown = "!look{}" * TAKES[name][3]
    assert prompts(dataset, chat)["c_3"] == f"<user>Q<assistant>A{shown}<user>P<assistant>"
    counts = {reason: count for reason, count in dataset.counts.items() if "not shown" in reason}
    expected = {"reasoning_content": 1} | ({} if TAKES[name][3] else {"tool_calls": 1})
    assert counts == {f"{k} not shown by the chat template": n for k, n in expected.items()}
    assert dataset.counts["replies learned as text alone, without tool_calls"] == 1


def test_special_tokens_in_a_call_are_those_of_a_message(tmp_path, plain):
    record = record_of("c", "Q", "A", "P")
    record["messages"][1] |= {**call('{"at": "<|im_end|>"}'), "content": "A"}
    dataset = load(tmp_path, plain, record, good("z"))
    assert dataset.interactions == [1]
    assert dataset.counts["conversations dropped: text of a special token in a message"] == 1


def test_a_template_that_breaks_is_told_with_its_reason(tmp_path, plain):
    """As an error with the place of both; skipped, in the counts."""
    source = (
        "{% for m in messages %}{{ m.content + (1 if 'now' in m.content else '') }}{% endfor %}"
    )
    chat = dataclasses.replace(plain, template=ChatTemplate(source, {}, "t.jinja"))
    records = good("a"), record_of("b", "now", "A", "P")
    with pytest.raises(InputError, match=r"chats\.jsonl:2: .*line 1: TypeError.*t\.jinja"):
        load(tmp_path, chat, *records)
    dataset = load(tmp_path, chat, *records, on_error="skip")
    [line] = [line for line in dataset.lines() if "refused" in line]
    assert "line 1: TypeError" in line and "chats.jsonl:2" in line


def test_reference_history_of_many_results(tmp_path, plain):
    """More turns of tools than it keeps messages: it begins at the user's last one."""
    source = TEMPLATES["tools"]
    chat = dataclasses.replace(plain, template=ChatTemplate(source, {}, "t.jinja"))
    record = record_of("c", "Q", "A", "P")
    record["messages"][1:1] = [call(), *({"role": "tool", "content": str(n)} for n in range(7))]
    found = prompts(load(tmp_path, chat, record, history="reference"), chat)
    assert (
        found["c_9"].startswith("<user>Q<assistant>!look") and "<tool>6<assistant>" in found["c_9"]
    )


def test_history_begins_anew_in_one_tree_or_another(tmp_path, plain):
    """Windows do not reach over what was left out, also where the same is said again."""
    record = record_of("c", *(["Q", "A"] * 3), "O")
    record["messages"][3] = {"role": "narrator", "content": "x"}
    dataset = load(tmp_path, plain, record, on_error="skip")
    found = prompts(dataset, plain)
    assert found["c_1"] == found["c_5"] == plain.render([Message("user", "Q")])


def test_a_window_that_has_hopped_begins_anew_with_history(tmp_path, plain):
    """What was cut before the gap is not cut behind it."""
    record = record_of("c", *(f"{n} " + "word " * 60 for n in range(31)))
    record["messages"][21] = {"role": "narrator", "content": "x"}
    dataset = load(tmp_path, plain, record, max_length=1500, on_error="skip")
    assert len(dataset.trees[0]) > 2 and dataset.interactions == [14]
    behind = prompts(dataset, plain)
    for at in (23, 25):
        assert behind[f"c_{at}"].startswith("<|im_start|>user\n22 word"), behind[f"c_{at}"][:40]


def test_shown_messages_are_as_the_template_has_them(chat, name):
    """What needs no mending is rendered as it is given, to the letter."""
    talk = [Message("user", " Q\n"), Message("assistant", "A"), Message("user", "P")]
    rows = [{"role": m.role, "content": m.content} for m in talk]
    assert chat.render(talk) == chat.template.render(rows)
