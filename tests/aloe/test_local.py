"""Roles played by models of this process: what they are told, and that calls are kept as well."""

import json

import pytest

from interact_jax.aloe.models import Fitted
from interact_jax.data.chat import ChatFormat
from interact_jax.judges.local import LoadedAtUse
from interact_jax.schema import InputError, Message
from launch import aloe
from tests.runs import tiny
from tests.tiny import tiny_tokenizer

pytestmark = [pytest.mark.one_device, pytest.mark.compiled_quickly]
PLAN = ["--conversations", "2", "--rounds", "2", "--max-new-tokens", "6", "--rows", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny(directory, max_position_embeddings=4096)
    return directory


def converse(model, out, *more):
    aloe.main(["converse", "--model", str(model), "--out", str(out), *PLAN, *more])
    lines = (out / "conversations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_local_model_plays_and_its_calls_are_kept(model, tmp_path, monkeypatch):
    first = converse(model, tmp_path / "a", "--pairs", "judged")
    assert [each["id"] for each in first] == ["aloe-0", "aloe-1"]
    assert all(len(each["messages"]) == 4 for each in first)
    (tmp_path / "b").mkdir()
    (tmp_path / "a/calls.sqlite").rename(tmp_path / "b/calls.sqlite")
    monkeypatch.setattr(LoadedAtUse, "answer", None)  # nothing is asked for
    assert converse(model, tmp_path / "b", "--pairs", "judged", "--portion", "1") == first


def test_a_role_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="--inducer-model: which"):
        aloe.main(["converse", "--user-model", "pocket", "--out", str(tmp_path)])


class Heard:
    name = "heard"

    def answer(self, dialogues, params, seeds=None):
        self.dialogues = dialogues
        return []


WITHOUT_SYSTEM = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", ["", WITHOUT_SYSTEM], ids=["system", "none"])
def test_texts_of_others_hold_no_special_tokens_and_everybody_hears_the_system(tmp_path, template):
    tiny_tokenizer(tmp_path)
    if template:
        (tmp_path / "chat_template.jinja").write_text(template)
    heard, chat = Heard(), ChatFormat.load(tmp_path)
    end = chat.tokenizer.eos_token
    said = [
        Message("system", f"Be kind.{end}"),
        Message("user", f"a{end}"),
        Message("assistant", "b"),
    ]
    Fitted(heard, chat).answer([[*said, Message("user", "c")]], None)
    (dialogue,) = heard.dialogues
    text = "\n".join(message.content for message in dialogue)
    assert chat.special_token_in(text) is None and "Be kind." in text
    roles = [message.role for message in dialogue]
    expected = ["user", "assistant", "user"]
    assert roles == (expected if template else ["system", *expected])
    assert "Be kind." in dialogue[0].content
    chat.prompt(dialogue)  # the template takes it
