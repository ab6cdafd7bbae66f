"""What strangers may put into a model's directory: templates that hang or fill the memory, files
with wrong types and sizes."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

BIG = "{% set big = ('a' * 999) * 900 %}"
MANY = "{% for i in range(99999) %}"
END = "{% endfor %}"


def often(body: str, loops: int = 2) -> str:
    """A body in loops that run 99,999 times each."""
    return MANY * loops + body + END * loops


def doubled(again: str, first: str = "'x'") -> str:
    """A value `ns.a` that is made of itself, 64 times over."""
    return (
        f"{{% set ns = namespace(a={first}, b={first}) %}}{{% for i in range(64) %}}"
        f"{again}{{% endfor %}}"
    )


LISTS = "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}"
TUPLES = "{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}"

# Small enough to be tried by everybody: one of each sort.
SHORT = {
    "a range": "{{ range(10**9) | list }}",
    "a power of constants": "{{ 9 ** (9 ** 9) }}",
    "a text times a number": "{{ 'x' * 10**10 }}",
    "endless macros": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a tree of macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a text that doubles": doubled("{% set ns.a = ns.a + ns.a %}"),
    "padding": "{{ 'x' | center(10**9) }}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "an error": "{{ 1 / 0 }}",
}
LONG = {
    "a power": "{% set x = 9 %}{{ x ** (x ** x) }}",
    "loops in loops": often(""),
    "lists in lists, shown": doubled(LISTS) + "{{ ns.a }}",
    "a format": "{{ '%1000000000d' % 1 }}",
    "numbers that square": doubled("{% set ns.a = ns.a ** 2 %}", "3"),
    "numbers that multiply": doubled("{% set ns.a = ns.a * ns.a %}", "3") + "{{ ns.a }}",
    "numbers that add": "{% set ns = namespace(a=3) %}" + often("{% set ns.a = ns.a + ns.a %}"),
    "numbers that subtract": (
        "{% set ns = namespace(a=3) %}" + often("{% set ns.a = ns.a - (0 - ns.a) %}")
    ),
    "a number times a text": "{{ 10**10 * 'x' }}",
    "a list times a number": "{{ ([0] * 10**9) | length }}",
    "a tuple times a number": "{{ ((0,) * 10**9) | length }}",
    "markup times a number": "{{ ('x' | safe) * 10**10 }}",
    "three loops": often("{{ i }}", 3),
    "a loop over nothing": often("{% for k in range(99999) if false %}{% endfor %}", 1),
    "a loop over texts": BIG + "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
    "a loop that breaks": often("{% if i == 99998 %}{% break %}{% endif %}"),
    "a recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a wide recursive loop": (
        "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
        "{% endfor %}"
    ),
    "two macros": (
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}"
    ),
    "callers": (
        "{% macro f(n) %}{% if n %}{% call f(n - 1) %}{{ caller() }}{{ caller() }}{% endcall %}"
        "{% else %}{{ caller() }}{% endif %}{% endmacro %}{% call f(40) %}x{% endcall %}"
    ),
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a block, often": "{% block a %}{% endblock %}" + often("{{ self.a() }}"),
    "a text that doubles by ~": doubled("{% set ns.a = ns.a ~ ns.a %}"),
    "a text that doubles by set": doubled(
        "{% set t %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = t %}"
    ),
    "a text that doubles by a macro": (
        "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}" + doubled("{% set ns.a = d(ns.a) %}")
    ),
    "a text that doubles by join": doubled("{% set ns.a = [ns.a, ns.a] | join %}"),
    "a text that grows by its join": doubled("{% set ns.a = ns.a.join([ns.a, ns.a]) %}"),
    "a text that doubles by replace": doubled("{% set ns.a = ns.a.replace('x', 'xx') %}"),
    "a text that squares": doubled("{% set ns.a = ns.a | replace('x', ns.a) %}", "'xx'"),
    "a text that doubles by format": doubled("{% set ns.a = '{0}{0}'.format(ns.a) %}"),
    "a text that doubles by %": doubled("{% set ns.a = '%s%s' % (ns.a, ns.a) %}"),
    "a text that doubles by tojson": doubled("{% set ns.a = ns.a | tojson %}", r"'\\'"),
    "a list that doubles": doubled("{% set ns.a = ns.a + ns.a %}", "[1]") + "{{ ns.a | length }}",
    "lists in lists as JSON": doubled(LISTS) + "{{ ns.a | tojson }}",
    "lists in lists, compared": doubled(LISTS) + "{{ ns.a == ns.b }}",
    "lists in lists, ordered": doubled(LISTS) + "{% if ns.a < ns.b < ns.a %}{% endif %}",
    "lists in lists, by a test": doubled(LISTS) + "{{ ns.a is eq(ns.b) }}",
    "lists in lists, sought": doubled(LISTS) + "{{ ns.a in [ns.b] }}",
    "lists in lists, sought by a test": doubled(LISTS) + "{{ ns.a is in([ns.b]) }}",
    "lists in lists, sorted": doubled(LISTS) + "{{ [ns.a, ns.b] | sort | length }}",
    "lists in lists, the larger": doubled(LISTS) + "{{ [ns.a, ns.b] | max | length }}",
    "lists in lists, their index": doubled(LISTS) + "{{ [ns.a].index(ns.b) }}",
    "lists in lists, raised": doubled(LISTS) + "{{ raise_exception(ns.a) }}",
    "lists in lists, changed": (
        doubled(LISTS)
        + "{% for i in [1, 2, 3] %}{{ loop.changed(ns.a if i % 2 else ns.b) }}{% endfor %}"
    ),
    "tuples in tuples as a key": doubled(TUPLES) + "{{ {ns.a: 1} }}",
    "tuples in tuples, looked up": doubled(TUPLES) + "{{ {'a': 1}[ns.a] }}",
    "tuples in tuples, got": doubled(TUPLES) + "{{ {'a': 1}.get(ns.a) }}",
    "tuples in tuples, unique": doubled(TUPLES) + "{{ [ns.a] | unique | list }}",
    "tuples in tuples in a dict": doubled(TUPLES) + "{{ dict([(ns.a, 1)]) }}",
    "tuples in tuples as text": doubled(TUPLES) + "{{ ns.a | string | length }}",
    "tuples in tuples by ~": doubled(TUPLES) + "{{ (ns.a ~ '') | length }}",
    "tuples in tuples by format": doubled(TUPLES) + "{{ '{}'.format(ns.a) | length }}",
    "tuples in tuples by %": doubled(TUPLES) + "{{ ('%s' % [ns.a]) | length }}",
    "tuples in tuples, upper": doubled(TUPLES) + "{{ ns.a | upper | length }}",
    "tuples in tuples, lower?": doubled(TUPLES) + "{{ ns.a is lower }}",
    "tuples in tuples, trimmed": doubled(TUPLES) + "{{ ns.a | trim | length }}",
    "tuples in tuples, mapped": doubled(TUPLES) + "{{ [ns.a] | map('string') | join }}",
    "objects in objects": (
        doubled("{% set ns.a = {'a': ns.a, 'b': ns.a.items()} %}", "{'a': 1}") + "{{ ns.a }}"
    ),
    "a key a thousand deep": (
        "{% set ns = namespace(a=('x',)) %}"
        + often("{% set ns.a = (ns.a,) %}", 1)
        + "{{ {ns.a: 1} }}"
    ),
    "a list a thousand deep": (
        "{% set ns = namespace(a=['x']) %}" + often("{% set ns.a = [ns.a] %}", 1) + "{{ ns.a }}"
    ),
    "filters a thousand deep": (
        "{% set ns = namespace(a=['x']) %}"
        + often("{% set ns.a = ns.a | map('upper') %}", 1)
        + "{{ ns.a | list }}"
    ),
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": r"{{ '\t'.expandtabs(10**9) }}",
    "indent": r"{{ 'x\ny' | indent(10**9) }}",
    "indent by a text": r"{{ ('x\n' * 9999) | indent('y' * 9999) }}",
    "a format with a star": "{{ '%*d' % (10**9, 1) }}",
    "a format with a key": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "the filter format": "{{ '%1000000000d' | format(1) }}",
    "a format asked whether it is odd": "{{ '%10000000000d' is odd }}",
    "a format that is divided": "{{ '%10000000000d' is divisibleby(3) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format in format": "{{ '{:{}}'.format(1, 10**9) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format by attr": "{{ ('{:1000000000}' | attr('format'))(1) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "round": "{{ 1.5 | round(10**9, 'ceil') }}",
    "indented JSON": "{{ [[[1]]] | tojson(indent=10**9) }}",
    "JSON with separators": "{{ ([1] * 99999) | tojson(separators=('x' * 99999, ':')) | length }}",
    "a sum of lists": "{{ ([[1] * 9] * 99999) | sum(start=[]) | length }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "digits": "{{ ('f' * 99999) | int(0, 16) }}",
    "lorem ipsum": "{{ lipsum(10**9) }}",
    "strip": BIG + "{{ big.strip('b' * 500000 + 'a') }}",
    "rfind, often": BIG + often("{% set x = big.rfind('a' * 98 + 'b') %}"),
    "find, often": BIG + often("{% set x = big.find('b' + 'a' * 98) %}"),
    "in, often": BIG + "{% set n = 'a' * 98 + 'b' %}" + often("{% if n in big %}{% endif %}"),
    "in a constant, often": (
        "{% set n = 'a' * 98 + 'b' %}" + often("{% if n in '" + "a" * 80000 + "' %}{% endif %}")
    ),
    "in a range, often": often("{% if 'x' in range(99999) %}{% endif %}"),
    "equal texts, often": (
        BIG + "{% set other = big ~ '' %}" + often("{% if big == other %}{% endif %}")
    ),
    "parts, often": BIG + often("{% set x = big[1:] %}"),
    "parts that are kept": (
        BIG
        + "{% set ns = namespace(a=0) %}"
        + often("{% set ns.a = namespace(p=ns.a, s=big[1:]) %}")
    ),
    "pieces that are kept": (
        BIG
        + "{% set ns = namespace(a=0) %}"
        + often("{% set ns.a = namespace(p=ns.a, s=big.split('a')) %}")
    ),
    "sort, often": "{% set l = range(99999) | list %}" + often("{% set x = l | sort %}"),
    "groupby, often": (
        "{% set l = range(99999) | list %}" + often("{% set x = l | groupby('real') %}")
    ),
    "map, often": often("{% set x = range(99999) | map('string') %}"),
    "select, often": often("{% set x = range(99999) | select('odd') %}"),
    "title, often": "{% set t = 'a ' * 400000 %}" + often("{% set x = t | title %}"),
    "much text": often("y" * 5000),
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['jinja2'] }}",
    "a template from elsewhere": "{% include '/etc/passwd' %}",
    "lists in the source": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "loops in the source": "{% for i in [] %}" * 30 + END * 30,
    "nots in the source": "{{ " + "not " * 5000 + "1 }}",
    "a long source": "x" * 1_100_000,
    "digits in the source": "{{ " + "9" * 5000 + " }}",
    "text at every term": BIG + "{{ (big" + " + big" * 5000 + ") | length }}",
    "no Jinja": "{% for %}",
    "an undefined name": "{{ nowhere.x }}",
    "a wrong type": "{{ 'x' + 1 }}",
}
TEMPLATES = {**SHORT, **LONG}


# ---------------------------------------------------------------------------------------- files

DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# what is wrong in it, as changes of its keys or as the whole content -> words of the message
CONFIG: list[tuple[Any, str]] = [
    ({"model_type": ["qwen3"]}, r"model_type \['qwen3'\] is not supported"),
    ({"model_type": None}, "model_type None is not supported"),
    ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "needs code of its own"),
    (
        {"num_hidden_layers": 10**9},
        "num_hidden_layers=1000000000; expected a positive whole number",
    ),
    ({"num_hidden_layers": "2"}, "num_hidden_layers='2'"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True"),
    ({"num_hidden_layers": 2.0}, r"num_hidden_layers=2\.0"),
    ({"num_hidden_layers": -2}, "num_hidden_layers=-2"),
    ({"num_hidden_layers": None}, "num_hidden_layers=None"),
    ({"hidden_size": 0}, "hidden_size=0"),
    ({"hidden_size": 10**30}, "hidden_size=1000"),
    ({"hidden_size": [32]}, r"hidden_size=\[32\]"),
    (
        {"hidden_size": 34, "head_dim": None, "num_attention_heads": 4},
        "not a multiple of num_attention",
    ),
    ({"head_dim": 15}, "heads of 15 numbers"),
    ({"head_dim": 10**6}, "head_dim=1000000"),
    ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads=3"),
    ({"intermediate_size": 10**12}, "intermediate_size=1000000000000"),
    ({"vocab_size": 10**10}, "vocab_size=10000000000"),
    (
        {
            "layer_types": None,
            "vocab_size": 1 << 22,
            "hidden_size": 1 << 17,
            "num_hidden_layers": 1000,
            "intermediate_size": 1 << 20,
        },
        "parameters by its sizes",
    ),
    ({"max_position_embeddings": "many"}, "max_position_embeddings='many'"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'; expected true or false"),
    ({"attention_bias": 1}, "attention_bias=1"),
    ({"rms_norm_eps": None}, "rms_norm_eps=None"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6'"),
    ({"initializer_range": -1}, "initializer_range=-1"),
    ({"rope_theta": None}, "rope_theta=None"),
    ({"rope_parameters": None, "rope_theta": "1e4"}, "rope_theta='1e4'"),
    ({"rope_parameters": {"rope_theta": None}}, "RoPE parameters: rope_theta=None"),
    ({"rope_parameters": [1]}, r"rope_parameters=\[1\]; expected an object"),
    ({"rope_parameters": {**ROPE, "factor": None}}, "RoPE parameters: factor=None"),
    ({"rope_parameters": {**ROPE, "factor": 0}}, "RoPE parameters: factor=0"),
    ({"rope_parameters": {**ROPE, "high_freq_factor": 1.0}}, "is not below high_freq_factor"),
    ({"rope_parameters": {**ROPE, "original_max_position_embeddings": 1.5}}, "embeddings=1.5"),
    ({"rope_parameters": {"rope_type": {}}}, "rope_type={}"),
    ({"sliding_window": -1}, "sliding_window=-1"),
    ({"sliding_window": "all"}, "sliding_window='all'"),
    ({"use_sliding_window": "yes"}, "use_sliding_window='yes'"),
    ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers=2"),
    ({"layer_types": "full_attention"}, "layer_types='full_attention'; expected a list"),
    ({"layer_types": [1, 2]}, r"layer_types=\[1, 2\]"),
    ({"hidden_act": ["silu"]}, r"hidden_act=\['silu'\]"),
    ({"eos_token_id": 10**30}, "eos_token_id=1000"),
    ({"eos_token_id": [1.5]}, r"eos_token_id=\[1\.5\]"),
    ('{"rms_norm_eps": NaN}', "rms_norm_eps.*expected finite numbers"),
    ('{"rope_theta": 1e999}', "rope_theta.*expected finite numbers"),
    ('{"a": {"b": [1, -Infinity]}}', r"a\.b\.1.*expected finite numbers"),
    ('{"a": "\\ud800"}', "lone surrogates"),
    ('{"a": 1, "b": 2, "a": 3}', "key 'a' occurs twice"),
    ('{"a": {"b": 2, "b": 3}}', "key 'b' occurs twice"),
    (f'{{"a": {"9" * 5000}}}', "broken JSON"),
    (DEEP, "nested too deeply"),
    ("", "1:1: broken JSON"),
    ("[]", "expected a JSON object, found list"),
    ("null", "expected a JSON object, found NoneType"),
    (b'{"model_type": "\xff"}', "not UTF-8"),
    (b"\xff\xfe{\x00}\x00", "not UTF-8"),
]
TOKENIZER_CONFIG: list[tuple[Any, str]] = [
    ({"tokenizer_class": 5}, "tokenizer_class=5; expected text"),
    ({"eos_token": 5}, "eos_token=5"),
    ({"eos_token": {"text": "x"}}, "eos_token={'text': 'x'}"),
    ({"pad_token": ["x"]}, r"pad_token=\['x'\]"),
    ({"model_max_length": "long"}, "model_max_length='long'"),
    ({"model_max_length": -5}, "model_max_length=-5"),
    ({"chat_template": 5}, "chat_template=5"),
    ({"added_tokens_decoder": {"x": {"content": "x"}}}, "added_tokens_decoder: 'x'"),
    ({"added_tokens_decoder": {"99999999999": {"content": "x"}}}, "added_tokens_decoder: '999"),
    ({"added_tokens_decoder": {"1": 5}}, "added_tokens_decoder: 1=5"),
    ({"additional_special_tokens": "x"}, "additional_special_tokens='x'"),
    ({"extra_special_tokens": [5]}, r"extra_special_tokens=\[5\]"),
    ({"fast_tokenizer_files": ["../../tokenizer.1.json"]}, "fast_tokenizer_files="),
    ({"tokenizer_file": "/dev/zero"}, "tokenizer_file='/dev/zero'; expected the name of a file"),
    ({"vocab_file": "../vocab.json"}, "vocab_file='../vocab.json'"),
    ({"padding_side": "top"}, "padding_side='top'"),
    ({"add_bos_token": "no"}, "add_bos_token='no'"),
    ("[]", "tokenizer_config.json: expected a JSON object"),
    (DEEP, "tokenizer_config.json: lists or objects nested too deeply"),
    (b'{"eos_token": "\xff"}', "tokenizer_config.json: not UTF-8"),
]
OTHER_FILES: list[tuple[str, Any, str]] = [
    ("tokenizer.json", "[]", "tokenizer.json: expected a JSON object"),
    ("tokenizer.json", {"model": []}, r"tokenizer.json: model=\[\]"),
    ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": "1"}}}, "model.vocab: 'a'='1'"),
    ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": -1}}}, "model.vocab: 'a'=-1"),
    ("tokenizer.json", {"added_tokens": [{"id": 2**40, "content": "x"}]}, "added_tokens: 'x': id="),
    ("tokenizer.json", {"added_tokens": [{"id": 1}]}, "added_tokens: None: content=None"),
    ("tokenizer.json", {"model": {"type": "None such"}}, "no usable tokenizer"),
    ("tokenizer.json", '{"version": "1.0", "version": "2.0"}', "key 'version' occurs twice"),
    ("special_tokens_map.json", {"eos_token": 5}, "special_tokens_map.json: eos_token=5"),
    ("added_tokens.json", {"x": "5"}, "added_tokens.json: x='5'"),
    ("generation_config.json", {"eos_token_id": "x"}, "generation_config.json: eos_token_id='x'"),
    ("generation_config.json", {"eos_token_id": True}, "eos_token_id=True"),
    ("generation_config.json", "[]", "generation_config.json: expected a JSON object"),
    ("chat_template.jinja", b"\xff", "chat_template.jinja: not UTF-8"),
]
FILES = [
    *(("config.json", change, expected) for change, expected in CONFIG),
    *(("tokenizer_config.json", change, expected) for change, expected in TOKENIZER_CONFIG),
    *OTHER_FILES,
]


def put(file: Path, change: Any) -> None:
    """Write a whole file, or change keys of one."""
    if isinstance(change, bytes):
        file.write_bytes(change)
    elif isinstance(change, str):
        file.write_text(change)
    else:
        found = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**found, **change}))


def copy_of(model: Path, place: Path) -> Path:
    return shutil.copytree(model, place / "model")


def tensor(start: int, stop: int, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# what is wrong -> header of a safetensors file with eight bytes of data
HEADERS: dict[str, Any] = {
    "beyond the file": {"a": tensor(0, 16, shape=(4,))},
    "less than the file": {"a": tensor(0, 4, shape=(1,))},
    "overlapping": {"a": tensor(0, 8), "b": tensor(4, 8, shape=(1,))},
    "backwards": {"a": tensor(8, 0)},
    "another shape": {"a": tensor(0, 8, shape=(3,))},
    "a shape that overflows": {"a": tensor(0, 8, shape=(2**40, 2**40))},
    "a negative shape": {"a": tensor(0, 8, shape=(-2,))},
    "a type that is none": {"a": tensor(0, 8, "F99")},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "no object": [],
    "no UTF-8": b"\xff\xfe",
    "deep": DEEP.encode(),
}


def weights(header: Any, length: int | None = None) -> bytes:
    """A safetensors file with this header, which may be said to be of another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)
