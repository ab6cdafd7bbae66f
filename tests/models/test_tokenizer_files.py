"""What a tokenizer consists of goes with a run and its exports."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from interact_jax import checkpoint
from interact_jax.opening import open_model
from tests.runs import tiny

# Files that some tokenizers have, besides those that every test has.
MORE = {
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
    "additional_chat_templates/rag.jinja": "{{ documents }}",
    "chat_templates/old.jinja": "{{ messages }}",
    "chat_template.json": '{"chat_template": "{{ messages }}"}',
    "added_tokens.json": "{}",
    "special_tokens_map.json": '{"eos_token": "<|im_end|>"}',
    "vocab.json": "{}",
    "vocab.txt": "a",
    "vocab.bpe": "a b",
    "merges.txt": "a b",
    "tokenizer.model": "sentencepiece",
    "tokenizer.model.v3": "sentencepiece",
    "spiece.model": "sentencepiece",
    "qwen.tiktoken": "ranks",
    "tekken.json": "{}",
    "preprocessor_config.json": "{}",
    "tokenizer.4.0.0.json": "{}",
}
FOREIGN = ("README.md", "trainer_state.json", "pytorch_model.bin", "notes.txt", "other.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose tokenizer has all of them, not to be loaded again."""
    directory = tmp_path_factory.mktemp("files") / "model"
    tiny(directory)
    opened = open_model(directory, attention="xla")
    for name, content in MORE.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content)
    for name in FOREIGN:
        (directory / name).write_text("not part of it")
    return opened


def check_files(directory, source):
    for name in (*MORE, "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (directory / name).read_bytes() == (source / name).read_bytes(), name
    assert not any((directory / name).exists() for name in FOREIGN)


def test_an_export_has_all_files_of_the_tokenizer(model, tmp_path):
    params = model.load()
    model.export(params, tmp_path / "out", "float32")
    check_files(tmp_path / "out", model.files)
    model.export(params, tmp_path / "out", "float32")  # over it: all of them are an export's


def test_a_run_has_all_files_of_the_tokenizer(model, tmp_path):
    kept = checkpoint.keep_model_files(model.files, model.raw, model.tokenizer_files, tmp_path)
    check_files(kept, model.files)
    assert json.loads((kept / "config.json").read_text()) == model.raw


def test_templates_by_name_are_there_after_a_run_and_an_export(tmp_path):
    """As transformers sees them."""
    directory = tmp_path / "model"
    tiny(directory)
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    model = open_model(directory, attention="xla")
    (run := tmp_path / "run").mkdir()
    kept = checkpoint.keep_model_files(model.files, model.raw, model.tokenizer_files, run)
    again = open_model(kept, weights=False, attention="xla")
    again.export(model.load(), tmp_path / "out", "float32")
    before, after = (AutoTokenizer.from_pretrained(d) for d in (directory, tmp_path / "out"))
    assert before.chat_template == after.chat_template
    assert set(after.chat_template) == {"default", "tool_use"}
