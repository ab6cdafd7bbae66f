"""A Hugging Face directory from parameters, in a spelling that transformers 4 and 5 read."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError

from interact_jax import files
from interact_jax.models.families import FAMILIES, DecoderConfig
from interact_jax.models.hf.directories import id_list, read_json
from interact_jax.models.hf.rules import RULES, letter_sizes, rules_of, tensors
from interact_jax.models.hf.tensor_files import INDEX, parse_size, some, write_tensors
from interact_jax.schema import InputError

EXPORT_DTYPES = ("float32", "bfloat16")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",  # a directory
)
"""What a tokenizer and its chat templates may consist of; export copies those that exist."""
NEW_CLASS = "TokenizersBackend"
"""How transformers 5 names PreTrainedTokenizerFast, a name that both versions load."""


def export(
    params: Any,
    config: DecoderConfig,
    raw_config: Mapping[str, Any],
    out_dir: Path | str,
    *,
    dtype: str,
    source_dir: Path | str,
    tokenizer_dir: Path | str,
    eos_ids: Sequence[int],
    max_shard_size: str | int = "5GB",
) -> None:
    """Write a Hugging Face directory that transformers 4.5x and 5 load.

    raw_config: config.json of the source, from which ours is made; `dtype` is one of
    EXPORT_DTYPES; `eos_ids` end a reply, besides those that the source says. Everything is written
    beside `out_dir` and then renamed, so that what stands there is always complete; an earlier
    export is replaced at the end. Raises InputError, among others for a full disk.
    """
    out, source, tokenizer = (Path(p).absolute() for p in (out_dir, source_dir, tokenizer_dir))
    if dtype not in EXPORT_DTYPES:
        raise InputError(f"export.dtype={dtype!r}: expected one of {', '.join(EXPORT_DTYPES)}.")
    max_bytes = parse_size(max_shard_size)
    _check_replaceable(out, (source, tokenizer))
    first = jax.process_index() == 0  # it alone writes; the others help to gather
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_directory(out) if first else contextlib.nullcontext(out) as partial:
            if first:
                _write_configs(partial, params, config, raw_config, dtype, source, eos_ids)
                _copy_tokenizer(tokenizer, partial)
            _write_weights(partial, params, config, np.dtype(dtype), max_bytes, first)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{out}: the export could not be written ({error}). What stood there before, if "
            "anything, is unchanged."
        ) from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {out}")


def _check_replaceable(out: Path, sources: Iterable[Path]) -> None:
    """Raise InputError unless `out` is new, empty, or holds nothing but an export."""
    if any(out.resolve() == source.resolve() for source in sources):
        raise InputError(f"{out}: an export there would overwrite the model that it came from.")
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: a file; expected a directory to export to.")
    ours = {"config.json", "generation_config.json", INDEX, *TOKENIZER_FILES}
    foreign = sorted(
        path.name
        for path in out.iterdir()
        if path.name not in ours and not re.fullmatch(r"model.*\.safetensors", path.name)
    )
    if foreign:
        raise InputError(
            f"{out}: holds files that are no part of an export ({some(foreign)}), and "
            "would be deleted with it. Name another directory."
        )


def _write_weights(
    directory: Path,
    params: Any,
    config: DecoderConfig,
    dtype: np.dtype,
    max_bytes: int,
    write: bool,
) -> None:
    rules, tree = jax.tree.flatten(rules_of(config))
    leaf_of = dict(zip(rules, tree.flatten_up_to(params), strict=True))
    sizes = {**letter_sizes(config), "V": params["embedding_VxD"].shape[0]}
    home = tensors([rule for rule in RULES if rule in leaf_of], config)

    def make(name: str) -> np.ndarray:
        rule, n = home[name]
        leaf = leaf_of[rule]
        part = _layer(leaf, n, dtype) if rule.stacked else _cast(leaf, dtype)
        return rule.backwards(_to_host(part))

    shapes = {name: rule.their_shape(sizes) for name, (rule, _) in home.items()}
    write_tensors(directory, shapes, make, dtype.itemsize, max_bytes, write)


@functools.partial(jax.jit, static_argnums=2)
def _layer(x: jax.Array, n: jax.Array, dtype: np.dtype) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, n, keepdims=False).astype(dtype)


@functools.partial(jax.jit, static_argnums=1)
def _cast(x: jax.Array, dtype: np.dtype) -> jax.Array:
    return x.astype(dtype)


def _to_host(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def _write_configs(
    directory: Path,
    params: Any,
    config: DecoderConfig,
    raw: Mapping[str, Any],
    dtype: str,
    source: Path,
    eos_ids: Sequence[int],
) -> None:
    """config.json and generation_config.json; other keys of the source stay as they are."""
    scaling = config.rope_scaling
    new_rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        new_rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    written = {
        **raw,
        "architectures": [FAMILIES[config.model_type]],
        "vocab_size": params["embedding_VxD"].shape[0],
        "tie_word_embeddings": "head_DxV" not in params,
        # Both spellings. transformers 5 takes rope_scaling before rope_parameters and fills in
        # rope_theta from beside it, so the old spelling is complete and the two agree.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else new_rope,
        "rope_parameters": {**new_rope, "rope_theta": config.rope_theta},
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    path = source / "generation_config.json"
    if path.is_file():
        generation = read_json(path)
    else:
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        generation = {key: raw[key] for key in keys if raw.get(key) is not None}
    for settings, origin in ((written, source / "config.json"), (generation, path)):
        ids = id_list(settings.get("eos_token_id"), origin)
        ids = list(dict.fromkeys([*ids, *map(int, eos_ids)]))
        if ids:
            settings["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    for name, settings in (("config.json", written), ("generation_config.json", generation)):
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Byte for byte; only a class that transformers 4 does not know is named as it knows it."""
    for name in TOKENIZER_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer_config.json"
    if path.is_file() and (settings := read_json(path)).get("tokenizer_class") == NEW_CLASS:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(extra := settings.pop("extra_special_tokens", None), list):
            settings["additional_special_tokens"] = extra
        elif extra is not None:
            settings["extra_special_tokens"] = extra
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
