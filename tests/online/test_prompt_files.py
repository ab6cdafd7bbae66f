"""Formats of prompts and their filters; errors with file and line; every drop counted."""

import json

import pytest

from interact_jax.online.prompt_files import read_prompt_files
from interact_jax.schema import InputError
from tests.logs import write


def read(tmp_path, records, *args, name="p.jsonl", **more):
    return read_prompt_files(write(tmp_path, name, records), *args, **more)


def texts(found):
    return [asked.messages[-1].content for asked in found]


def post(text, key="post"):
    other = "article" if key == "post" else "post"
    return {"info": {key: text, other: None, "title": "T"}, "summaries": [], "choice": 0}


def helpsteer(prompt, response="Sure.", **more):
    return {"prompt": prompt, "response": response, "helpfulness": 3, **more}


# ------------------------------------------------------------------------------- the plain format


def test_texts_and_conversations_of_several_turns(tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in turns]
    found, report = read(tmp_path, [{"prompt": "Hi"}, {"messages": messages}])
    assert texts(found) == ["Hi", "c"]
    assert [(m.role, m.content) for m in found[1].messages] == turns
    assert [asked.where.rpartition("/")[2] for asked in found] == ["p.jsonl:1", "p.jsonl:2"]
    assert report.lines(2) == ["read 1 file (prompts), 2 records: 2 prompts"]


def test_the_same_prompt_twice_is_two_prompts(tmp_path):
    assert len(read(tmp_path, [{"prompt": "Hi"}, {"prompt": "Hi"}])[0]) == 2


def test_packed_files_lists_and_globs(tmp_path):
    write(tmp_path, "a.jsonl.gz", [{"prompt": "1"}])
    write(tmp_path, "b.json", '[{"prompt": "2"},\n {"prompt": "3"}]')
    found, report = read_prompt_files(f"{tmp_path}/*")
    assert texts(found) == ["1", "2", "3"]
    assert (report.files, report.records) == (2, 3)


def message(role, **more):
    return {"role": role, "content": "x", **more}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [message("user"), message("assistant"), message("tool")]},
        {"messages": [message("assistant"), message("user")]},
        {"messages": [message("user")], "tools": [{"type": "function"}]},
        {
            "messages": [
                message("user"),
                message("assistant", reasoning_content="hm"),
                message("user"),
            ]
        },
    ],
)
def test_what_is_more_than_a_chat_is_dropped_and_counted(tmp_path, record):
    found, report = read(tmp_path, [{"prompt": "Hi"}, record])
    assert texts(found) == ["Hi"]
    assert report.dropped == {"more than a chat": 1}
    assert "p.jsonl:2" in report.lines(1)[1]


def test_what_was_mended_is_counted(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    found, report = read(tmp_path, [{"messages": messages}])
    assert texts(found) == ["a\n\nb"]
    assert report.changed == {"two messages of one role in a row": 1}


@pytest.mark.parametrize(
    ("record", "format", "message"),
    [
        ({"text": "Hi"}, "auto", "not one prompt: exactly one of 'messages' and 'prompt'"),
        ({"prompt": 3}, "prompts", "wrong type"),
        ({"prompt": ""}, "prompts", "no prompt"),
        ({"messages": [message("user"), message("assistant")]}, "auto", "nothing to answer"),
        ("Hi", "auto", "not an object"),
        ({"prompt": "Hi"}, "tldr", r"missing key: no 'info'.*online\.format=tldr"),
        ({"info": {"title": "T"}}, "auto", "missing key: 'info' has no 'post'"),
        ({"info": {"post": 3}}, "auto", "wrong type: 'post' is 3"),
        ({"info": {"post": "\ud83d"}}, "auto", "broken character: 'post'"),
        ({"prompt": "Hi"}, "helpsteer2", r"missing key: no 'response'.*nvidia/HelpSteer2"),
        (helpsteer(["Hi"]), "auto", r"wrong type: 'prompt' is \['Hi'\]"),
    ],
)
def test_what_is_no_prompt_is_named_or_counted(tmp_path, record, format, message):
    good = {"tldr": post("A"), "helpsteer2": helpsteer("A")}.get(format)
    lines = [json.dumps(each) + "\n" for each in ([good] if good else []) + [record]]
    file = write(tmp_path, "p.jsonl", "".join(lines))
    with pytest.raises(InputError, match=rf"p\.jsonl:{len(lines)}: {message}.*on_error=skip"):
        read_prompt_files(file, format)
    found, report = read_prompt_files(file, format, "skip")
    assert len(found) == len(lines) - 1
    assert report.dropped.total() == 1 and report.records == len(lines)


def test_broken_lines_and_other_kinds_of_files(tmp_path):
    broken = write(tmp_path, "p.jsonl", '{"prompt": "a"}\n{"prom')
    with pytest.raises(InputError, match=r"p\.jsonl:2: broken JSON"):
        read_prompt_files(broken)
    found, report = read_prompt_files(broken, on_error="skip")
    assert texts(found) == ["a"] and report.dropped == {"broken JSON": 1}
    with pytest.raises(InputError, match=r"p\.parquet: damaged Parquet"):
        read(tmp_path, b"PAR1....", name="p.parquet")
    with pytest.raises(InputError, match="empty file"):
        read(tmp_path, "", name="empty.jsonl")
    with pytest.raises(InputError, match=r"more than data\.max_bytes=5"):
        read_prompt_files(broken, max_bytes=5)


# ------------------------------------------------------------------------------------------ TL;DR


def test_posts_and_articles_below_1024_characters(tmp_path):
    records = [post("a" * 1_023), post("b" * 1_024), post("An article", "article"), post("")]
    found, report = read(tmp_path, records)
    assert texts(found) == ["a" * 1_023, "An article"]
    assert report.dropped == {"post too long": 1, "no text": 1}
    assert "1,024 characters, at most 1,023" in "\n".join(report.lines(2))
    assert all("TL;DR:" in asked.system for asked in found)


def test_a_post_counts_once_whatever_its_case_and_white_space(tmp_path):
    write(tmp_path, "1.json", [post("One  Post"), post("Another")])
    write(tmp_path, "2.json", [post(" one post\n"), post("one, post")])
    found, report = read_prompt_files(f"{tmp_path}/*.json")
    assert texts(found) == ["One  Post", "Another", "one, post"]
    assert report.dropped == {"the same prompt again": 1}
    assert "2.json:1" in report.lines(3)[1] and "1.json:1" in report.lines(3)[1]


# ------------------------------------------------------------------------------------- HelpSteer2


def test_single_turns_of_at_most_2048_characters(tmp_path):
    records = [
        helpsteer("p" * 2_048, "r" * 2_048),
        helpsteer("q" * 2_049),
        helpsteer("long response", "r" * 2_049),
        helpsteer("Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nBye"),
        helpsteer("<extra_id_x> is no mark"),
        helpsteer("p" * 2_048),
        helpsteer("P" * 2_048),
        helpsteer(" "),
    ]
    found, report = read(tmp_path, records)
    assert texts(found) == ["p" * 2_048, "<extra_id_x> is no mark", "P" * 2_048]
    assert report.dropped == {
        "prompt too long": 1,
        "response too long": 1,
        "several turns": 1,
        "the same prompt again": 1,
        "no text": 1,
    }
    assert {asked.system for asked in found} == {""}


def test_a_prompt_whose_first_response_is_too_long_is_kept_for_its_second(tmp_path):
    found, _ = read(tmp_path, [helpsteer("Hi", "r" * 3_000), helpsteer("Hi", "short")])
    assert texts(found) == ["Hi"]


# ------------------------------------------------------------------------------------------- auto


def test_every_file_has_a_format_of_its_own(tmp_path):
    write(tmp_path, "1.jsonl", [post("A post")])
    write(tmp_path, "2.jsonl", [helpsteer("A question")])
    write(tmp_path, "3.jsonl", [{"prompt": "A prompt", "response": "without ratings"}])
    found, report = read_prompt_files(f"{tmp_path}/*.jsonl")
    assert texts(found) == ["A post", "A question", "A prompt"]
    assert [asked.system is None for asked in found] == [False, False, True]
    assert found[1].system == ""
    assert report.formats == {"tldr": 1, "helpsteer2": 1, "prompts": 1}


def test_a_broken_first_line_does_not_decide(tmp_path):
    file = write(tmp_path, "p.jsonl", "{broken\n" + json.dumps(post("A post")) + "\n")
    found, report = read_prompt_files(file, on_error="skip")
    assert texts(found) == ["A post"] and report.formats == {"tldr": 1}
