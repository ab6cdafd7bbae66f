"""Hugging Face directories: where they are, and models in and out of them.

    directory = resolve("Qwen/Qwen3-4B")            # or a local directory, or "pocket"
    raw, config = load_config(directory)
    params = load_params(directory, config, jnp.float32, shardings)
    export(params, config, raw, "runs/mine/export", dtype="bfloat16", source_dir=directory,
           tokenizer_dir=directory, eos_ids=[151645])

Neither way is the model ever whole in host memory: import makes one parameter after the other, and
of each only what this process's devices hold; export writes one file after the other.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from interact_jax.models import tensor_files
from interact_jax.models.decoder import Decoder
from interact_jax.models.families import FAMILIES, DecoderConfig, read_config
from interact_jax.models.hf_weights import RULES, Rule, letter_sizes
from interact_jax.schema import InputError

POCKET = Path(__file__).parent.parent / "pocket" / "model"
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

# ---------------------------------------------------------------------------------- finding


def resolve(path: str) -> Path:
    """The directory of a model: a local one, `pocket`, or a hub id, downloaded if need be.

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
    wanted = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
    try:
        return Path(huggingface_hub.snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors, those of names not
        reason = str(error).strip().splitlines()[0]
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
            f"{tensor_files.some(there) or 'nothing'}."
        )
    raw = _read_json(path)
    return raw, read_config(raw, str(path))


def eos_token_ids(directory: Path | str) -> list[int]:
    """The tokens that end a reply, of `generation_config.json`, else `config.json`; [] if none."""
    for name in ("generation_config.json", "config.json"):
        path = Path(directory) / name
        if path.is_file() and (ids := _ids(_read_json(path).get("eos_token_id"), path)):
            return ids
    return []


def _ids(value: Any, path: Path) -> list[int]:
    """An id or a list of ids as a list. Some configs nest or null them; -1 has meant "none"."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise InputError(f"{path}: eos_token_id={value!r}; expected a token id or a list of them.")
    return ids


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}:{error.colno}: broken JSON: {error.msg}."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}).") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


# --------------------------------------------------------------------------------- importing


def load_params(
    directory: Path | str, config: DecoderConfig, param_dtype: Any, shardings: Any = None
) -> Any:
    """The decoder's parameters from safetensors: the tree of `Decoder.init(...)["params"]`.

    `shardings` is the same tree of jax.sharding.Sharding; None = all on the first device. Each
    process reads the parts that its own devices hold. Raises InputError for missing, unexpected,
    misshapen and damaged tensors, before any is read.
    """
    files = tensor_files.TensorFiles(Path(directory))
    leaves, tree = jax.tree.flatten(_rules_by_parameter(config), is_leaf=_is_rule)
    _check_tensors(files, leaves, config)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.unflatten(tree, [one] * len(leaves))
    placed = tree.flatten_up_to(shardings)
    dtype = np.dtype(param_dtype)
    arrays = [_import(files, *pair, config, dtype) for pair in zip(leaves, placed, strict=True)]
    return jax.tree.unflatten(tree, arrays)


def _import(
    files: tensor_files.TensorFiles,
    rule: Rule,
    sharding: jax.sharding.Sharding,
    config: DecoderConfig,
    dtype: np.dtype,
) -> jax.Array:
    sizes = letter_sizes(config)
    names = rule.their_names(config)
    shape = tuple(sizes[letter] for letter in rule.letters)
    shape = (config.layers, *shape) if rule.stacked else shape

    @functools.cache  # devices that hold the same part share one copy of it
    def part(bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        layers, *index = [slice(*pair) for pair in bounds]
        out = np.empty([stop - start for start, stop in bounds], dtype)
        for i, name in enumerate(names[layers]):
            out[i] = rule.forwards(functools.partial(files.read, name), tuple(index), sizes)
        return out

    def callback(index: tuple[slice, ...]) -> np.ndarray:
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
        return part(tuple(bounds)) if rule.stacked else part(((0, 1), *bounds))[0]

    return jax.make_array_from_callback(shape, sharding, callback, dtype=dtype)


def _rules_by_parameter(config: DecoderConfig) -> Any:
    """The parameter tree with a rule as each leaf. What the decoder has, its own init says."""
    rules = {rule.ours: rule for rule in RULES}
    shapes = jax.eval_shape(Decoder(config).fresh_params, 0)
    return jax.tree_util.tree_map_with_path(lambda path, _: rules[_name(path)], shapes)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_rule(x: Any) -> bool:
    return isinstance(x, Rule)


def _check_tensors(
    files: tensor_files.TensorFiles, rules: Iterable[Rule], config: DecoderConfig
) -> None:
    wanted = {name: rule for rule in rules for name in rule.their_names(config)}
    lacking = sorted(wanted.keys() - files.names())
    if lacking:
        hint = ""
        if lacking == ["lm_head.weight"]:
            hint = ' If the head is the embedding, config.json needs "tie_word_embeddings": true.'
        raise InputError(
            f"{files.directory}: {len(lacking)} of {len(wanted)} tensors are missing: "
            f"{tensor_files.some(lacking)}. Expected a complete {config.model_type} model as "
            f"config.json describes it ({config.layers} layers).{hint}"
        )
    unexpected = sorted(filter(functools.partial(_matters, config), files.names() - wanted.keys()))
    if unexpected:
        raise InputError(
            f"{files.directory}: {len(unexpected)} tensors that a {config.model_type} model as "
            f"config.json describes it ({config.layers} layers) does not have: "
            f"{tensor_files.some(unexpected)}. They would be lost, so the model is not loaded; "
            "adapters have to be merged, and quantised models replaced by the original."
        )
    sizes = letter_sizes(config)
    for name, rule in wanted.items():
        files.check_readable(name)
        given, expected = files.shape(name), rule.their_shape(sizes)
        if given != expected:
            raise InputError(
                f"{files.file(name)}: tensor {name} has shape {list(given)}; expected "
                f"{list(expected)} ({rule.axes.replace(' ', ' x ')}) by config.json. Weights and "
                "config.json are not of the same model."
            )


def _matters(config: DecoderConfig, name: str) -> bool:
    """Whether a surplus tensor is more than a leftover that Hugging Face ignores as well."""
    if name == "lm_head.weight":
        return not config.tied  # tied models have been saved with their head too
    return not name.endswith("rotary_emb.inv_freq")  # computed, yet older versions stored it


# --------------------------------------------------------------------------------- exporting


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
    max_bytes = tensor_files.parse_size(max_shard_size)
    _check_replaceable(out, (source, tokenizer))
    partial = out.parent / f".{out.name}.partial"
    first = jax.process_index() == 0  # it alone writes; the others help to gather
    try:
        if first:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            partial.mkdir(parents=True)
            _write_configs(partial, params, config, raw_config, dtype, source, eos_ids)
            _copy_tokenizer(tokenizer, partial)
        _write_weights(partial, params, config, np.dtype(dtype), max_bytes, first)
        if first:
            _replace(out, partial)
    except (OSError, tensor_files.SafetensorError) as error:
        raise InputError(
            f"{out}: the export could not be written ({error}). What stood there before, if "
            "anything, is unchanged."
        ) from error
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
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
    ours = {"config.json", "generation_config.json", tensor_files.INDEX, *TOKENIZER_FILES}
    foreign = sorted(
        path.name
        for path in out.iterdir()
        if path.name not in ours and not re.fullmatch(r"model.*\.safetensors", path.name)
    )
    if foreign:
        raise InputError(
            f"{out}: holds files that are no part of an export ({tensor_files.some(foreign)}), and "
            "would be deleted with it. Name another directory."
        )


def _replace(out: Path, complete: Path) -> None:
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(complete, out)
    shutil.rmtree(old, ignore_errors=True)


def _write_weights(
    directory: Path,
    params: Any,
    config: DecoderConfig,
    dtype: np.dtype,
    max_bytes: int,
    write: bool,
) -> None:
    leaf_of = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    sizes = letter_sizes(config)
    sizes["V"] = leaf_of["embedding_VxD"].shape[0]
    home: dict[str, tuple[Rule, int]] = {}  # their name -> where it comes from
    present = [rule for rule in RULES if rule.ours in leaf_of]
    stacked = [rule for rule in present if rule.stacked]
    before = next(i for i, rule in enumerate(present) if rule.stacked)
    for rule in present[:before]:
        home[rule.theirs] = (rule, 0)
    for n in range(config.layers):  # layer by layer, the order in which a model is read
        home |= {rule.theirs.format(n=n): (rule, n) for rule in stacked}
    for rule in present[before + len(stacked) :]:
        home[rule.theirs] = (rule, 0)

    def make(name: str) -> np.ndarray:
        rule, n = home[name]
        leaf = leaf_of[rule.ours]
        part = _layer(leaf, n, dtype) if rule.stacked else _cast(leaf, dtype)
        return rule.backwards(_to_host(part))

    shapes = {name: rule.their_shape(sizes) for name, (rule, _) in home.items()}
    tensor_files.write_tensors(directory, shapes, make, dtype.itemsize, max_bytes, write)


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
        generation = _read_json(path)
    else:
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        generation = {key: raw[key] for key in keys if raw.get(key) is not None}
    for settings, origin in ((written, source / "config.json"), (generation, path)):
        ids = _ids(settings.get("eos_token_id"), origin)
        ids = list(dict.fromkeys([*ids, *map(int, eos_ids)]))
        if ids:
            settings["eos_token_id"] = ids[0] if len(ids) == 1 else ids
    for name, settings in (("config.json", written), ("generation_config.json", generation)):
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)
