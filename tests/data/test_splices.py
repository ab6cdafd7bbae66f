"""Ids put together of known ones are those of the text, where byte pairs alone make them."""

import dataclasses
import json
import random

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import ENTANGLED
from interact_jax.data.splices import splicer
from interact_jax.data.stretches import Stretches
from interact_jax.schema import Conversation, Message
from tests.data.test_stretches import WORDS, check, conversation
from tests.tiny import TEMPLATES, tiny_tokenizer

MARKED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
INSTRUCTED = (  # what begins and ends a turn is text
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
SPACE = "\u2581"
KINDS = {
    "prepends": (MARKED, normalizers.Prepend(SPACE), None),
    "first": (MARKED, None, "first"),
    "swallows": (MARKED, None, "never"),
    "instructed": (INSTRUCTED, normalizers.Prepend(SPACE), None),
}
BLOCKS = ("offline", "\n\nThen the user said:{o}", " Pyth{o} of", "\n{o}{o}", "{o}")


def write(directory, kind, byte_fallback=True):
    """A tokenizer of about 600 tokens, whose tokens go on from word to word."""
    template, prepends, scheme = KINDS[kind]
    directory.mkdir()
    rng = random.Random("text")
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    replaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([*filter(None, [prepends]), replaces])
    if scheme:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    texts = ["".join(rng.choices(WORDS[:15], k=12)) for _ in range(300)]
    texts += ["Then the user said: sort Python said:the"]
    trained = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trained)
    state = json.loads(tokenizer.to_str())
    swallows = kind == "swallows"
    state["added_tokens"] = [
        {**token, "rstrip": swallows and token["content"] not in ("<s>", "<unk>")}
        for token in state["added_tokens"]
        if token["content"] in SPECIAL
    ]
    (directory / "tokenizer.json").write_text(json.dumps(state))
    made = Tokenizer.from_file(str(directory / "tokenizer.json"))
    made.add_tokens([AddedToken("</think>", normalized=False, lstrip=True)])
    made.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    config |= {"bos_token": "<s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """{kind: a chat format}."""
    folder = tmp_path_factory.mktemp("bpe")
    return {kind: ChatFormat.load(write(folder / kind, kind)) for kind in KINDS}


@pytest.fixture
def spliced(monkeypatch):
    """Whether each splice that is tried came about."""
    found, real = [], Stretches._spliced

    def counting(self, splice):
        ids = real(self, splice)
        found.append(ids is not None)
        return ids

    monkeypatch.setattr(Stretches, "_spliced", counting)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_generated_conversations(chats, spliced, kind, block):
    chat = chats[kind]
    if block != "offline":
        chat = dataclasses.replace(chat, hindsight=block)
    rng = random.Random(f"{kind} {block}")
    assert not check([conversation(rng, chat, f"c{n}") for n in range(60)], chat)[ENTANGLED]
    if block == "{o}":
        assert not spliced  # nothing tells where it is
    else:
        assert sum(spliced) > 5


def test_real_tokenizer(shared, spliced):
    chat = ChatFormat.load(shared / "real/tokenizer/phi-3-mini")
    rng = random.Random("phi")
    assert not check([conversation(rng, chat, f"c{n}") for n in range(60)], chat)[ENTANGLED]
    assert sum(spliced) > 0.5 * len(spliced) > 30


def edited(directory, change):
    """The tokenizer of a directory, changed."""
    file = directory / "tokenizer.json"
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))
    return ChatFormat.load(directory).tokenizer


CHANGES = {
    "dropout": lambda state: state["model"].update(dropout=0.1),
    "ignore_merges": lambda state: state["model"].update(ignore_merges=True),
    "nfc": lambda state: state.update(normalizer={"type": "NFC"}),
    "words": lambda state: state.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "splits": lambda state: state["pre_tokenizer"].update(split=True),
    "normalized": lambda state: state["added_tokens"][3].update(normalized=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_tokenizers_are_left_alone(tmp_path, change):
    assert splicer(edited(write(tmp_path / "a", "first"), lambda state: None))
    assert splicer(edited(write(tmp_path / "b", "first"), CHANGES[change])) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokenizers_of_words_are_left_alone(tmp_path, name):
    assert splicer(ChatFormat.load(tiny_tokenizer(tmp_path, name)).tokenizer) is None


def test_a_reply_that_begins_as_the_block_does(chats):
    """Then a text that is no prompt has a splice as well."""
    chat = dataclasses.replace(chats["instructed"], hindsight="\nThen:{o}")
    turns = ("Sort the", "\nThen:France?", "the capital", "Hm")
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(turns)]
    one = Conversation("c", (*messages[:2], Message("user", "thanks " * 9)))
    assert not check([one, Conversation("d", (*messages, messages[0]))], chat)[ENTANGLED]
