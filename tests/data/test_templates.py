"""Chat templates are rendered as transformers does, and none hangs or fills the memory."""

from __future__ import annotations

import pickle

import pytest
from transformers import AutoTokenizer

from interact_jax.data import templates
from interact_jax.data.chat import ChatFormat
from interact_jax.data.templates import ChatTemplate, Refusal, Rendering
from interact_jax.schema import InputError, Message
from tests.clock import another_clock
from tests.tiny import TEMPLATES, tiny_tokenizer

SYSTEM = Message("system", "Be <brief> & kind.")
USER = Message("user", "  What is it,\n\nGrüße 🙂?\t")
REPLY = Message("assistant", "<think>\nhm\n</think>\n\nParis.")
TALKS = [[USER], [USER, REPLY, USER], [SYSTEM, USER, REPLY, USER]]
SHOWN = "{{ add_generation_prompt }}{{ enable_thinking }}{{ tools }}{{ eos_token }}{{ nothing }}"
# A part of the language each; m is a message.
PARTS = {
    "sums": (
        "{{ '<' + m.role + '>' + m['content'] + '\\n' + m.role + m.role + m.role + m.role + '.' }}"
    ),
    "numbers": (
        "{{ loop.index0 % 2 }} {{ 7 * 3 - 2 ** 3 }} {{ 7 // 2 }} {{ 1 / 3 }} {{ -loop.index }}"
    ),
    "lists": (
        "{{ [1, 'a'] + [m.role] }} {{ [0] * 3 }} {{ (1, 2)[0] }} {{ [1, 2, 3][1:] }} {{ {'a': 1} }}"
    ),
    "text": (
        "{{ m.content[:3] }}{{ m.content[-1] }}{{ m.content[::-1] }}{{ m.role ~ 1 ~ none ~ m }}"
    ),
    "methods": (
        "{{ m.content.strip().split('\\n') }} {{ m.content.replace('i', 'II') }} "
        "{{ m.role.upper() }}{{ m.content.startswith(' ') }} {{ '-'.join(['a', 'b']) }} "
        "{{ m.content.rsplit('</think>') }}{{ m.get('name', 'no') }} "
        "{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}"
        "{{ '{} {:>5}'.format(m.role, 1) }} {{ '%s is %05.1f' % (m.role, 2) }} "
        "{{ m.content.find('a') }}"
    ),
    "filters": (
        "{{ m.content | trim }} {{ m | tojson }} {{ m | tojson(indent=2) }} "
        "{{ m.content | length }}{{ m.role | upper }} {{ m.role | capitalize }} "
        "{{ m.content | replace('a', 'b') }}{{ [3, 1, 2] | sort | join(', ') }} "
        "{{ [1, 1] | unique | list }} {{ m | dictsort }}"
        "{{ messages | map(attribute='role') | list }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ m.content | indent(2) }} {{ [1, 2] | sum }} {{ 1.25 | round(1) }}"
        "{{ nothing | default('d') }} {{ m.content | escape }} {{ m.content | safe }} "
        "{{ '5' | int }}{{ [1, 2, 3] | batch(2) | list }} {{ [1, 2] | first }} "
        "{{ [1, 2] | last }} {{ m.items() | list }}{{ messages | groupby('role') }} "
        "{{ m.content | title }} {{ 'x' | center(5) }} {{ [1, 2] | max }}"
        "{{ m.role | string }} {{ '%s!' | format(m.role) }} {{ [1, 2] | reverse | list }} "
        "{{ m.content | e }}{% filter upper %}{{ m.role }}{% endfilter %} "
        "{{ m.content | trim('?\\t ') }}"
    ),
    "tests": (
        "{{ m.content is string }}{{ m is mapping }}{{ nothing is defined }}"
        "{{ none is none }}{{ 3 is odd }}{{ m.role is eq('user') }}"
        "{{ m.role in ['user', 'system'] }}{{ 'a' in m.content }}{{ 1 in [1] }}"
        "{{ m.role not in m }}{{ 'role' in m }}{{ m == messages[0] }}{{ 1 < 2 < 3 }}"
        "{{ m.role is in(['user']) }}{{ m.content is sequence }}{{ m is iterable }}"
        "{{ true is true }}{{ 4 is divisibleby(2) }}"
        "{{ messages | map(attribute='role') is iterable }}"
        "{{ 'yes' if messages | select else 'no' }}"
    ),
    "loops": (
        "{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
        "{{ loop.cycle('a', 'b') }}{% if loop.previtem %}{{ loop.previtem.role }}{% endif %}"
        "{% for i in range(5) if i is odd %}{{ i }}{% else %}none{% endfor %}"
        "{% for i in range(9) %}{% if i == 3 %}{% continue %}{% elif i == 6 %}{% break %}"
        "{% endif %}{{ i }}{% endfor %}{% for i in [[1, [2]]] recursive %}{{ loop.depth }}"
        "{% if i is iterable %}{{ loop(i) }}{% endif %}{% endfor %}"
    ),
    "macros": (
        "{% macro f(x, y=[]) %}{{ x }}{{ y }}{% endmacro %}{{ f(m.role) }}"
        "{{ f(m.role, y=1) }}{% macro g() %}<{{ caller(1) }}>{% endmacro %}{% call(x) g() %}"
        "{{ x }}{{ m.role }}{% endcall %}"
    ),
    "sets": (
        "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{% set t %}"
        "{{ m.role }}{% endset %}{{ t }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% with c = 3 %}"
        "{{ c }}{% endwith %}{{ dict(a=1) }}"
    ),
    "generation": (
        "{% generation %}{{ m.content }}{% set inner = 1 %}{% endgeneration %}{{ inner }}"
    ),
    "white space": (
        "  {%- if m.role == 'user' %}\n    user\n  {% endif -%}  \n {# no #}\n"
        "{% raw %}{{ }}{% endraw %}"
    ),
}


def loop(part: str) -> str:
    return "{% for m in messages %}" + part + "\n{% endfor %}" + SHOWN


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("templates"))


@pytest.mark.parametrize("talk", TALKS, ids=len)
@pytest.mark.parametrize("name", [*PARTS, *TEMPLATES])
def test_templates_are_rendered_as_transformers_renders_them(directory, name, talk):
    source = loop(PARTS[name]) if name in PARTS else TEMPLATES[name][0]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.bos_token = "<s>"
    template = ChatTemplate(source, tokenizer.special_tokens_map, "chat_template.jinja")
    messages = [{"role": m.role, "content": m.content} for m in talk]
    assert template.render(messages) == tokenizer.apply_chat_template(
        messages,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )


LONG = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
LATER = "{% if messages[0].content == 'now' %}" + LONG + "{% endif %}ok"


def test_what_waits_for_a_message_is_ended_then():
    """A trial sees only its own messages. What comes after is rendered as before."""
    template = ChatTemplate(LATER, {}, "chat_template.jinja")
    with pytest.raises(InputError, match="refuses these messages: it takes more than 2 seconds"):
        template.render([{"role": "user", "content": "now"}])
    assert template.render([{"role": "user", "content": "later"}]) == "ok"


def test_a_process_that_has_died_is_started_anew():
    template = ChatTemplate("{{ messages[0].content }}", {}, "chat_template.jinja")
    template._process._running.kill()
    template._process._running.wait()
    assert template.render([{"role": "user", "content": "Hi\n"}]) == "Hi\n"


def test_a_process_that_is_ended_in_the_middle_of_a_word(monkeypatch):
    cut_off = (*templates.COMMAND[:3], """print('{}\\n{"text": "He', end="")""")
    monkeypatch.setattr(templates, "COMMAND", cut_off)
    with pytest.raises(InputError, match="cannot be used: it takes more than 2 seconds"):
        ChatTemplate("of a process that is cut off", {}, "chat_template.jinja")


GROWING = (
    "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{{ thinking }}{{ tools | length if tools }}"
)
LAST_FIRST = "{% for m in messages | reverse %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NOTHING_BUT_THE_LAST = "{{ messages[-1].content }}"


def many_renderings():
    """Prompts of a conversation, each with and without another end; one that is refused."""
    rows = [
        {"role": ("user", "assistant")[n % 2], "content": text}
        for n, text in enumerate(
            ["Hi 🙂", "error", "\u2028\r\n", "text", "keep", "x" * 99, "Hi 🙂"]
        )
    ]
    refused = {"role": "user", "content": "no"}
    found = []
    for n in range(1, len(rows) + 1, 2):
        other = {**rows[n - 1], "content": rows[n - 1]["content"] + " in hindsight"}
        found += [rows[:n], [*rows[: n - 1], other], [*rows[: n - 1], refused], rows[:n], rows[:1]]
    return [
        Rendering(x, [{"a": 1}] * (n % 3 == 2), thinking=n % 4 == 1) for n, x in enumerate(found)
    ]


@pytest.mark.parametrize("line", [1, 3, 99])
@pytest.mark.parametrize("source", [GROWING, LAST_FIRST, NOTHING_BUT_THE_LAST])
def test_many_at_once_are_what_each_is_by_itself(monkeypatch, source, line):
    monkeypatch.setattr(templates, "LINE", line)
    template = ChatTemplate(source, {}, "chat_template.jinja")

    def alone(x):
        try:
            return template.render(x.rows, x.tools, thinking=x.thinking)
        except InputError as error:
            return str(error)

    many = many_renderings()
    found = template.render_all(many)
    assert [str(text) for text in found] == [alone(x) for x in many]
    assert any(isinstance(text, Refusal) for text in found) == (source is GROWING)


def test_what_is_asked_and_answered_is_linear_in_a_conversation(monkeypatch):
    template = ChatTemplate(GROWING, {}, "chat_template.jinja")
    asked, answered, ask_all = [], [], type(template._process).ask_all

    def counting(self, lines, count):
        answers = ask_all(self, lines, count)
        asked.extend(lines)
        answered.extend(text for _, text in answers)
        return answers

    monkeypatch.setattr(type(template._process), "ask_all", counting)
    rows = [{"role": ("user", "assistant")[n % 2], "content": "x" * 1000} for n in range(101)]
    texts = template.render_all([Rendering(rows[: n + 1]) for n in range(0, 101, 2)])
    assert [len(text) for text in texts[:2]] == [1006, 3023]
    for sizes in (map(len, asked), map(len, answered)):
        assert sum(sizes) < 1.2 * 101 * 1000


def test_those_behind_one_that_takes_too_long_are_left_to_be_asked_again():
    """A process that is killed gives no wrong answers, and those before are right."""
    template = ChatTemplate(LATER, {}, "chat_template.jinja")
    rows = [[{"role": "user", "content": text}] for text in ("a", "b", "now", "c")]
    found = template.render_all([Rendering(x) for x in rows])
    assert set(found[:2]) <= {"ok", None} and found[2:] == [None, None]
    assert template.render_all([Rendering(rows[3])]) == ["ok"]


def test_half_a_character_is_refused():
    """No tokenizer takes it."""
    source = "{% if messages[0].content == 'now' %}{{ '\\ud83d' }}{% endif %}ok"
    template = ChatTemplate(source, {}, "chat_template.jinja")
    with pytest.raises(InputError, match="refuses these messages: UnicodeEncodeError"):
        template.render([{"role": "user", "content": "now"}])
    assert template.render([{"role": "user", "content": "later"}]) == "ok"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(__init__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
    ],
)
def test_python_itself_is_out_of_reach(source):
    with pytest.raises(InputError, match="cannot be used: line 1"):
        ChatTemplate(source, {}, "chat_template.jinja")


@pytest.mark.parametrize(
    "size, why", [(10**10, "line 2: MemoryError"), (10**8, "it makes 100,000,000 characters")]
)
def test_a_text_that_is_far_too_long_is_refused(directory, size, why):
    source = (
        "{% for m in messages %}\n{{ 'x' * ("
        + str(size)
        + " if m.content == 'now' else 1) }}{% endfor %}"
    )
    (directory / "chat_template.jinja").write_text(source)
    chat = ChatFormat.load(directory)
    chat.render([USER])
    with pytest.raises(InputError, match=f"refuses these messages: {why}"):
        chat.render([Message("user", "now")])


def test_long_conversations_are_rendered(directory):
    """What is allowed grows with the messages: 2,000 of them, one a million characters long."""
    for source, _, _ in TEMPLATES.values():
        template = ChatTemplate(source, {"bos_token": "<s>"}, "chat_template.jinja")
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": "x" * 99} for i in range(2001)
        ]
        messages[7]["content"] = "word " * 200_000
        text = template.render(messages)
        assert all(message["content"].strip() in text for message in messages)


def test_a_template_that_declines_some_messages_is_used_for_others():
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}ok"
    template = ChatTemplate(source, {}, "chat_template.jinja")
    assert template.render([{"role": "user", "content": "Hi"}]) == "ok"
    with pytest.raises(InputError, match=r"line 1: no system \(chat_template.jinja\)"):
        template.render([{"role": "system", "content": "Hi"}])


def test_a_template_that_declines_all_messages_is_refused():
    with pytest.raises(InputError, match=r"cannot be used: line 1: never"):
        ChatTemplate("{{ raise_exception('never') }}", {}, "chat_template.jinja")


DATED = "{{ strftime_now('%d %B %Y, %A, %H:%M') }}"


def test_the_day_is_the_one_that_was_set(monkeypatch, tmp_path):
    """Whatever the clock says, here and in the process of the template."""
    rows = [{"role": "user", "content": "Hi"}]
    by_default = ChatTemplate(DATED, {}, "t.jinja").render(rows)
    assert by_default == "01 January 2026, Thursday, 00:00"
    with another_clock(monkeypatch, tmp_path):
        assert ChatTemplate(DATED, {}, "t.jinja").render(rows) == by_default
        set_by_hand = ChatTemplate(DATED, {}, "t.jinja", "2031-02-03")
        assert set_by_hand.render(rows) == "03 February 2031, Monday, 00:00"
        assert pickle.loads(pickle.dumps(set_by_hand)).render(rows) == set_by_hand.render(rows)


@pytest.mark.parametrize("date", ["2026-13-01", "tomorrow", "20260101", "2026-W01-1", ""])
def test_a_day_that_there_is_not(directory, date):
    with pytest.raises(InputError, match=r"data\.date=.*: expected a day as YYYY-MM-DD"):
        ChatFormat.load(directory, date=date)


def test_a_template_goes_to_another_process(directory):
    template = ChatTemplate(TEMPLATES["think"][0], {}, "chat_template.jinja")
    messages = [{"role": "user", "content": "Hi"}]
    assert pickle.loads(pickle.dumps(template)).render(messages) == template.render(messages)
