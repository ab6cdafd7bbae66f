"""The token that ends a reply is one at which the model is stopped when it is sampled."""

import dataclasses
import json

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.ending import END
from interact_jax.data.templates import ChatTemplate
from interact_jax.models import hf
from interact_jax.opening import open_model
from interact_jax.schema import InputError, Message
from launch import export, train
from tests.runs import FLOAT32, outcome, records, tiny, train_arguments, write_lines
from tests.tiny import EOS, PAD, TEMPLATES, tiny_tokenizer

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

ASKED = [Message("user", "Hi")]
Y = Message("assistant", "Hello.")


def with_eos(directory, token: str):
    """Name another token than that of the template as EOS, as base models have it."""
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": token}))
    return directory


def last_of_reply(chat) -> int:
    return chat.reply(Y, chat.render(ASKED), chat.prompt(ASKED))[-1]


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("name", TEMPLATES)
def test_where_tokenizer_and_template_agree_there_is_nothing_to_choose(tmp_path, name, end):
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, name), end=end, stops=[EOS, PAD])
    assert last_of_reply(chat) == chat.eos_id == chat.tokenizer.eos_token_id == EOS
    assert not chat.describe_end()


@pytest.mark.parametrize(
    ("end", "stops", "expected"),
    [
        ("auto", [EOS, PAD], EOS),  # EOS is the id of the template's token, PAD the tokenizer's
        ("auto", [EOS], EOS),
        ("auto", [PAD], PAD),
        ("auto", [], PAD),
        ("eos", [EOS, PAD], PAD),
        ("turn", [PAD], EOS),
    ],
)
@pytest.mark.parametrize("name", ["chatml", "reasons"])
def test_where_they_do_not_agree(tmp_path, name, end, stops, expected):
    directory = with_eos(tiny_tokenizer(tmp_path, name), "<|endoftext|>")
    chat = ChatFormat.load(directory, end=end, stops=stops)
    assert last_of_reply(chat) == chat.eos_id == expected
    told = chat.describe_end()
    ends, other = ("<|im_end|>", "<|endoftext|>")[:: 1 if expected == EOS else -1]
    assert told.startswith(f"replies end with {ends!r}") and f"not with {other!r}" in told
    assert "\n" not in told


def test_what_follows_the_end_of_a_turn_is_not_it(tmp_path):
    """Phi-3's puts EOS behind a finished conversation, after the token that ends its turn."""
    chat = ChatFormat.load(with_eos(tiny_tokenizer(tmp_path), "<|endoftext|>"), stops=[EOS, PAD])
    source = TEMPLATES["chatml"][0] + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    template = ChatTemplate(source, {"eos_token": "<|endoftext|>"}, "t.jinja")
    assert last_of_reply(dataclasses.replace(chat, template=template)) == EOS


def test_a_template_without_an_end_of_turn(tmp_path):
    directory = tiny_tokenizer(tmp_path)
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(source)
    assert last_of_reply(ChatFormat.load(directory, stops=[EOS])) == EOS
    with pytest.raises(InputError, match=r"data\.end=turn: .* Set data\.end=eos"):
        ChatFormat.load(directory, end="turn")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that is stopped at the template's token, and a tokenizer that names another."""
    directory = tmp_path_factory.mktemp("model")
    tiny(directory)
    return with_eos(directory, "<|endoftext|>")


@pytest.mark.parametrize("stops", [[EOS], [PAD], [EOS, PAD], [7]])
@pytest.mark.parametrize("end", END)
def test_sampling_stops_at_what_is_learned(model, tmp_path, monkeypatch, end, stops):
    monkeypatch.setattr(hf, "eos_token_ids", lambda _: stops)
    opened = open_model(model, attention="xla", end=end)
    assert last_of_reply(opened.chat) in opened.eos_ids
    assert set(opened.eos_ids) >= set(hf.eos_token_ids(model))


@pytest.mark.parametrize(
    ("end", "stop"),
    [
        ("auto", EOS),
        pytest.param("turn", PAD, marks=pytest.mark.slow),
        pytest.param("eos", EOS, marks=pytest.mark.slow),
    ],
)
def test_exports_of_a_run_stop_at_what_it_learned(model, tmp_path, capsys, end, stop):
    """Its own and later ones. The run says in a line what its replies end with."""
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**settings, "eos_token_id": stop}))
    settings = {
        "model.path": model,
        "data.path": write_lines(tmp_path / "talks.jsonl", records()),
        "data.max_length": 512,
        "data.end": end,
        "steps": 1,
        "epochs": 0,
        **FLOAT32,
        "report.interactions": 0,
        "batch.row_tokens": 64,
    }
    status, said = outcome(train.main, train_arguments(tmp_path / "run", settings), capsys)
    assert status == 0 and said.count("replies end with") == 1
    arguments = ["--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "later")]
    assert outcome(export.main, arguments, capsys)[0] == 0
    learned = PAD if end == "eos" else EOS
    for exported in (tmp_path / "run/export", tmp_path / "later"):
        assert {learned, stop} <= set(hf.eos_token_ids(exported))
        assert learned in open_model(exported, weights=False, attention="xla").eos_ids
