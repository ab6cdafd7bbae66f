"""Hugging Face directories: where they are, and import and export of models.

    directory = resolve("Qwen/Qwen3-4B")            # or a local directory, or "pocket"
    raw, config = load_config(directory)
    params = load_params(directory, config, jnp.float32, shardings)
    export(params, config, raw, "runs/mine/export", dtype="bfloat16", source_dir=directory,
           tokenizer_dir=directory, eos_ids=[151645])

Neither import nor export ever holds the whole model in host memory: import makes one parameter
after the other, and of each only the part for the devices of this process; export writes one file
after the other.
"""

from interact_jax.models.hf.directories import eos_token_ids, is_run, load_config, resolve
from interact_jax.models.hf.exporting import check_place, export, files_of, names_of
from interact_jax.models.hf.importing import load_params
from interact_jax.models.hf.tokenizer_files import copy_tokenizer

__all__ = [
    "check_place",
    "copy_tokenizer",
    "eos_token_ids",
    "export",
    "files_of",
    "is_run",
    "load_config",
    "load_params",
    "names_of",
    "resolve",
]
