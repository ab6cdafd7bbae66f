"""Chat formats: rendered text, the hindsight prompt, the ids of a reply."""

import json

import pytest
from tokenizers.processors import TemplateProcessing

from interact_jax.data.chat import HINDSIGHT, ChatFormat
from interact_jax.schema import InputError, Message
from tests.tiny import tiny_tokenizer

USER = Message("user", "What is the capital of France?")
TURNS = [USER, Message("assistant", "Paris."), Message("user", "Thank you. {x}")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml")


def test_the_prompt_ends_where_the_reply_begins(directory):
    chat = ChatFormat.load(directory)
    assert chat.render(TURNS).endswith("Thank you. {x}<|im_end|>\n<|im_start|>assistant\n")
    assert chat.decode(chat.prompt(TURNS)) == chat.render(TURNS)


@pytest.mark.parametrize("name", ["offline", "online"])
def test_hindsight_is_appended_to_the_last_user_message(directory, name):
    chat = ChatFormat.load(directory, name)
    block = HINDSIGHT[name].replace("{o}", "No, {y}!")
    text = chat.render(TURNS, hindsight="  No, {y}!\n")
    assert text == chat.render(TURNS).replace("Thank you. {x}", "Thank you. {x}" + block)


def test_custom_hindsight_leaves_other_braces_alone(directory):
    chat = ChatFormat.load(directory, " {a} saw: {o}")
    assert "{x} {a} saw: hm {b}<|im_end|>" in chat.render(TURNS, hindsight="hm {b}")
    with pytest.raises(InputError, match="offline, online, or a text that holds"):
        ChatFormat.load(directory, "offlin")


def test_one_bos_where_the_template_writes_one(tmp_path):
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, "llama"))
    bos = (chat.tokenizer.bos_token, chat.tokenizer.bos_token_id)
    adds_bos = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    chat.tokenizer.backend_tokenizer.post_processor = adds_bos  # as Llama 3's does by itself
    assert chat.tokenizer("hello")["input_ids"][0] == bos[1]
    ids = chat.prompt([USER])
    assert ids.count(chat.tokenizer.bos_token_id) == 1
    assert ids[0] == chat.tokenizer.bos_token_id


def test_thinking_is_off_where_the_template_knows_it(tmp_path):
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, "think"))
    assert chat.render([USER]).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("reply_tokens", ["in_place", "alone"])
def test_a_reply_is_its_text_and_eos(directory, reply_tokens):
    chat = ChatFormat.load(directory, reply_tokens=reply_tokens)
    text, ids = chat.render([USER]), chat.prompt([USER])
    y = chat.reply(Message("assistant", "The capital is Paris. \n"), text, ids)
    assert y[-1] == chat.eos_id
    assert chat.decode(y[:-1]) == "The capital is Paris."


def test_in_place_ids_are_those_behind_the_prompt(tmp_path):
    """The ids of y are those that prompt and y have together."""
    chat = ChatFormat.load(tiny_tokenizer(tmp_path, "chatml"))
    text, ids = chat.render([USER]), chat.prompt([USER])
    y = Message("assistant", " the answer")
    assert ids + chat.reply(y, text, ids)[:-1].tolist() == chat.encode(text + y.content)


def test_ids_of_a_sampler_are_kept(directory):
    chat = ChatFormat.load(directory)
    y = Message("assistant", "Paris", token_ids=(5, 6, 7))
    assert chat.reply(y, chat.render([USER]), chat.prompt([USER])).tolist() == [5, 6, 7]


def test_pieces_join_to_the_text(directory):
    chat = ChatFormat.load(directory)
    ids = chat.encode("Zürich 🙂 end")
    pieces = chat.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == "Zürich 🙂 end"


def test_special_tokens_in_text_are_found(directory):
    chat = ChatFormat.load(directory)
    assert chat.special_token_in("a <|im_end|> b") == "<|im_end|>"
    assert chat.special_token_in("a <|im_ end|> b") is None


def settings_of(directory, **changes):
    file = directory / "tokenizer_config.json"
    settings = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}
    file.write_text(json.dumps(settings))


def test_a_tokenizer_without_a_template_says_what_to_do(tmp_path):
    tiny_tokenizer(tmp_path, "chatml")
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    settings_of(tmp_path, chat_template=None)
    with pytest.raises(InputError, match=r"no chat template.*chat_template\.jinja"):
        ChatFormat.load(tmp_path)


def test_a_tokenizer_without_eos_says_what_to_do(tmp_path):
    tiny_tokenizer(tmp_path, "chatml")
    settings_of(tmp_path, eos_token=None)
    with pytest.raises(InputError, match=r"no EOS token.*tokenizer_config\.json"):
        ChatFormat.load(tmp_path)


def test_a_directory_without_tokenizer_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"no usable tokenizer.*tokenizer\.json"):
        ChatFormat.load(tmp_path)
