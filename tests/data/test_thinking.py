"""Reasoning in replies: the prompt has room for it, or it is left out of them."""

import dataclasses
import json
import shutil

import pytest
from transformers import AutoTokenizer

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.templates import ChatTemplate
from interact_jax.data.thinking import NOTES, THINKING, thinking_of
from interact_jax.data.tree import picture
from interact_jax.schema import Message
from tests.logs import chat as record_of
from tests.logs import write
from tests.tiny import TEMPLATES, tiny_tokenizer

THINKERS = ("think", "reasons", "opens")
SAID = [("It is a sum.", "Four."), ("A digit will do.", "4")]  # reasoning and answer
USERS = ["What is 2 plus 2?", "Only the number", "Good"]
PLAIN = record_of("c", *USERS[:1], "Four.", USERS[1], "4", USERS[2])


def block(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


def record(form: str = "text") -> dict:
    """Two turns with reasoning, in one of the forms that logs have it in."""
    found = record_of("c", USERS[0], "", USERS[1], "", USERS[2])
    for message, (reasoning, answer) in zip(found["messages"][1::2], SAID, strict=True):
        message["content"] = answer
        if form == "text":
            message["content"] = block(reasoning, answer)
        elif form == "loose":  # other white space than models write
            message["content"] = f"\n<think>{reasoning} </think> {answer}"
        elif form == "end alone":  # the prompt had opened the block
            message["content"] = block(reasoning, answer).removeprefix("<think>\n")
        else:
            message[form] = reasoning
    return found


FORMS = ("text", "loose", "end alone", "reasoning_content", "reasoning")


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {name: tiny_tokenizer(tmp_path_factory.mktemp(name), name) for name in TEMPLATES}


def load(tmp_path, chat, *records: dict, recipe: str = "hindsight", **settings):
    path = write(tmp_path, "chats.jsonl", list(records))
    return load_dataset(path, "auto", chat, EncodeSettings(**settings), "tree", recipe=recipe)


def seen(dataset, chat, view: str = "plain") -> list[tuple[str, str]]:
    """Context and reply of every interaction, as text; the token that ends a reply left out."""
    found = []
    for tree in dataset.trees_of(range(len(dataset.trees))):
        for reply in tree.replies:
            context = tree.path(reply, view)[: reply.places[view].start + 1]
            assert reply.target.y[-1] == chat.eos_id
            found.append((chat.decode(context), chat.decode(reply.target.y[:-1])))
    return found


def after_opening(context: str, y: str) -> str:
    """All behind the header of the turn that y belongs to: what the prompt has begun, and y."""
    return (context + y).rpartition("<|im_start|>assistant\n")[2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", THINKERS)
def test_a_reply_with_reasoning_stands_behind_a_prompt_with_room_for_it(
    tmp_path, directories, name, form
):
    """In both views; the block is there once, and whole, whether the prompt opens it or y."""
    chat = ChatFormat.load(directories[name])
    dataset = load(tmp_path, chat, record(form))
    for view in ("plain", "hindsight"):
        found = seen(dataset, chat, view)
        assert [after_opening(*pair) for pair in found] == [block(*pair) for pair in SAID]
        for context, y in found:
            assert not context.rstrip().endswith("</think>")
            assert y.startswith("<think>") == (name != "opens")
    [(line, count)] = dataset.counts.items()
    assert count == 2 and "thinking on" in line


@pytest.mark.parametrize("form", FORMS)
def test_sequences_are_those_of_the_template_with_thinking_on(tmp_path, directories, form):
    chat = ChatFormat.load(directories["reasons"])
    tokenizer = AutoTokenizer.from_pretrained(directories["reasons"])
    messages = record("reasoning_content")["messages"]
    for turn, (context, y) in enumerate(seen(load(tmp_path, chat, record(form)), chat)):
        whole = tokenizer.apply_chat_template(
            messages[: 2 * turn + 2], tokenize=False, enable_thinking=True
        )
        assert context + y + "<|im_end|>\n" == whole
        prompt = tokenizer.apply_chat_template(
            messages[: 2 * turn + 1],
            tokenize=False,
            enable_thinking=True,
            add_generation_prompt=True,
        )
        assert context == prompt


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["strip", "off"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_reasoning_is_left_out(tmp_path, directories, name, mode, form):
    """Of y; with `off` of all that is seen, as if the log had none. A block that the prompt opens
    is closed."""
    chat = ChatFormat.load(directories[name], thinking=mode)
    dataset = load(tmp_path, chat, record(form))
    found = seen(dataset, chat)
    assert [y for _, y in found] == ["Four.", "4"]
    assert found == seen(load(tmp_path, chat, PLAIN), chat) or mode == "strip"
    if name in THINKERS:
        assert all(context.endswith("<think>\n\n</think>\n\n") for context, _ in found)
    [(line, count)] = dataset.counts.items()
    assert count == 2 and "learned without it, as data.thinking says" in line


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_where_a_template_knows_no_reasoning(tmp_path, directories, name, form):
    """`auto` takes the log as if it had none, counted; `keep` learns it as text."""
    chat = ChatFormat.load(directories[name])
    dataset = load(tmp_path, chat, record(form))
    assert seen(dataset, chat) == seen(load(tmp_path, chat, PLAIN), chat)
    assert [n for line, n in dataset.counts.items() if "leaves no room for it" in line] == [2]
    chat = ChatFormat.load(directories[name], thinking="keep")
    ys = [y for _, y in seen(load(tmp_path, chat, record(form)), chat)]
    assert ys == [block(*pair) for pair in SAID]


@pytest.mark.parametrize("mode", ["auto", "keep"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_replies_without_reasoning_are_rendered_as_ever(tmp_path, directories, name, mode):
    chat = ChatFormat.load(directories[name], thinking=mode)
    tokenizer = AutoTokenizer.from_pretrained(directories[name])
    dataset = load(tmp_path, chat, PLAIN)
    for turn, (context, y) in enumerate(seen(dataset, chat)):
        assert context == tokenizer.apply_chat_template(
            PLAIN["messages"][: 2 * turn + 1],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        assert y == PLAIN["messages"][2 * turn + 1]["content"]
    told = [line for line in dataset.lines() if "reasoning" in line]
    assert len(told) == (name == "opens")  # it is no place for an answer, which is said


@pytest.mark.parametrize("name", THINKERS)
def test_each_reply_has_its_own_prompt(tmp_path, directories, name):
    """With reasoning in the first turn alone, and an empty block in the last."""
    talk = record()
    talk["messages"][3]["content"] = "4"
    talk["messages"] += [
        {"role": "assistant", "content": "<think>\n\n</think>\n\nThanks."},
        {"role": "user", "content": "Bye"},
    ]
    chat = ChatFormat.load(directories[name])
    dataset = load(tmp_path, chat, talk)
    expected = [block(*SAID[0]), block("", "4"), block("", "Thanks.")]
    if name == "opens":  # as ever
        expected[1] = "<think>\n4"
    found = seen(dataset, chat)
    assert [after_opening(*pair) for pair in found] == expected
    assert found[2][1] == "Thanks."
    assert any("empty block" in line for line in dataset.lines())


@pytest.mark.parametrize("mode", THINKING)
@pytest.mark.parametrize("text", ["<think>\nHm, was that", "<think>\nHm.\n</think>\n\n"])
def test_a_reply_of_nothing_but_reasoning(tmp_path, directories, mode, text):
    """Learned as what it is, or left out and counted; one that was cut off is not closed."""
    talk = record()
    talk["messages"][1]["content"] = text
    chat = ChatFormat.load(directories["think"], thinking=mode)
    dataset = load(tmp_path, chat, talk)
    ys = [y for _, y in seen(dataset, chat)]
    if mode in ("auto", "keep"):
        assert ys == [text.rstrip(), block(*SAID[1])]
    else:
        assert ys == ["4"]
        assert [n for line, n in dataset.counts.items() if "left out: a reply" in line] == [1]


@pytest.mark.parametrize("which", [1, 3])
def test_a_pair_of_which_one_reply_is_nothing_but_reasoning(tmp_path, directories, which):
    talk = record()
    talk["messages"][which]["content"] = "<think>\nHm.\n</think>\n\n"
    chat = ChatFormat.load(directories["think"], thinking="strip")
    dataset = load(tmp_path, chat, talk, {**record(), "id": "d"}, recipe="pairs")
    assert dataset.interactions == [1]
    assert [n for line, n in dataset.counts.items() if "left out: a reply" in line] == [1]


def sampled(chat, text: str) -> dict:
    """The first reply with what a sampler produced for it."""
    ids = [*chat.encode(text), chat.eos_id]
    talk = record("reasoning_content")
    talk["messages"][1] |= {"token_ids": ids, "logps": [-1.0] * len(ids)}
    return talk


@pytest.mark.parametrize("name", THINKERS)
def test_ids_of_a_sampler_stay_where_they_go_with_the_prompt(tmp_path, directories, name):
    chat = ChatFormat.load(directories[name])
    whole = "<think>\nIt is a\n sum.</think>Four."
    headless = whole.replace("<think>\n", "").replace("</think>", "\n</think>\n")
    fits, other = (headless, whole) if name == "opens" else (whole, headless)
    for text in (fits, other):
        dataset = load(tmp_path, chat, sampled(chat, text))
        target = dataset.trees[0][0].replies[0].target
        assert (chat.decode(target.y[:-1]) == text) == (text == fits)
        assert ("sampler" in target.known) == (text == fits)
        told = [line.strip() for line in dataset.lines() if "token_ids not used" in line]
        assert [line.split()[:2] for line in told] == ([] if text == fits else [["1", "reply"]])
    assert after_opening(*seen(dataset, chat)[0]) == block(*SAID[0])


@pytest.mark.parametrize("mode", THINKING)
def test_ids_of_all_that_was_said_behind_words_alone(tmp_path, directories, mode):
    """The log has the answer, its ids have reasoning too: what counts is what was said."""
    chat = ChatFormat.load(directories["think"], thinking=mode)
    talk = sampled(chat, block(*SAID[0]))
    del talk["messages"][1]["reasoning_content"]
    context, y = seen(load(tmp_path, chat, talk), chat)[0]
    kept = mode in ("auto", "keep")
    assert y == (block(*SAID[0]) if kept else "Four.")
    assert context.endswith("</think>\n\n") != kept


def test_ids_of_the_answer_alone(tmp_path, directories):
    """They stay where it is learned alone."""
    for mode, stays in (("strip", True), ("auto", False)):
        chat = ChatFormat.load(directories["think"], thinking=mode)
        dataset = load(tmp_path, chat, sampled(chat, "Four."))
        assert ("sampler" in dataset.trees[0][0].replies[0].target.known) == stays


SWITCHED = TEMPLATES["reasons"][0].replace(
    "enable_thinking is defined and not enable_thinking",
    "(enable_thinking is defined and not enable_thinking) or '/no_think' in messages[0].content",
)


@pytest.mark.parametrize("mode", ["auto", "keep"])
def test_messages_can_turn_thinking_off(tmp_path, directories, mode):
    """Never behind a closed block, whoever has closed it."""
    chat = ChatFormat.load(directories["reasons"], thinking=mode)
    chat = dataclasses.replace(chat, template=ChatTemplate(SWITCHED, {}, "t.jinja"))
    talk = record()
    dataset = load(tmp_path, chat, {**talk, "id": "a"})
    assert all("<think>" in y for _, y in seen(dataset, chat))
    talk["messages"][0]["content"] += " /no_think"
    dataset = load(tmp_path, chat, talk)
    assert [y for _, y in seen(dataset, chat)] == ["Four.", "4"]
    assert [n for line, n in dataset.counts.items() if "no room" in line] == [2]


def test_tools_are_shown_where_messages_turn_thinking_off(tmp_path, directories):
    lists = (
        "{% for tool in tools or [] %}{{ 'Tool: ' + tool.function.name }}{% endfor %}" + SWITCHED
    )
    directory = shutil.copytree(directories["reasons"], tmp_path / "tokenizer")
    (directory / "chat_template.jinja").write_text(lists)
    chat = ChatFormat.load(directory, thinking="keep")
    talk = {**record(), "tools": [{"type": "function", "function": {"name": "add"}}]}
    talk["messages"][0]["content"] += " /no_think"
    for view in ("plain", "hindsight"):
        for x, y in seen(load(tmp_path, chat, talk), chat, view):
            assert x.startswith("Tool: add") and "<think>" not in y


def test_marks_that_are_special_tokens_are_no_text_of_a_message(tmp_path):
    directory = tiny_tokenizer(tmp_path / "tokenizer", "think")
    file = directory / "tokenizer.json"
    settings = json.loads(file.read_text())
    for token in settings["added_tokens"]:
        token["special"] = True
    file.write_text(json.dumps(settings))
    chat = ChatFormat.load(directory)
    assert chat.special_token_in(block(*SAID[0])) == "<think>"
    assert load(tmp_path, chat, record()).interactions == [2]
    talk = record()
    talk["messages"][1]["content"] += " </think>"  # this one is text
    talk["messages"][0]["content"] += " <think>"
    dataset = load(tmp_path, chat, talk, record_of("z", "a", "b", "c"))
    assert dataset.interactions == [1]


def test_text_that_only_speaks_of_blocks_is_text(tmp_path, directories):
    said = ["Close it with </think>, as in <think>x</think>.", "a\n<think>\nb\n</think>\nc"]
    talk = record_of("c", USERS[0], said[0], USERS[1], said[1], USERS[2])
    chat = ChatFormat.load(directories["think"])
    dataset = load(tmp_path, chat, talk)
    assert [y for _, y in seen(dataset, chat)] == said and not dataset.counts


def test_pictures_of_trees_tell_how_prompts_are_rendered(tmp_path, directories):
    chat = ChatFormat.load(directories["think"])
    talk = record()
    talk["messages"][3]["content"] = "4"
    (tree,) = load(tmp_path, chat, talk).trees[0]
    assert "thinking on: c_1\n" in picture(tree, chat.decode)
    (tree,) = load(tmp_path, chat, PLAIN).trees[0]
    assert not any(note in picture(tree, chat.decode) for note in NOTES.values())


LOOP = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}LINE{{ '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}PROMPT{% endif %}"
)
FIELD = "{% if m.KEY %}{{ 'OPEN' + m.KEY + 'CLOSE' }}{% endif %}{{ m.content }}"
LAST = "{{ m.content.split('</think>')[-1] }}"


def made(line: str, prompt: str = "", **names: str) -> str:
    source = LOOP.replace("LINE", line).replace("PROMPT", prompt)
    for name, text in names.items():
        source = source.replace(name, text)
    return source


TABLE = {  # template: able, what a reply is (R reasoning, A answer) behind a prompt with room
    "knows nothing": (made("{{ m.content }}"), False, "<think>\nR\n</think>\n\nA"),
    "other marks, under another name": (
        made(FIELD, KEY="thinking", OPEN="[|why|]", CLOSE="[/|why|]"),
        True,
        "[|why|]R[/|why|]A",
    ),
    "field, no line breaks, closed when off": (
        made(
            FIELD,
            "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}",
            KEY="reasoning_content",
            OPEN="<think>",
            CLOSE="</think>",
        ),
        True,
        "<think>R</think>A",
    ),
    "opened by another switch, no line break": (
        made(LAST, "{{ '<think>' if thinking else '</think>' }}"),
        True,
        "R</think>A",
    ),
    "opened always": (made(LAST, "{{ '<think>\\n' }}"), True, "R\n</think>\n\nA"),
    "dropped from what was said": (made(LAST), True, "<think>\nR\n</think>\n\nA"),
    "closed always": (made(LAST, "{{ '<think>\\n\\n</think>\\n\\n' }}"), False, None),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_templates_make_of_reasoning_is_found_by_trying(tmp_path, directories, name):
    source, able, written = TABLE[name]
    template = ChatTemplate(source, {}, "t.jinja")
    assert thinking_of(template).supported == able
    chat = ChatFormat.load(directories["think"], thinking="keep")
    chat = dataclasses.replace(chat, template=template, thinking="keep" if written else "auto")
    talk = record()
    talk["messages"] = talk["messages"][:3]
    [(context, y)] = seen(load(tmp_path, chat, talk), chat)
    expected = (written or "A").replace("R", SAID[0][0]).replace("A", SAID[0][1], 1)
    assert y == expected
    prompt = template.render([{"role": "user", "content": USERS[0]}], thinking=bool(written))
    assert context == prompt


def test_hindsight_does_not_turn_thinking_off(directories):
    chat = ChatFormat.load(directories["reasons"])
    said = chat.learned_reply(Message("assistant", block(*SAID[0])))
    asked = [Message("user", USERS[0])]
    plain, told = (chat.render(asked, o, kind=said.prompt) for o in (None, "Shorter"))
    assert plain.endswith("assistant\n") and told.endswith(
        "Shorter<|im_end|>\n<|im_start|>assistant\n"
    )
