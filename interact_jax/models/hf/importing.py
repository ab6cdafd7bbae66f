"""Parameters from safetensors; each process and device reads its own part."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from interact_jax.models.families import DecoderConfig
from interact_jax.models.hf.rules import Rule, letter_sizes, rules_of, tensors
from interact_jax.models.hf.tensor_files import TensorFiles, list_names
from interact_jax.schema import InputError


def load_params(
    directory: Path | str, config: DecoderConfig, param_dtype: Any, shardings: Any = None
) -> Any:
    """The decoder's parameters from safetensors: the tree of `Decoder.init(...)["params"]`.

    `shardings` is the same tree of jax.sharding.Sharding; None = all on the first device. Each
    process reads the parts for its own devices. Raises InputError for missing, unexpected,
    misshapen and damaged tensors, before any is read.
    """
    files = TensorFiles(Path(directory))
    rules = rules_of(config)
    _check_tensors(files, jax.tree.leaves(rules), config)
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda rule: device, rules)
    read = functools.partial(_import, files, config, np.dtype(param_dtype))
    return jax.tree.map(read, rules, shardings)


def _import(
    files: TensorFiles,
    config: DecoderConfig,
    dtype: np.dtype,
    rule: Rule,
    sharding: jax.sharding.Sharding,
) -> jax.Array:
    sizes = letter_sizes(config)
    names = rule.their_names(config)
    shape = tuple(sizes[letter] for letter in rule.letters)
    shape = (config.layers, *shape) if rule.stacked else shape

    @functools.cache  # devices with the same part share one copy of it
    def part(bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        layers, *index = [slice(*pair) for pair in bounds]
        out = np.empty([stop - start for start, stop in bounds], dtype)
        for i, name in enumerate(names[layers]):
            out[i] = rule.forwards(functools.partial(files.read, name), tuple(index), sizes)
        return out

    def callback(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # jax asks only for parts
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
        return part(tuple(bounds)) if rule.stacked else part(((0, 1), *bounds))[0]

    return jax.make_array_from_callback(shape, sharding, callback, dtype=dtype)


def _check_tensors(files: TensorFiles, rules: Sequence[Rule], config: DecoderConfig) -> None:
    wanted = tensors(rules, config)
    lacking = sorted(wanted.keys() - files.names())
    if lacking:
        hint = ""
        if lacking == ["lm_head.weight"]:
            hint = ' If the head is the embedding, config.json needs "tie_word_embeddings": true.'
        raise InputError(
            f"{files.directory}: {len(lacking)} of {len(wanted)} tensors are missing: "
            f"{list_names(lacking)}. Expected a complete {config.model_type} model as "
            f"config.json describes it ({config.layers} layers).{hint}"
        )
    unexpected = sorted(filter(functools.partial(_matters, config), files.names() - wanted.keys()))
    if unexpected:
        raise InputError(
            f"{files.directory}: {len(unexpected)} tensors that a {config.model_type} model as "
            f"config.json describes it ({config.layers} layers) does not have: "
            f"{list_names(unexpected)}. They would be lost, so the model is not loaded; "
            "adapters have to be merged, and quantised models replaced by the original."
        )
    sizes = letter_sizes(config)
    for name, (rule, _) in wanted.items():
        files.check_readable(name)
        given, expected = files.shape(name), rule.their_shape(sizes)
        if given != expected:
            raise InputError(
                f"{files.file(name)}: tensor {name} has shape {list(given)}; expected "
                f"{list(expected)} ({rule.axes.replace(' ', ' x ')}) by config.json. Weights and "
                "config.json are not of the same model."
            )


def _matters(config: DecoderConfig, name: str) -> bool:
    """Whether an unexpected tensor is more than a leftover that Hugging Face ignores as well."""
    if name == "lm_head.weight":
        return not config.tied  # some tied models were saved with their head
    return not name.endswith("rotary_emb.inv_freq")  # computed, but older versions stored it
