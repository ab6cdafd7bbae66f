"""Exports of chats: branches, what nobody reads, and nodes that do not fit together."""

import json

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.schema import InputError
from tests.data.test_formats import chatgpt, chatgpt_node, open_webui
from tests.logs import write

TALK = ("Hi", "Hello", "Shorter", "Hey", "Thanks")


def read(tmp_path, record, **settings):
    path = write(tmp_path, "conversations.json", json.dumps([record]))
    conversations, report = read_conversations(path, **settings)
    return [[m.content for m in c.messages] for c in conversations], report


def test_a_reply_that_was_asked_for_again_and_an_edited_message(tmp_path):
    mapping = chatgpt(TALK)
    mapping["m2"]["children"].append("again")
    mapping["again"] = chatgpt_node("again", "assistant", "Yo", "m2", ["more"])
    mapping["more"] = chatgpt_node("more", "user", "Better", "again", [])
    mapping["system"]["children"].append("edited")
    mapping["edited"] = chatgpt_node("edited", "user", "Hi!", "system", ["e1"])
    mapping["e1"] = chatgpt_node("e1", "assistant", "Hello!", "edited", ["e2"])
    mapping["e2"] = chatgpt_node("e2", "user", "Fine", "e1", [])
    path = write(tmp_path, "conversations.json", [{"id": "g", "mapping": mapping}])
    conversations, report = read_conversations(path)
    assert [[m.content for m in c.messages] for c in conversations] == [
        ["Hi", "Hello", "Shorter", "Hey", "Thanks"],
        ["Hi", "Hello", "Shorter", "Yo", "Better"],
        ["Hi!", "Hello!", "Fine"],
    ]
    assert [c.id for c in conversations] == ["g.0", "g.1", "g.2"]
    assert report.interactions == 4 and not report.lost
    told = [(i.y.content, i.o.content) for c in conversations for i in c.interactions()]
    assert sorted(told) == sorted(
        [("Hello", "Shorter"), ("Hey", "Thanks"), ("Yo", "Better"), ("Hello!", "Fine")]
    )


def test_what_nobody_reads_is_left_out_and_counted(tmp_path):
    mapping = chatgpt(TALK)
    mapping["m0"]["children"] = ["call"]
    code = {"content_type": "code", "language": "python", "text": "1 + 1"}
    mapping["call"] = chatgpt_node("call", "assistant", "", "m0", ["result"], recipient="python")
    mapping["call"]["message"]["content"] = code
    mapping["result"] = chatgpt_node("result", "tool", "2", "call", ["thoughts"])
    mapping["thoughts"] = chatgpt_node("thoughts", "assistant", "", "result", ["m1"])
    mapping["thoughts"]["message"]["content"] = {"content_type": "thoughts", "thoughts": []}
    mapping["m1"]["parent"] = "thoughts"
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    mapping["about"] = chatgpt_node("about", "user", "I am Ann", "system", ["m0"], **hidden)
    mapping["system"]["children"], mapping["m0"]["parent"] = ["about"], "about"
    image = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    mapping["m2"]["message"]["content"] = {
        "content_type": "multimodal_text",
        "parts": [image, "Shorter"],
    }
    texts, report = read(tmp_path, {"id": "g", "mapping": mapping})
    assert texts == [list(TALK)] and not report.lost
    assert report.mended == {
        "call of a tool left out": 1,
        "result of a tool left out": 1,
        "message of kind 'thoughts' left out": 1,
        "hidden message of the user left out": 1,
        "part of kind 'image_asset_pointer' left out": 1,
    }


def test_what_an_export_says_of_a_chat_comes_along(tmp_path):
    record = {"id": "g", "mapping": chatgpt(TALK), "default_model_slug": "o9", "create_time": 7.5}
    webui = {"id": "w", "user_id": "u", "created_at": 8, "chat": open_webui(TALK)}
    (first,), _ = read_conversations(write(tmp_path, "chatgpt.json", [record]))
    (second,), _ = read_conversations(write(tmp_path, "webui.json", [webui]))
    assert first.meta == {"model": "o9", "time": 7.5}
    assert second.user == "u" and second.meta == {"time": 8}


@pytest.mark.parametrize(
    "node, change, reason, said",
    [
        ("m4", {"children": ["m1"]}, "message reached twice", "mapping['m1']"),
        ("m4", {"children": ["gone"]}, "missing key", "no message 'gone'"),
        ("m4", {"children": 7}, "wrong type", "'children' is no list of ids"),
        ("m4", {"message": 7}, "not an object", "mapping['m4']"),
        ("m4", {"message": {"author": {"role": "user"}}}, "missing key", "no 'content'"),
        ("m3", {"children": []}, "parent not found", "1 of 7 nodes"),
    ],
)
def test_nodes_that_do_not_fit(tmp_path, node, change, reason, said):
    mapping = chatgpt(TALK)
    mapping[node] |= change
    with pytest.raises(InputError) as error:
        read(tmp_path, {"id": "g", "mapping": mapping})
    assert reason in str(error.value) and said in str(error.value)
    assert "conversations.json:1 (item 1): " in str(error.value)
    texts, report = read(tmp_path, {"id": "g", "mapping": mapping}, on_error="skip")
    assert texts[0][:3] == ["Hi", "Hello", "Shorter"] and report.lost[reason] == 1


def test_a_circle_of_nodes(tmp_path):
    mapping = chatgpt(TALK)
    mapping["m0"]["parent"] = "m4"
    mapping["m4"]["children"] = ["m0"]
    del mapping["root"], mapping["system"]
    with pytest.raises(InputError, match="5 of 5 nodes follow no first message"):
        read(tmp_path, {"id": "g", "mapping": mapping})


def test_a_long_chat_is_read_in_linear_depth(tmp_path):
    texts = tuple(f"turn {n}" for n in range(3001))
    mapping = {"root": {"message": None, "children": ["n0"]}}
    for n, text in enumerate(texts):
        role, below = ("user", "assistant")[n % 2], [f"n{n + 1}"] if n < 3000 else []
        mapping[f"n{n}"] = chatgpt_node(f"n{n}", role, text, f"n{n - 1}" if n else "root", below)
    (told,), report = read(tmp_path, {"id": "g", "mapping": mapping})
    assert told == list(texts) and report.interactions == 1500
