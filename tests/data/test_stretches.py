"""Ids joined from stretches are those of sequences that are tokenised whole, for any tokenizer."""

import dataclasses
import json
import pickle
import random
import time
from collections import Counter

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import read_conversations
from interact_jax.data.encode import ENTANGLED, EncodeSettings, encode, prompts_of
from interact_jax.data.fitting import fit
from interact_jax.data.recipes import RECIPES
from interact_jax.data.stretches import Cuts, SpecialTokens, Stretches
from interact_jax.data.tokenise import PORTION, Tokeniser
from interact_jax.data.tree import paths
from interact_jax.pocket import MODEL
from interact_jax.schema import Conversation, InputError, Message
from tests.tiny import TEMPLATES, tiny_tokenizer

WORDS = (
    *("the", "capital", " of", "France?", "sort", "Python", "x=1;", "don't", "3.14", "…", "é", "ß"),
    *(
        "\n",
        "\n\n",
        "  ",
        "\t",
        " \n ",
        "\u00a0",
        "\u200b",
        "```py\n",
        "<think>",
        "</think>",
        "{o}",
    ),
    *(
        "你好",
        "世界。",
        "カタカナ",
        "한국어",
        "مرحبا",
        "שלום",
        "👍🏽",
        "👨‍👩‍👧",
        "🇫🇷",
        "e\u0301",
        "ﬁ",
    ),
)
SETTINGS = EncodeSettings(special_tokens="keep")


def neighbours_swallow_space(directory):
    _change(directory, lambda token: {"rstrip": True, "lstrip": token["content"] == "<|im_end|>"})


def specials_are_normalised(directory):
    _change(directory, lambda token: {"normalized": True})


def every_stretch_is_prefixed(directory):
    file = directory / "tokenizer.json"
    made = json.loads(file.read_text())
    made["normalizer"] = {"type": "Prepend", "prepend": " "}
    file.write_text(json.dumps(made))


def the_first_stretch_is_prefixed(directory):
    file = directory / "tokenizer.json"
    made = json.loads(file.read_text())
    first = {"type": "Metaspace", "replacement": "Ġ", "prepend_scheme": "first", "split": True}
    made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, made["pre_tokenizer"]]}
    file.write_text(json.dumps(made))


def _change(directory, change):
    file = directory / "tokenizer.json"
    made = json.loads(file.read_text())
    for token in made["added_tokens"]:
        token.update(change(token))
    file.write_text(json.dumps(made))


ODD = (
    neighbours_swallow_space,
    specials_are_normalised,
    every_stretch_is_prefixed,
    the_first_stretch_is_prefixed,
)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """{name: a chat format}."""
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {name: tiny_tokenizer(folder / name, name) for name in TEMPLATES}
    for change in ODD:
        made[change.__name__] = tiny_tokenizer(folder / change.__name__)
        change(made[change.__name__])
    made["no special tokens"] = tiny_tokenizer(folder / "plain")
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}Reply:"
    (made["no special tokens"] / "chat_template.jinja").write_text(template)
    made["pocket"] = MODEL
    return {name: ChatFormat.load(directory) for name, directory in made.items()}


@pytest.fixture(scope="module")
def others(shared):
    """{name: a chat format} of tokenizers that are real, or stand beside golden numbers."""
    folders = {name: shared / "oracle" / name / "model" for name in ("qwen3", "llama")}
    folders["phi-3"] = shared / "real/tokenizer/phi-3-mini"
    return {name: ChatFormat.load(folder) for name, folder in folders.items()}


def conversation(rng, chat, name):
    """Of up to five turns, with text of all kinds."""
    specials = [str(token) for token in chat.tokenizer.added_tokens_decoder.values()]

    def text():
        words = rng.choices(WORDS, k=rng.randrange(1, 12))
        if rng.random() < 0.1:
            words.insert(rng.randrange(len(words)), rng.choice(specials))
        return rng.choice(("", " ")).join(words)

    turns = [
        Message(role, text()) for _ in range(rng.randrange(1, 5)) for role in ("user", "assistant")
    ]
    system = [Message("system", text())] if rng.random() < 0.3 else []
    return Conversation(name, (*system, *turns, Message("user", text())))


def sequences(windows):
    """{(example, view): ids of context and reply} of all windows."""
    return {
        (e.target.id, view): [*ids.tolist(), None, *e.target.y.tolist()]
        for window in windows
        for unit in window
        for e in unit
        for view, ids in e.contexts.items()
    }


def check(conversations, chat, settings=SETTINGS):
    """Whether trees of these conversations hold the ids of sequences tokenised whole; what was
    counted."""
    tokeniser = Tokeniser(chat, settings, "tree")
    counted = Counter()
    for c, tokenised in zip(conversations, tokeniser.all(conversations), strict=True):
        counts = Counter()
        whole = sequences(encode(c, chat, settings, counts))
        grown = {
            (name, view): ids.tolist() for t in tokenised.trees for name, view, ids in paths(t)
        }
        expected = {
            key: [token for token in ids if token is not None][:-1] for key, ids in whole.items()
        }
        assert grown == expected, c
        entangled = Counter({ENTANGLED: tokenised.counts[ENTANGLED]})
        assert tokenised.counts - entangled == counts, c
        counted += tokenised.counts
    return counted


def check_generated(chats, count):
    for name, chat in chats.items():
        rng = random.Random(f"stretches {name}")
        for start in range(0, count, 100):
            numbers = range(start, min(count, start + 100))
            counted = check([conversation(rng, chat, f"c{n}") for n in numbers], chat)
            assert not counted[ENTANGLED], name


def test_generated_conversations(chats):
    check_generated(chats, 50)


def test_generated_conversations_and_real_tokenizers(others):
    check_generated(others, 50)


@pytest.mark.slow
def test_two_thousand_generated_conversations(chats, others):
    check_generated(chats | others, 2_000)


REAL = ("oasst_en_100_tree.jsonl", "oasst_realistic_seed_data.json", "sharegpt_format.json")


@pytest.mark.parametrize("file", REAL)
def test_real_conversations(others, shared, file):
    conversations, _ = read_conversations(str(shared / "real/conversations" / file), "auto")
    assert not check(conversations[:40], others["phi-3"])[ENTANGLED]


@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_all_real_conversations(chats, others, shared, file):
    conversations, _ = read_conversations(str(shared / "real/conversations" / file), "auto")
    for name, chat in (chats | others).items():
        fitted = [f for c in conversations if (f := fit(c, chat.abilities, "join", Counter()))]
        assert not check(fitted, chat)[ENTANGLED], name


def test_windows_that_hop_and_those_of_the_papers_code(chats):
    rng = random.Random("windows")
    many = [conversation(rng, chats["think"], f"c{n}") for n in range(60)]
    for changed in ({"max_length": 90, "max_reply": 30}, {"history": "reference"}):
        check(many, chats["think"], dataclasses.replace(SETTINGS, **changed))


class Entangling:
    """A tokenizer for which a text's ids depend on how many special tokens it has."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **options):
        if not isinstance(text, str):
            return {"input_ids": [self(each, **options)["input_ids"] for each in text]}
        ids = self._tokenizer(text, **options)["input_ids"]
        return {"input_ids": [*ids, text.count("<|im_start|>")]}


def test_a_tokenizer_whose_stretches_depend_on_one_another_is_found_out(chats):
    tokenizer = Entangling(chats["chatml"].tokenizer)
    chat = dataclasses.replace(chats["chatml"], tokenizer=tokenizer)
    rng = random.Random("entangled")
    many = [conversation(rng, chats["chatml"], f"c{n}") for n in range(10)]
    assert check(many, chat)[ENTANGLED] == 10


def test_every_stretch_is_tokenised_once(chats):
    asked = []

    class Counting(Entangling):
        def __call__(self, text, **options):
            asked.extend([text] if isinstance(text, str) else text)
            return self._tokenizer(text, **options)

    cuts = Cuts(Stretches(SpecialTokens(Counting(chats["chatml"].tokenizer))))
    turns = [f"turn {n} " * 10 for n in range(50)]
    for n in range(50):
        text = "".join(f"<|im_start|>user\n{turn}<|im_end|>\n" for turn in turns[: n + 1])
        assert cuts.ids(text).tolist() == chats["chatml"].encode(text)
    assert sum(map(len, asked)) < 1.5 * len(text)


def one_begins_as_another(directory):
    """A special token that is the beginning of a longer one."""
    file = directory / "tokenizer.json"
    made = json.loads(file.read_text())
    ids = [token["id"] for token in made["added_tokens"]]
    end = next(token for token in made["added_tokens"] if token["content"] == "<|im_end|>")
    made["added_tokens"].append({**end, "id": max(ids) + 1, "content": "<|im_end|>!!"})
    file.write_text(json.dumps(made))


def test_a_text_that_leaves_the_one_before_anywhere(tmp_path):
    """Also in the middle of a special token, or of a longer one."""
    one_begins_as_another(tiny_tokenizer(tmp_path))
    tokenizer = ChatFormat.load(tmp_path).tokenizer
    whole = "<|im_start|>user\nHi<|im_end|>!!<|im_start|>assistant\nHello <|im_end|>!! ."
    others = ("", "!", "!!", "<|im_end|>", "|im_end|>", "<|im_start|>user\nHi<|im_end|>!")
    prepared, asked = (Cuts(Stretches(SpecialTokens(tokenizer))) for _ in range(2))
    texts = [text for n in range(len(whole)) for o in others for text in (whole, whole[:n] + o)]
    for n in range(len(whole)):
        texts += [f"{n}{whole}", f"{n}{whole[:n]}{'y' * 99}", f"{n}{whole[:n]}{'y' * 98}"]
    assert list(prepared.prepare(texts))
    for text in [*texts, *reversed(texts)]:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        for cuts in (prepared, asked):
            assert cuts.ids(text).tolist() == expected, text


def test_growing_texts_are_cut_where_they_grow(chats, monkeypatch):
    cut, seen = SpecialTokens.cut, []

    def counting(self, text, before=""):
        seen.append(len(text))
        return cut(self, text, before)

    monkeypatch.setattr(SpecialTokens, "cut", counting)
    cuts, text = Cuts(Stretches(SpecialTokens(chats["chatml"].tokenizer))), ""
    for n in range(50):
        text += f"<|im_start|>user\nturn {n}<|im_end|>\n"
        assert cuts.ids(text).tolist() == chats["chatml"].encode(text)
    assert sum(seen) < 2 * len(text)


def test_a_portion_without_prompts_to_render(chats):
    """Conversations too long to be rendered ahead, alone in their portions, before others."""
    rng = random.Random("long")
    settings = dataclasses.replace(SETTINGS, max_length=64)
    long = [Message(role, "word " * 200) for _ in range(3) for role in ("user", "assistant")]
    many = [Conversation("long", (*long, Message("user", "Why?")))]
    chat = chats["chatml"]
    many += [conversation(rng, chat, f"c{n}") for n in range(3)]
    assert not any(prompts_of(many[0], chat, settings, RECIPES["hindsight"]))
    for one in many:
        check([one], chat, settings)


@pytest.mark.parametrize("least", [0, 300])
@pytest.mark.parametrize("name", ["AHEAD", "BATCH"])
def test_what_is_rendered_ahead_and_at_once_changes_nothing(chats, monkeypatch, name, least):
    monkeypatch.setattr(f"interact_jax.data.texts.{name}", least)
    rng = random.Random("batches")
    check([conversation(rng, chats["think"], f"c{n}") for n in range(20)], chats["think"])


def test_conversations_come_while_later_ones_are_bad(chats):
    """Ids that no tokenizer has are an error of their conversation, at its turn."""
    rng = random.Random("bad")
    good = [conversation(rng, chats["chatml"], f"c{n}") for n in range(3)]
    reply = Message("assistant", "Hello", token_ids=(2**40,))
    bad = Conversation("bad", (Message("user", "Hi"), reply, Message("user", "No")))
    found = Tokeniser(chats["chatml"], SETTINGS, "tree").all([*good, bad])
    assert all(next(found).trees for _ in good)
    with pytest.raises(InputError, match=f"^bad: token_ids hold {2**40}"):
        next(found)


def test_who_stops_reading_does_not_wait_for_the_next_portion(chats, monkeypatch):
    monkeypatch.setattr("interact_jax.data.texts.BATCH", 0)
    rng = random.Random("stop")
    chat = chats["chatml"]
    many = [conversation(rng, chat, f"c{n}") for n in range(2 * PORTION)]
    asked = []

    def render_all(self, renderings):
        asked.extend(renderings)
        time.sleep(0.01)
        return [None] * len(renderings)

    monkeypatch.setattr(type(chat.template), "render_all", render_all)
    found = Tokeniser(chat, SETTINGS, "tree").all(many)
    next(found)
    found.close()
    assert len(asked) < sum(len(list(c.interactions())) for c in many) * 2


def test_it_remembers_nothing_in_another_process(chats):
    tokeniser = Tokeniser(chats["chatml"], SETTINGS, "tree")
    rng = random.Random("pickled")
    assert list(tokeniser.all([conversation(rng, chats["chatml"], "c")]))
    copy = pickle.loads(pickle.dumps(tokeniser))
    text = "<|im_start|>user\nHi<|im_end|>"
    assert Cuts(Stretches(copy.special)).ids(text).tolist() == chats["chatml"].encode(text)


def test_texts_of_no_and_of_special_tokens_alone(chats):
    chat = chats["chatml"]
    for text in ("", "Hi", "<|im_end|>", "<|im_end|><|im_start|>", "\n<|im_end|>\n"):
        cuts = Cuts(Stretches(SpecialTokens(chat.tokenizer)))
        assert cuts.ids(text).tolist() == chat.encode(text)
