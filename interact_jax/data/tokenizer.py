"""A tokenizer from a stranger's directory: checked, and loaded without code of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interact_jax import startup
from interact_jax.json_files import (
    FILE_NAME,
    FLAG,
    LARGEST,
    OBJECT,
    TEXT,
    Kind,
    check,
    either,
    list_of,
    number,
    one_of,
    read_json,
    short,
    whole,
)
from interact_jax.schema import InputError

with startup.without_torch("transformers"):
    from transformers import AutoTokenizer

log = logging.getLogger(__name__)
ID = whole(0, 2**31 - 1)
TOKEN = either(
    TEXT,
    Kind(
        "an object with its content",
        lambda value: isinstance(value, dict) and isinstance(value.get("content"), str),
    ),
)
SIDE = one_of("left", "right")
CONFIG: dict[str, Kind] = {
    "tokenizer_class": TEXT.or_null(),
    "auto_map": either(OBJECT, list_of(TEXT.or_null())).or_null(),
    "chat_template": either(TEXT, OBJECT, list_of(OBJECT)).or_null(),
    "model_max_length": number(above=0).or_null(),
    "added_tokens_decoder": OBJECT.or_null(),
    "additional_special_tokens": list_of(TOKEN).or_null(),
    "extra_special_tokens": either(list_of(TOKEN), OBJECT).or_null(),
    "fast_tokenizer_files": list_of(FILE_NAME).or_null(),
    **dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file"), FILE_NAME.or_null()),
    "model_input_names": list_of(TEXT),
    "padding_side": SIDE,
    "truncation_side": SIDE,
    "add_bos_token": FLAG.or_null(),
    "add_eos_token": FLAG.or_null(),
    "add_prefix_space": FLAG.or_null(),
    "clean_up_tokenization_spaces": FLAG.or_null(),
}
"""Keys of tokenizer_config.json, and what they may be; keys of tokens are checked as well."""
FAST: dict[str, Kind] = {
    "version": TEXT,
    "model": OBJECT,
    "added_tokens": list_of(OBJECT).or_null(),
    **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"), OBJECT.or_null()),
    **dict.fromkeys(("truncation", "padding"), OBJECT.or_null()),
}
"""Keys of tokenizer.json."""


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer that transformers makes of a directory. Raises InputError, with file and key
    where they are known."""
    settings = _check_files(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
        tokenizer.decode(tokenizer("a b", add_special_tokens=False)["input_ids"])
    except BaseException as error:  # from OSError to KeyError, and panics of the library in Rust
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(_unusable(directory, settings, error)) from error
    if settings.get("auto_map"):
        log.warning(
            "%s names code of its own (auto_map), which is never run: it is loaded as %s",
            directory / "tokenizer_config.json",
            type(tokenizer).__name__,
        )
    return tokenizer


def _unusable(directory: Path, settings: Mapping[str, Any], error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if settings.get("auto_map"):
        return (
            f"{directory / 'tokenizer_config.json'}: auto_map: the tokenizer needs code of its "
            f"own, which is never run ({reason}). Set model.tokenizer to a directory with a "
            "tokenizer.json and without auto_map."
        )
    return (
        f"{directory}: no usable tokenizer ({reason}). Expected tokenizer.json and "
        "tokenizer_config.json; set model.tokenizer to a directory that has them."
    )


def _check_files(directory: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json. Raises InputError for a file with wrong types."""
    for path in (directory / "chat_template.jinja", *directory.glob("*chat_templates/*.jinja")):
        if path.is_file():
            _check_text(path)
    settings = _read(directory / "tokenizer_config.json")
    source = directory / "tokenizer_config.json"
    tokens = {key: TOKEN.or_null() for key in settings if key.endswith("_token")}
    check(settings, {**tokens, **CONFIG}, source)
    for key, token in (settings.get("added_tokens_decoder") or {}).items():
        if not (key.isascii() and key.isdecimal() and ID.fits(int(key[:20]))):
            raise InputError(
                f"{source}: added_tokens_decoder: {short(key)}; expected an id, {ID.description}."
            )
        check({key: token}, {key: TOKEN}, f"{source}: added_tokens_decoder")
    source = directory / "special_tokens_map.json"
    named = _read(source)
    check(named, dict.fromkeys(named, either(TOKEN, list_of(TOKEN), OBJECT).or_null()), source)
    source = directory / "added_tokens.json"
    added = _read(source)
    check(added, dict.fromkeys(added, ID), source)
    _check_fast(directory / "tokenizer.json")
    return settings


def _check_fast(source: Path) -> None:
    fast = _read(source)
    check(fast, FAST, source)
    for token in fast.get("added_tokens") or ():
        place = f"{source}: added_tokens: {short(token.get('content'))}"
        check({"id": None, "content": None, **token}, {"id": ID, "content": TEXT}, place)
    vocabulary = fast.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        for token, number in vocabulary.items():
            if not ID.fits(number):
                place = f"{source}: model.vocab"
                check({short(token): number}, {short(token): ID}, place)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _check_text(path: Path) -> None:
    if (size := path.stat().st_size) > LARGEST:
        raise InputError(f"{path}: has {size:,} bytes; up to {LARGEST:,} are read.")
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from None
