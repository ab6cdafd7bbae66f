"""Where a Hugging Face model is, and what its small files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub

import interact_jax
from interact_jax.models.families import DecoderConfig, read_config
from interact_jax.models.hf.tensor_files import some
from interact_jax.schema import InputError

POCKET = Path(interact_jax.__file__).parent / "pocket" / "model"


def resolve(path: str, weights: bool = True) -> Path:
    """The directory of a model: a local one, `pocket`, or a hub id, downloaded if need be.

    `weights=False` downloads no weights, for a tokenizer or a random start.

    Raises InputError where it is neither here nor to be had, naming what was tried.
    """
    if path == "pocket":
        if not (POCKET / "config.json").is_file():
            raise InputError(f"pocket: this installation lacks the shipped model ({POCKET}).")
        return POCKET
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise InputError(f"{path}: a file; expected the directory of a Hugging Face model.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path, re.ASCII):
        raise InputError(
            f"{path!r}: no such directory, and no Hugging Face hub id (OWNER/NAME). Expected a "
            "directory with config.json, a hub id, or `pocket`, the model that comes with this "
            "package."
        )
    # Some repositories hold the weights twice, for other programs under other names.
    wanted = ["*.json", "*.jinja", "*.model", "*.txt", *(["model*.safetensors"] * weights)]
    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors, those of names not
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path}: no such directory ({local.absolute()}), and the Hugging Face hub did not "
            f"give a model of that name ({type(error).__name__}: {reason}). Check the name and the "
            "connection; private and gated models need `hf auth login`; on a machine without "
            "network give the directory of a copy. `pocket` is the model that comes with this "
            "package."
        ) from error


def load_config(directory: Path | str) -> tuple[dict[str, Any], DecoderConfig]:
    """`config.json` as it stands, and what we read from it. Raises InputError."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        there = sorted(file.name for file in Path(directory).glob("*"))
        raise InputError(
            f"{path}: no such file; expected a Hugging Face model directory. There is "
            f"{some(there) or 'nothing'}."
        )
    raw = read_json(path)
    return raw, read_config(raw, str(path))


def eos_token_ids(directory: Path | str) -> list[int]:
    """The tokens that end a reply, of `generation_config.json`, else `config.json`; [] if none."""
    for name in ("generation_config.json", "config.json"):
        path = Path(directory) / name
        if path.is_file() and (ids := id_list(read_json(path).get("eos_token_id"), path)):
            return ids
    return []


def id_list(value: Any, path: Path) -> list[int]:
    """`eos_token_id`, which is an id, a list of ids or null, as a list; `path` is for errors."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise InputError(f"{path}: eos_token_id={value!r}; expected a token id or a list of them.")
    return ids


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises InputError with file, line and column."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}:{error.colno}: broken JSON: {error.msg}."
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value
