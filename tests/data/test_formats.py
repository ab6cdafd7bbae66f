"""One dialogue means the same in every format; a message tree tells every interaction once."""

import json
import random
import re
import tracemalloc

import pytest

from interact_jax.data import message_trees
from interact_jax.data.conversations import FORMATS, read_conversations
from interact_jax.schema import InputError
from tests.logs import chat, good, ids, write

TEXTS = ("What is 2 + 2?", "It is 4.\n\nSure.", "And \u2028 in\x85words? ñ 🙂", "Four.", "Thanks!")
ROLES = ("user", "assistant", "user", "assistant", "user")


def tree(texts: tuple[str, ...], replies: str = "replies") -> dict:
    """A nested OpenAssistant message with one reply at each step."""
    node: dict = {}
    for i in reversed(range(len(texts))):
        role = ("prompter", "assistant")[i % 2]
        below = [node] if node else []
        node = {"message_id": f"m{i}", "role": role, "text": texts[i], replies: below}
    return node


def flat(texts: tuple[str, ...]) -> list[dict]:
    return [
        {
            "message_id": f"m{i}",
            "parent_id": f"m{i - 1}" if i else None,
            "role": ("prompter", "assistant")[i % 2],
            "text": text,
            "lang": "en",
        }
        for i, text in enumerate(texts)
    ]


def turns(names: tuple[str, ...], role: str, text: str) -> list[dict]:
    return [{role: names[i % len(names)], text: TEXTS[i]} for i in range(len(TEXTS))]


def wildchat(**more: object) -> dict:
    said = turns(("user", "assistant"), "role", "content")
    return {"conversation": said, "model": "gpt-4", "language": "English", "toxic": False, **more}


def chatgpt(texts: tuple[str, ...]) -> dict:
    """The mapping of ChatGPT's export: a node without a message, an empty system message, and a
    dialogue below them."""
    mapping: dict = {
        "root": {"id": "root", "message": None, "parent": None, "children": ["system"]},
        "system": chatgpt_node("system", "system", "", "root", ["m0"]),
    }
    for i, text in enumerate(texts):
        below = [f"m{i + 1}"] if i + 1 < len(texts) else []
        above = f"m{i - 1}" if i else "system"
        mapping[f"m{i}"] = chatgpt_node(f"m{i}", ROLES[i], text, above, below)
    return mapping


def chatgpt_node(name: str, role: str, text: str, parent: str, children: list, **more) -> dict:
    message = {
        "id": name,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1700000000.5,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully",
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
        **more,
    }
    return {"id": name, "message": message, "parent": parent, "children": children}


def open_webui(texts: tuple[str, ...]) -> dict:
    nodes = {
        f"m{i}": {
            "id": f"m{i}",
            "parentId": f"m{i - 1}" if i else None,
            "childrenIds": [f"m{i + 1}"] if i + 1 < len(texts) else [],
            "role": ROLES[i],
            "content": text,
            "timestamp": 1700000000,
        }
        for i, text in enumerate(texts)
    }
    history = {"messages": nodes, "currentId": f"m{len(texts) - 1}"}
    return {"title": "t", "models": ["llama"], "history": history, "messages": [*nodes.values()]}


PARTS = [
    {"role": r, "content": [{"type": "text", "text": t}]} for r, t in zip(ROLES, TEXTS, strict=True)
]
HH = "".join(f"\n\n{'HA'[i % 2]}{('uman', 'ssistant')[i % 2]}: {t}" for i, t in enumerate(TEXTS))

# case -> format, the records of a file "chats", the id that the dialogue gets
FORMS = {
    "native": ("native", [chat("c", *TEXTS)], "c"),
    "openai": (
        "openai",
        [{"messages": turns(("user", "assistant"), "role", "content")}],
        "chats.1",
    ),
    "openai_parts": ("openai", [{"messages": PARTS}], "chats.1"),
    "sharegpt": (
        "sharegpt",
        [{"id": "s", "conversations": turns(("human", "gpt"), "from", "value")}],
        "s",
    ),
    "sharegpt_names": (
        "sharegpt",
        [{"conversations": turns(("user", "bing", "human", "bard"), "from", "value")}],
        "chats.1",
    ),
    "oasst_tree": ("oasst_tree", [{"message_tree_id": "t", "prompt": tree(TEXTS)}], "t.0"),
    "oasst_flat": ("oasst_flat", flat(TEXTS), "m0.0"),
    "oasst_seed": (
        "oasst_flat",
        [
            {
                "user_message_id": m["message_id"],
                "parent_message_id": m["parent_id"],
                "role": m["role"],
                "text": m["text"],
            }
            for m in flat(TEXTS)
        ],
        "m0.0",
    ),
    "chatgpt": (
        "chatgpt",
        [{"title": "t", "conversation_id": "g", "mapping": chatgpt(TEXTS), "current_node": "m4"}],
        "g.0",
    ),
    "open_webui": ("open_webui", [{"id": "w", "user_id": "u", "chat": open_webui(TEXTS)}], "w.0"),
    "hh_rlhf": ("hh_rlhf", [{"chosen": HH, "rejected": HH.replace("Four.", "Five.")}], "chats.1"),
    "wildchat": ("wildchat", [wildchat(conversation_id="w", hashed_ip="ip")], "w"),
    "wildchat_1m": (
        "wildchat",
        [
            {
                **wildchat(conversation_hash="w"),
                "conversation": [
                    {**turn, "turn_identifier": 7 + i, "toxic": False}
                    for i, turn in enumerate(wildchat()["conversation"])
                ],
            }
        ],
        "w.7",
    ),
    "wildfeedback": (
        "wildfeedback",
        [
            {
                "conversations": turns(("human", "gpt"), "from", "value"),
                "chosen": {"from": "gpt", "value": "better"},
                "rejected": {"from": "gpt", "value": "worse"},
            }
        ],
        "chats.1",
    ),
    "rows": (
        "rows",
        [{"session": "s", **turn} for turn in turns(("user", "assistant"), "role", "text")],
        "s",
    ),
    "wildfeedback_rows": ("wildfeedback", [wildchat(conversation_id="w")], "w"),
}


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize("layout", ["chats.jsonl", "chats.json", "chats.jsonl.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_agree(tmp_path, form, layout, named):
    """One dialogue means the same in every format, as lines, list or gzip, found or named."""
    name, records, identity = FORMS[form]
    data = json.dumps(records, indent=1) if layout == "chats.json" else records
    path = write(tmp_path, layout, data)
    [conversation], report = read_conversations(path, name if named else "auto")
    # HH-RLHF's transcripts have no way to keep white space around a message; no text here has any.
    assert [m.role for m in conversation.messages] == list(ROLES)
    assert [m.content for m in conversation.messages] == list(TEXTS)
    assert conversation.id == identity
    assert [i.id for i in conversation.interactions()] == [f"{identity}_1", f"{identity}_3"]
    assert conversation.source.startswith(f"{path}:")
    assert (report.files, report.conversations, report.interactions) == (1, 1, 2)
    assert report.records == len(records) and not report.lost


def test_every_format_is_tried():
    """Here, or in test_preferences and test_alternatives where a dialogue ends in a reply."""
    pairs = {"preference", "ultrafeedback", "aloe"}
    tried = {name for name, _, _ in FORMS.values()} | {"auto"} | pairs
    assert tried == set(FORMATS)


def test_metadata(tmp_path):
    """What a log says about a dialogue comes along: who spoke, language, toxicity, model."""
    path = write(tmp_path, "w.jsonl", [wildchat(conversation_id="w", hashed_ip="ip", turn=2)])
    [conversation], _ = read_conversations(path)
    assert conversation.user == "ip"
    known = {"model": "gpt-4", "language": "English", "toxic": False, "turn": 2}
    assert known.items() <= conversation.meta.items()


def test_sampled_tokens(tmp_path):
    """What a sampler produced stays with its reply, and the user with the dialogue."""
    record = {**good("a"), "user": "eve"}
    record["messages"][1] |= {"token_ids": [5, 6], "logps": [-0.5, -1]}
    [conversation], _ = read_conversations(write(tmp_path, "a.jsonl", [record]))
    assert conversation.user == "eve"
    assert conversation.messages[1].token_ids == (5, 6)
    assert conversation.messages[1].logps == (-0.5, -1.0)
    assert conversation.messages[0].token_ids is None


@pytest.mark.parametrize(
    "key, role, text", [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_the_user_may_be_called_user_id(tmp_path, key, role, text):
    """Influence is limited by user: a name that is not read would go unnoticed."""
    said = {key: turns(("user", "assistant"), role, text)}
    named = [{"user_id": 7}, {"user_id": "u", "user": "eve"}, {"user_id": "u", "user": None}]
    others = [{"user_id": 7.5}, {"user_id": None}, {"user_id": {"name": "u"}}, {}]
    path = write(tmp_path, "a.jsonl", [{**said, **more} for more in [*named, *others]])
    conversations, report = read_conversations(path)
    assert [c.user for c in conversations] == ["7", "eve", "u", "", "", "", ""]
    assert conversations[0].meta["user_id"] == 7 and not report.lost


def test_first_speaker(tmp_path):
    """The system may come first, an assistant may begin: then only what has an x is learned."""
    system = {"id": "s", "messages": [{"role": "system", "content": "Be brief."}]}
    system["messages"] += good("s")["messages"]
    greeting = {"id": "g", "messages": [{"role": "assistant", "content": "Welcome."}]}
    greeting["messages"] += good("g")["messages"]
    conversations, _ = read_conversations(write(tmp_path, "a.jsonl", [system, greeting]))
    assert [i.id for c in conversations for i in c.interactions()] == ["s_2", "g_2"]


@pytest.mark.parametrize("named", sorted(set(FORMATS) - {"auto"}))
@pytest.mark.parametrize("form", FORMS)
def test_format_that_does_not_fit(tmp_path, form, named):
    """Read as another format, a file gives the same or an error that names the right format."""
    right, records, _ = FORMS[form]
    path = write(tmp_path, "chats.jsonl", records)
    try:
        [conversation], _ = read_conversations(path, named)
        assert [m.content for m in conversation.messages] == list(TEXTS)
    except InputError as error:
        looks = "wildchat" if form == "wildfeedback_rows" else right
        assert f"{path}:1" in str(error) and f"looks like {looks}" in str(error)


def test_unknown_format(tmp_path):
    """The error lists the keys that were seen and what each format looks like."""
    path = write(tmp_path, "a.jsonl", [{"prompt": "Hi", "completion": "Hello"}, good("b")])
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:1: unknown format") and "'prompt', 'completion'" in message
    assert all(name in message for name in FORMATS if name != "auto")
    assert ids(path, on_error="skip") == ["b"]


def test_messages_outside_of_conversations_are_told_where_they_belong(tmp_path):
    """A message a line, and a list of messages a line or an item, are what many begin with."""
    said = turns(("user", "assistant"), "role", "content")
    with pytest.raises(InputError, match=r"a\.jsonl:1: .*single message.*docs/data\.md"):
        read_conversations(write(tmp_path, "a.jsonl", said))
    with pytest.raises(InputError, match=r"a list of messages is a record as {\"messages\": "):
        read_conversations(write(tmp_path, "b.json", json.dumps([said]).encode()))


def test_one_odd_record_does_not_decide(tmp_path):
    """Most of the first ones do, wherever the odd one stands; it alone is lost."""
    odd = {"conversation": turns(("user", "assistant"), "role", "content")}
    records = [
        {"id": f"c{n}", "conversations": FORMS["sharegpt"][1][0]["conversations"]} for n in range(5)
    ]
    for place in range(6):
        mixed = [*records[:place], odd, *records[place:]]
        path = write(tmp_path, "a.jsonl", mixed)
        with pytest.raises(InputError, match=rf"a\.jsonl:{place + 1}: .*looks like wildchat"):
            read_conversations(path)
        assert ids(path, on_error="skip") == [f"c{n}" for n in range(5)]


def test_formats_that_are_read_alike_have_one_voice(tmp_path):
    """With ids and without, messages are as many as they are."""
    said = turns(("user", "assistant"), "role", "content")
    with_id = [{"id": f"c{n}", "messages": said} for n in range(3)]
    others = [{"conversation": said}] * 4
    path = write(tmp_path, "a.jsonl", [*others, *with_id, {"messages": said}, {"messages": said}])
    found = ids(path, on_error="skip")
    assert found == ["c0", "c1", "c2", "a.8", "a.9"]


def test_long_beginnings_without_a_format(tmp_path):
    """However much stands before the first record that looks like something, it is found."""
    path = write(tmp_path, "a.jsonl", [{"n": n} for n in range(2500)] + [good("a"), {"n": 1}])
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a"]
    assert report.lost == {"unknown format": 2500, "missing key": 1}


# ----------------------------------------------------------------------------------- message trees


def grow(draw: random.Random, size: int) -> list[dict]:
    """A random message tree in flat form; all texts differ."""
    nodes = [{"message_id": "n0", "parent_id": None, "role": "prompter", "text": "text 0"}]
    for i in range(1, size):
        parent = nodes[max(0, draw.randrange(-3, i))]
        role = "assistant" if parent["role"] == "prompter" else "prompter"
        parent_id = parent["message_id"]
        nodes.append(
            {"message_id": f"n{i}", "parent_id": parent_id, "role": role, "text": f"text {i}"}
        )
    return nodes


def nest(nodes: list[dict], root: str = "n0") -> dict:
    by_id = {node["message_id"]: {**node, "replies": []} for node in nodes}
    for node in nodes:
        if node["parent_id"] in by_id:
            by_id[node["parent_id"]]["replies"].append(by_id[node["message_id"]])
    return by_id[root]


def expected(nodes: list[dict]) -> list[tuple[str, ...]]:
    """The texts from the root to o, for every o that follows a reply: what there is to learn."""
    by_id = {node["message_id"]: node for node in nodes}
    found = []
    for o in nodes:
        chain, node = [], o
        while node:
            chain.append(node["text"])
            node = by_id.get(node["parent_id"])
        if o["role"] == "prompter" and len(chain) > 2:
            found.append(tuple(reversed(chain)))
    return sorted(found)


def told(path: str, **options: str) -> list[tuple[str, ...]]:
    conversations, report = read_conversations(path, **options)
    found = [
        tuple(m.content for m in (*i.x, i.y, i.o)) for c in conversations for i in c.interactions()
    ]
    every = [i.id for c in conversations for i in c.interactions()]
    assert len(set(every)) == len(every) == report.interactions
    return sorted(found)


@pytest.mark.parametrize("seed", range(5))
def test_trees_tell_every_interaction_once(tmp_path, seed):
    """Nested or flat, in any order of lines: each follow-up in a tree is told exactly once."""
    draw = random.Random(seed)
    nodes = grow(draw, 60)
    nested = write(tmp_path, "n.jsonl", [{"message_tree_id": "t", "prompt": nest(nodes)}])
    assert told(nested) == expected(nodes)
    assert told(write(tmp_path, "f.jsonl", nodes)) == expected(nodes)
    shuffled = draw.sample(nodes, len(nodes))
    assert told(write(tmp_path, "s.jsonl", shuffled)) == expected(nodes)


def test_shared_interactions_belong_to_the_first_path(tmp_path):
    """The picture in the docstring of `_paths`, for both forms."""
    names = ["u1", "y1", "u2", "y2", "u3", "y3", "y4"]
    above = [None, "u1", "y1", "u2", "y1", "u3", "u3"]
    nodes = [
        {
            "message_id": name,
            "parent_id": parent,
            "role": {"u": "prompter", "y": "assistant"}[name[0]],
            "text": name,
        }
        for name, parent in zip(names, above, strict=True)
    ]
    flat_path = write(tmp_path, "f.jsonl", nodes)
    nested = [{"message_tree_id": "u1", "prompt": nest(nodes, "u1")}]
    for path in (flat_path, write(tmp_path, "n.jsonl", nested)):
        conversations, report = read_conversations(path)
        assert [c.id for c in conversations] == ["u1.0", "u1.1"]
        assert ["".join(m.content for m in c.messages) for c in conversations] == [
            "u1y1u2y2",
            "u1y1u3y3",
        ]
        assert [[i.o.content for i in c.interactions()] for c in conversations] == [["u2"], ["u3"]]
        assert report.lost == {"only repeats": 1}


@pytest.mark.parametrize("form", ["nested", "flat"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deleted": True}, "deleted message"),
        ({"text": " "}, "empty message of the (user|assistant)"),
        ({"text": None}, "empty message of the (user|assistant)"),
        ({"role": "narrator"}, "unknown role"),
        ({"text": 4}, "wrong type"),
    ],
)
def test_bad_message_falls_with_its_replies(tmp_path, form, change, reason):
    """The rest of the tree stays whole. Deleted and empty messages are no error."""
    nodes = grow(random.Random(1), 40)
    spoilt = next(n for n in nodes[1:] if sum(m["parent_id"] == n["message_id"] for m in nodes) > 1)
    gone = {spoilt["message_id"]}
    for node in nodes:
        if node["parent_id"] in gone:
            gone.add(node["message_id"])
    assert 2 < len(gone) < 30
    rest = [node for node in nodes if node["message_id"] not in gone]
    spoilt |= change
    records = nodes if form == "flat" else [{"message_tree_id": "t", "prompt": nest(nodes)}]
    path = write(tmp_path, "t.jsonl", records)
    assert told(path, on_error="skip") == expected(rest)
    lost = read_conversations(path, on_error="skip")[1].lost
    assert [times for counted, times in lost.items() if re.fullmatch(reason, counted)] == [1]
    if reason in ("unknown role", "wrong type"):
        line = nodes.index(spoilt) + 1 if form == "flat" else 1
        with pytest.raises(
            InputError, match=rf"t\.jsonl:{line}: {reason}: .*{spoilt['message_id']}"
        ):
            read_conversations(path)
    else:
        assert told(path) == expected(rest)


def test_reply_to_oneself(tmp_path):
    """A turn that a tree has in two parts is joined on that path only, and counted."""
    said = [
        ("a", None, "prompter", "Q"),
        ("b", "a", "assistant", "part 1"),
        ("c", "b", "assistant", "part 2"),
        ("d", "c", "prompter", "after both"),
        ("e", "b", "prompter", "after one"),
    ]
    keys = ("message_id", "parent_id", "role", "text")
    path = write(tmp_path, "t.jsonl", [dict(zip(keys, row, strict=True)) for row in said])
    assert told(path) == [("Q", "part 1", "after one"), ("Q", "part 1\npart 2", "after both")]
    report = read_conversations(path)[1]
    assert report.mended == {"joined to its parent": 1} and not report.lost
    assert told(path, repair="drop") == [("Q", "part 1", "after one")]
    with pytest.raises(InputError, match=r"t\.jsonl:3: joined to its parent: .*'c'.*repair=join"):
        read_conversations(path, repair="stop")


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"parent_id": "gone"}, "parent not found", "'gone' of 'm2' is not in the file"),
        ({"parent_id": "m2"}, "parent not found", "leads to no first message"),
        ({"message_id": "m1"}, "duplicate id", "'m1'"),
        ({"message_id": None}, "wrong type", "message_id"),
        ({"parent_id": {}}, "wrong type", "parent_id"),
    ],
)
def test_flat_without_parent(tmp_path, change, reason, words):
    """A message that hangs on nothing is an error, and costs no other tree anything."""
    nodes = flat(TEXTS)
    nodes[2] |= change
    other = [{**n, "message_id": f"o{n['message_id']}"} for n in flat(TEXTS)]
    for node in other[1:]:
        node["parent_id"] = f"o{node['parent_id']}"
    path = write(tmp_path, "t.jsonl", nodes + other)
    with pytest.raises(InputError, match=rf"t\.jsonl:3: {reason}: .*{words}"):
        read_conversations(path)
    assert ids(path, on_error="skip") == ["om0.0"]


def test_a_system_message_inside_a_tree_falls_with_its_replies(tmp_path):
    nodes = [*flat(TEXTS), *flat(TEXTS)[3:]]
    nodes[5] |= {"message_id": "s", "role": "system"}
    nodes[6] |= {"message_id": "t", "parent_id": "s"}
    [conversation], report = read_conversations(write(tmp_path, "t.jsonl", nodes))
    assert [m.content for m in conversation.messages] == list(TEXTS)
    assert report.lost == {"misplaced system message": 1}


def test_a_tree_of_too_many_paths_is_told_in_part(tmp_path, monkeypatch):
    """A comb has paths of n * n messages in all: it is cut off, and that is said."""
    monkeypatch.setattr(message_trees, "MOST_TURNS", 100)
    nodes = flat(tuple(f"text {n}" for n in range(41)))
    nodes += [
        {
            **node,
            "message_id": f"x{n}",
            "parent_id": node["message_id"],
            "role": nodes[1 - n % 2]["role"],
        }
        for n, node in enumerate(nodes)
    ]
    path = write(tmp_path, "t.jsonl", nodes)
    with pytest.raises(InputError, match=r"tree too large: the paths of tree 'm0' have .* 100 "):
        read_conversations(path)
    conversations, report = read_conversations(path, on_error="skip")
    assert 0 < sum(len(c.messages) for c in conversations) <= 150
    assert report.lost["tree too large"] == 1


def test_histories_of_a_long_dialogue_are_no_copies(tmp_path):
    """What all interactions hold together grows with the dialogue, not with its square."""
    peaks = []
    for length in (1001, 4001):
        texts = tuple(f"text {i}" for i in range(length))
        [conversation], _ = read_conversations(write(tmp_path, "t.jsonl", flat(texts)))
        tracemalloc.start()
        told = list(conversation.interactions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert told[-1].x == conversation.messages[: length - 2]
        assert [m.content for m in told[-1].x[-2:]] == list(texts[-4:-2])
    assert peaks[1] < 6 * peaks[0]


def test_long_thread(tmp_path):
    """A dialogue may be longer than Python's stack is deep."""
    texts = tuple(f"text {i}" for i in range(1501))
    [conversation], report = read_conversations(write(tmp_path, "t.jsonl", flat(texts)))
    assert len(conversation.messages) == 1501 and report.interactions == 750
