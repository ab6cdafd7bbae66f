"""A Hugging Face directory from parameters, in a form that transformers 4 and 5 read."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError

from interact_jax import digests, sharding, store
from interact_jax.cluster import processes
from interact_jax.json_files import read_json
from interact_jax.models.families import FAMILIES, DecoderConfig
from interact_jax.models.hf.directories import id_list
from interact_jax.models.hf.rules import RULES, letter_sizes, rules_of, tensors
from interact_jax.models.hf.tensor_files import (
    INDEX,
    SINGLE,
    is_of_weights,
    list_names,
    parse_size,
    write_tensors,
)
from interact_jax.models.hf.tokenizer_files import (
    TEMPLATE_DIRECTORIES,
    copy_tokenizer,
    is_of_tokenizer,
)
from interact_jax.places import check_directory, check_name
from interact_jax.schema import InputError, RunStopped
from interact_jax.store import Place

EXPORT_DTYPES = ("float32", "bfloat16")
PARTIAL = ".partial"  # where an export is written before its files are moved into place
CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"


def export(
    params: Any,
    config: DecoderConfig,
    raw_config: Mapping[str, Any],
    out_dir: Place | str,
    *,
    dtype: str,
    source_dir: Path | str,
    tokenizer_dir: Path | str,
    eos_ids: Sequence[int],
    max_shard_size: str | int = "5GB",
) -> None:
    """Write a Hugging Face directory that transformers 4.5x and 5 load, with digests of its files.

    raw_config: config.json of the source, from which ours is made; `dtype` is one of
    EXPORT_DTYPES; `eos_ids` end a reply, in addition to those of the source. An earlier export
    there is replaced at the end, see `_put_in_place`; other files stay. Raises InputError, for
    example for a full disk.
    """
    if dtype not in EXPORT_DTYPES:
        raise InputError(f"export.dtype={dtype!r}: expected one of {', '.join(EXPORT_DTYPES)}.")
    max_bytes = parse_size(max_shard_size)
    source, tokenizer = Path(source_dir), Path(tokenizer_dir)
    check_place(out_dir, (source, tokenizer))
    out = store.resolved(store.place(out_dir))
    files = store.of(out)
    partial, new = out / PARTIAL, not files.is_dir(out)
    first, complete = processes.is_first(), False
    try:
        if first:
            files.remove(partial)  # left by a run that was killed
            with files.making(partial) as made_here:
                made_here.mkdir(parents=True)
                _write_configs(made_here, params, config, raw_config, dtype, source, eos_ids)
                copy_tokenizer(tokenizer, made_here)
        processes.meet("export begun")
        files.make(partial)  # a network's file system may not show it yet
        _write_weights(partial, params, config, np.dtype(dtype), max_bytes)
        processes.meet("weights exported", processes.LONG_SECONDS)
        digests.seal_together(partial, "export")
        if first:
            complete = True
            _put_in_place(out, partial)
    except (OSError, SafetensorError) as error:
        now = "What stood there before, if anything, is unchanged."
        if complete:
            now = f"Files that are missing there are in {partial}: move them, or export again."
        raise InputError(f"{out}: the export could not be written ({error}). {now}") from error
    finally:
        if first and not complete:
            with contextlib.suppress(OSError, RunStopped):  # the first error is the one to know
                files.remove(partial)
            with contextlib.suppress(OSError, RunStopped):
                if new and files.is_dir(out) and not files.entries(out):
                    files.remove(out)
    processes.meet("exported", processes.LONG_SECONDS)


def check_place(out: Place | str, sources: Iterable[Place] = ()) -> None:
    """Raise InputError for a place where no export can be written, before there is one."""
    headline = f"{out}: no place for an export"
    check_name(headline, str(out))
    out = store.place(out)
    if any(store.resolved(out) == store.resolved(source) for source in sources):
        raise InputError(f"{out}: an export there would overwrite the model that it came from.")
    if isinstance(out, Path):
        check_directory(headline, out)
    files = store.of(out)
    names = list(filter(_is_ours, files.entries(out)))
    foreign = [n for n in names if n not in TEMPLATE_DIRECTORIES and files.is_dir(out / n)]
    if CONFIG in names and not _is_model_config(out / CONFIG):
        foreign.append(CONFIG)
    elif CONFIG not in names:  # not an export, not even part of one
        foreign = names
    if foreign:
        raise InputError(
            f"{headline}, which would replace {list_names(foreign)}: not part of a model. Name "
            "another directory."
        )


def files_of(out: Path) -> list[str]:
    """Patterns of the files of an export in a directory."""
    names = sorted(filter(_is_ours, os.listdir(out)))
    return [f"{name}/*" if (out / name).is_dir() else name for name in names]


def names_of(out: Place) -> list[str]:
    """The names of the files of an export, sorted: chat_templates/a.jinja."""
    return [name for name in store.of(out).names(out) if _is_ours(name.partition("/")[0])]


def _is_model_config(config: Place) -> bool:
    try:
        with store.of(config).fetched(config) as here:
            return "model_type" in read_json(here)
    except InputError:
        return False


def _is_ours(name: str) -> bool:
    """Whether an export may have a file of this name."""
    return (
        name in (CONFIG, GENERATION_CONFIG)
        or is_of_weights(name)
        or is_of_tokenizer(name)
        or digests.NAME_PATTERN.fullmatch(name) is not None
    )


def _put_in_place(out: Place, complete: Place) -> None:
    """Move the files of an export into `out`, in place of those of an earlier one.

    A loader begins with the index, or with the only file of weights. That file is removed first and
    moved last, so even if this is interrupted, old and new are never loaded together: there are no
    weights to load until all files are there. config.json is removed last and moved first, so that
    the directory is always recognised as an export (`check_place`).
    """
    files = store.of(out)
    new = files.entries(complete)
    entry = INDEX if INDEX in new else SINGLE
    old = [name for name in files.entries(out) if _is_ours(name) and name != CONFIG]
    for names in ([SINGLE, INDEX], old, [CONFIG]):
        for name in names:
            files.remove(out / name)
        files.sync(out)
    for name in sorted(new, key=lambda name: (name == entry, name != CONFIG, name)):
        if name == entry:
            files.sync(out)
        files.move(complete / name, out / name)
    files.remove(complete)
    files.sync(out)


def _write_weights(
    directory: Place,
    params: Any,
    config: DecoderConfig,
    dtype: np.dtype,
    max_bytes: int,
) -> None:
    """Each process writes some of the files; of the others' it helps to put tensors together."""
    tree: Any  # jaxlib has no types
    rules, tree = jax.tree.flatten(rules_of(config))
    leaf_of = dict(zip(rules, tree.flatten_up_to(params), strict=True))
    sizes = {**letter_sizes(config), "V": params["embedding_VxD"].shape[0]}
    places = tensors([rule for rule in RULES if rule in leaf_of], config)

    def make(name: str, wanted: bool) -> np.ndarray | None:
        rule, n = places[name]
        leaf = leaf_of[rule]
        if rule.stacked:
            part = _layer(leaf, n, dtype)
        else:  # the largest tensors: no copy where none is needed
            part = leaf if leaf.dtype == dtype else _cast(leaf, dtype)
        if not part.is_fully_addressable:
            # One at a time, in every process: those who want none of them would run ahead, and
            # hold many; on CPUs, collectives that wait for one another's threads never end.
            part = jax.block_until_ready(sharding.replicate(part))
        return rule.backwards(np.asarray(part)) if wanted else None

    def writes(file: int) -> bool:
        return file % jax.process_count() == jax.process_index()

    shapes = {name: rule.their_shape(sizes) for name, (rule, _) in places.items()}
    write_tensors(directory, shapes, make, dtype.itemsize, max_bytes, writes)


@functools.partial(jax.jit, static_argnums=2)
def _layer(x: jax.Array, n: jax.Array, dtype: np.dtype) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, n, keepdims=False).astype(dtype)


@functools.partial(jax.jit, static_argnums=1)
def _cast(x: jax.Array, dtype: np.dtype) -> jax.Array:
    return x.astype(dtype)


def _write_configs(
    directory: Path,
    params: Any,
    config: DecoderConfig,
    raw: Mapping[str, Any],
    dtype: str,
    source: Path,
    eos_ids: Sequence[int],
) -> None:
    """Write config.json and generation_config.json; other keys of the source stay unchanged."""
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
    written.pop("auto_map", None)  # names code that is not exported, and was never run
    path = source / GENERATION_CONFIG
    if path.is_file():
        generation = read_json(path)
    else:
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        generation = {key: raw[key] for key in keys if raw.get(key) is not None}
    for settings, origin in ((written, source / CONFIG), (generation, path)):
        ids = id_list(settings.get("eos_token_id"), origin)
        ids = list(dict.fromkeys([*ids, *map(int, eos_ids)]))
        if ids:
            settings["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    for name, settings in ((CONFIG, written), (GENERATION_CONFIG, generation)):
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")
