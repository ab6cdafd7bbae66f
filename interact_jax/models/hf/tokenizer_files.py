"""The files of a tokenizer, and how they are copied along with a model."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path

from interact_jax.json_files import read_json

TEMPLATE_DIRECTORIES = ("additional_chat_templates", "chat_templates")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json"),
    *("vocab.*", "merges.txt", "normalizer.json", "tekken.json", "*.tiktoken"),
    *("tokenizer.model*", "spiece.model", "sentencepiece*.model", "spm*.model"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
)
"""Patterns of the files of a tokenizer, besides TEMPLATE_DIRECTORIES; those that exist are copied
into a run and into an export."""
NEW_CLASS = "TokenizersBackend"
"""The name in transformers 5 of PreTrainedTokenizerFast, a name that both versions load."""


def is_of_tokenizer(name: str) -> bool:
    """Whether a file or directory of this name is part of a tokenizer."""
    patterns = (*TOKENIZER_FILES, *TEMPLATE_DIRECTORIES)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files byte for byte, except that a class which transformers 4 does not know gets its
    old name, and that code of the tokenizer's own, which is not copied, is no longer named."""
    for path in source.iterdir():
        if path.is_file() and is_of_tokenizer(path.name):
            shutil.copyfile(path, target / path.name)
    for name in TEMPLATE_DIRECTORIES:
        for path in (source / name).glob("*.jinja"):
            (target / name).mkdir(exist_ok=True)
            shutil.copyfile(path, target / name / path.name)
    path = target / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    new = settings.get("tokenizer_class") == NEW_CLASS
    if new:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(extra := settings.pop("extra_special_tokens", None), list):
            settings["additional_special_tokens"] = extra
        elif extra is not None:
            settings["extra_special_tokens"] = extra
    if settings.pop("auto_map", None) is not None or new:
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
