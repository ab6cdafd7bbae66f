"""Prompts of online runs: by number, in order, with their system message; what is dropped."""

import collections

import pytest

from interact_jax import config
from interact_jax.data.chat import ChatFormat
from interact_jax.online.prompts import ENDLESS, open_prompts
from interact_jax.pocket import world
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message
from tests.logs import write
from tests.tiny import CHATML, tiny_tokenizer

NO_SYSTEM = CHATML.replace(
    "{% for m in messages %}",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}",
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def no_system(tmp_path_factory):
    folder = tiny_tokenizer(tmp_path_factory.mktemp("no_system"))
    (folder / "chat_template.jinja").write_text(NO_SYSTEM)
    return ChatFormat.load(folder)


def settings(prompts="pocket", **changes):
    """Settings of a run; `system="x"` is `online.system`, `data__on_error` is `data.on_error`."""
    cfg = config.default()
    cfg.online.prompts = str(prompts)
    for name, value in changes.items():
        group, _, last = name.rpartition("__")
        group = group or ("" if name == "seed" else "online")
        (cfg[group] if group else cfg)[last] = value
    return cfg


def source_of(tmp_path, chat, records, **changes):
    return open_prompts(settings(write(tmp_path, "p.jsonl", records), **changes), chat)


def numbered(count, text="Request {}"):
    return [{"prompt": text.format(n)} for n in range(count)]


def texts(source, indices):
    return [source[i][-1].content for i in indices]


# ---------------------------------------------------------------------------------------- order


def test_every_epoch_has_every_prompt_once_in_a_new_order(tmp_path, chat):
    source = source_of(tmp_path, chat, numbered(20))
    assert len(source) == 20
    epochs = [texts(source, range(start, start + 20)) for start in (0, 20, 40)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"Request {n}" for n in range(20))] * 3
    assert len(set(map(tuple, epochs))) == 3


def test_the_order_depends_on_the_seed_alone(tmp_path, chat):
    first = source_of(tmp_path, chat, numbered(20))
    again = source_of(tmp_path, chat, numbered(20))
    other = source_of(tmp_path, chat, numbered(20), seed=1)
    assert again[33] == first[33]  # whatever was asked before
    assert texts(again, range(40)) == texts(first, range(40))
    assert texts(other, range(40)) != texts(first, range(40))


def test_files_may_be_read_in_their_order(tmp_path, chat):
    source = source_of(tmp_path, chat, numbered(5), order="file")
    assert texts(source, range(7)) == [f"Request {n % 5}" for n in range(7)]


def test_ids_name_prompt_and_epoch_and_are_unique(tmp_path, chat):
    source = source_of(tmp_path, chat, numbered(9))
    names = [source.id(i) for i in range(45)]
    assert len(set(names)) == 45
    for i, name in enumerate(names):
        assert name == f"p{source[i][-1].content.removeprefix('Request ')}_e{i // 9}"


def test_numbers_begin_at_0(tmp_path, chat):
    for source in (source_of(tmp_path, chat, numbered(2)), open_prompts(settings(), chat)):
        with pytest.raises(IndexError):
            source[-1]


# --------------------------------------------------------------------------------------- dropped


def test_long_prompts_are_dropped_and_counted(tmp_path, chat):
    records = [{"prompt": "x" * n} for n in (1, 40, 80)]
    length = len(chat.prompt([Message("user", "x" * 40)]))
    source = source_of(tmp_path, chat, records, max_prompt=length)
    assert len(source) == 2
    assert source.counts["prompt too long"] == 1
    assert any("p.jsonl:3" in line and f"max_prompt={length}" in line for line in source.lines())


def test_text_of_special_tokens_follows_the_setting(tmp_path, chat):
    records = [{"prompt": "Hi"}, {"prompt": "Hi<|im_end|>"}]
    source = source_of(tmp_path, chat, records)
    assert len(source) == 1 and source.counts["special token in the text"] == 1
    assert len(source_of(tmp_path, chat, records, data__special_tokens="keep")) == 2
    with pytest.raises(InputError, match=r"p\.jsonl:2: special token .*im_end.* Mend it"):
        source_of(tmp_path, chat, records, data__special_tokens="stop")


def test_where_no_prompt_is_left_the_reasons_are_given(tmp_path, chat):
    with pytest.raises(InputError, match=r"no prompt is left(.|\n)*2 x prompt too long"):
        source_of(tmp_path, chat, numbered(2), max_prompt=3)


def test_what_the_template_refuses_stops_the_run_or_is_counted(tmp_path):
    folder = tiny_tokenizer(tmp_path / "tokenizer")
    refusal = "{% if 'no' in messages[0].content %}{{ raise_exception('never') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusal + CHATML)
    chat, records = ChatFormat.load(folder), [{"prompt": "yes"}, {"prompt": "no"}]
    with pytest.raises(InputError, match=r"p\.jsonl:2: refused by the chat template: .*never"):
        source_of(tmp_path, chat, records)
    source = source_of(tmp_path, chat, records, data__on_error="skip")
    assert len(source) == 1 and source.counts["refused by the chat template"] == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "is not set"), ("-", "standard input is over"), ("absent.jsonl", "no such file")],
)
def test_what_is_no_file_of_prompts(chat, path, message):
    with pytest.raises(InputError, match=message):
        open_prompts(settings(path), chat)


# --------------------------------------------------------------------------------------- system

ONE = [{"prompt": "Hi"}]
OWN = [{"messages": [{"role": "system", "content": "Own"}, {"role": "user", "content": "Hi"}]}]
POST = [{"info": {"post": "A long post"}}]
HELPSTEER = [{"prompt": "Hi", "response": "Hello", "helpfulness": 4}]


def system_of(messages):
    return messages[0].content if messages[0].role == "system" else None


@pytest.mark.parametrize(
    ("records", "setting", "expected"),
    [
        (ONE, "auto", None),
        (OWN, "auto", "Own"),
        (HELPSTEER, "auto", ""),
        (ONE, "empty", ""),
        (OWN, "empty", ""),
        (OWN, "none", None),
        (HELPSTEER, "none", None),
        (POST, "none", None),
        (POST, "Be brief.", "Be brief."),
        (OWN, "Be brief.", "Be brief."),
    ],
)
def test_the_system_message(tmp_path, chat, records, setting, expected):
    source = source_of(tmp_path, chat, records, system=setting)
    assert system_of(source[0]) == expected
    assert [m.role for m in source[0][expected is not None :]] == ["user"]
    changed = sum("system message" in reason for reason in source.counts)
    assert changed == (records is OWN and setting != "auto")


def test_a_post_comes_with_an_instruction_to_summarise(tmp_path, chat):
    source = source_of(tmp_path, chat, POST)
    assert "one or two sentences" in system_of(source[0])
    assert '"TL;DR:"' in system_of(source[0])


def test_requests_of_the_pocket_world_may_have_a_system_message(chat):
    assert system_of(open_prompts(settings(system="Be brief."), chat)[0]) == "Be brief."
    assert system_of(open_prompts(settings(), chat)[0]) is None


def test_an_empty_system_message_is_none_where_the_template_takes_none(tmp_path, no_system):
    """It would be put before the user's message, as two line breaks."""
    source = source_of(tmp_path, no_system, HELPSTEER)
    assert system_of(source[0]) is None
    assert [reason for reason in source.counts if "empty system" in reason]
    told = source_of(tmp_path, no_system, ONE, system="Be brief.")
    assert system_of(told[0]) == "Be brief."
    assert [reason for reason in told.counts if "before the user's first" in reason]


# -------------------------------------------------------------------------------------- held out


def test_the_share_is_held_out_by_content(tmp_path, chat):
    records = numbered(300)
    source = source_of(tmp_path, chat, records, evaluation__holdout=0.2)
    held = {messages[-1].content for messages in source.held_out}
    learned = set(texts(source, range(len(source))))
    assert 30 <= len(held) <= 90
    assert held | learned == {record["prompt"] for record in records}
    assert not held & learned
    turned = source_of(tmp_path, chat, records[::-1], evaluation__holdout=0.2, system="x", seed=5)
    assert {messages[-1].content for messages in turned.held_out} == held
    assert f"{len(held)} of 300 prompts" in source.lines()[-1]


def test_prompts_that_begin_alike_are_on_one_side(tmp_path, chat):
    """Else the model could learn from the beginning of what it is measured on."""
    texts_of = [("user", "assistant", "user")[: 1 + 2 * (n % 2)] for n in range(400)]
    records = [
        {"messages": [{"role": role, "content": f"{n // 2} {i}"} for i, role in enumerate(roles)]}
        for n, roles in enumerate(texts_of)
    ]
    source = source_of(tmp_path, chat, records, evaluation__holdout=0.3)
    times = collections.Counter(messages[0].content for messages in source.held_out)
    assert len(times) >= 30 and set(times.values()) == {2}


def test_nothing_is_held_out_of_a_few(tmp_path, chat):
    source = source_of(tmp_path, chat, numbered(50), evaluation__holdout=0.5)
    assert not source.held_out and len(source) == 50
    assert "fewer than 30" in source.lines()[-1]
    none = source_of(tmp_path, chat, numbered(300), evaluation__holdout=0.0)
    assert not none.held_out and "as asked" in none.lines()[-1]


# ------------------------------------------------------------------------------ the pocket world


def test_requests_of_the_pocket_world_have_no_end(chat):
    source = open_prompts(settings(), chat)
    assert len(source) == ENDLESS
    requests = [read_request(text) for text in texts(source, range(400))]
    assert all(request is not None and not request.held_out for request in requests)
    assert {request.kind for request in requests} == set(world.KINDS)
    assert read_request(texts(source, [10**12])[0])
    assert len({source.id(i) for i in range(100)}) == 100


def test_requests_of_the_pocket_world_depend_on_seed_and_number(chat):
    first, again = open_prompts(settings(), chat), open_prompts(settings(), chat)
    assert again[7] == first[7]
    other = open_prompts(settings(seed=1), chat)
    assert texts(other, range(20)) != texts(first, range(20))
    assert len({first[i] for i in range(50)}) > 40


def test_what_the_pocket_world_holds_out_is_to_measure_by(chat):
    held = open_prompts(settings(), chat).held_out
    assert len(held) == len(set(held)) == 256
    assert all(read_request(messages[-1].content).held_out for messages in held)


def test_requests_of_the_pocket_world_that_are_too_long_are_refused(chat):
    with pytest.raises(InputError, match=r"online\.prompts=pocket: prompt too long: .*max_prompt"):
        open_prompts(settings(max_prompt=10), chat)


# ------------------------------------------------------------------------------------- resuming


def test_a_run_goes_on_with_the_same_prompts(tmp_path, chat):
    source = source_of(tmp_path, chat, numbered(20))
    source.check_same(source_of(tmp_path, chat, numbered(20)).fingerprint)
    pocket = open_prompts(settings(), chat)
    pocket.check_same(open_prompts(settings(), chat).fingerprint)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "learned from logs"),
        ({"conversations": 3}, "learned from logs"),
        (numbered(21), "had 21 prompts, now there are 20 prompts"),
        (numbered(20)[::-1], "had other prompts, or the same 20 prompts in another order"),
        (numbered(20, "Other {}"), "had other prompts"),
        ("pocket", "had requests of the pocket world, now there are 20 prompts"),
    ],
)
def test_a_run_is_not_resumed_with_other_prompts(tmp_path, chat, saved, message):
    if saved == "pocket":
        saved = open_prompts(settings(), chat).fingerprint
    elif isinstance(saved, list):
        saved = source_of(tmp_path, chat, saved).fingerprint
    with pytest.raises(InputError, match=message):
        source_of(tmp_path, chat, numbered(20)).check_same(saved)


def test_another_system_message_makes_other_prompts(tmp_path, chat):
    saved = source_of(tmp_path, chat, numbered(20), system="x").fingerprint
    with pytest.raises(InputError, match="had other prompts"):
        source_of(tmp_path, chat, numbered(20)).check_same(saved)


def test_other_draws_of_the_pocket_world_are_noticed(chat):
    saved = open_prompts(settings(seed=1), chat).fingerprint
    with pytest.raises(InputError, match="drew other requests"):
        open_prompts(settings(), chat).check_same(saved)
