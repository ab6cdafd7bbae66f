"""Where a Hugging Face model is, and what its small files say."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import huggingface_hub

import interact_jax
from interact_jax.json_files import read_json, short
from interact_jax.models.families import DecoderConfig, read_config
from interact_jax.models.hf.tensor_files import TensorFiles, some
from interact_jax.models.hf.tokenizer_files import TEMPLATE_DIRECTORIES
from interact_jax.places import check_name
from interact_jax.schema import InputError

log = logging.getLogger(__name__)
MOST_ID = 2**31 - 1

POCKET = Path(interact_jax.__file__).parent / "pocket" / "model"


def resolve(path: str, weights: bool = True) -> Path:
    """The directory of a model: a local one, `pocket`, or a hub id, downloaded if need be.

    `weights=False` downloads no weights, for a tokenizer or a random start.

    Raises InputError where it is neither here nor to be had, naming what was tried, and where a
    file of it is a link to somewhere else.
    """
    if path == "pocket":
        if not (POCKET / "config.json").is_file():
            raise InputError(f"pocket: this installation lacks the shipped model ({POCKET}).")
        return POCKET
    check_name(f"model {path}", path)
    local = Path(path).expanduser()
    if local.is_dir():
        local = _export_of(local) if is_run(local) else local
        _check_links(local)
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
    wanted = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
    wanted += ["model*.safetensors"] * weights
    try:
        found = Path(huggingface_hub.snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors, those of names not
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path}: no such directory ({local.absolute()}), and the Hugging Face hub did not "
            f"give a model of that name ({type(error).__name__}: {reason}). Check the name and the "
            "connection; private and gated models need `hf auth login`; on a machine without "
            "network give the directory of a copy. `pocket` is the model that comes with this "
            "package."
        ) from error
    _check_links(found)
    return found


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a run, whose models lie in directories of it."""
    return (directory / "model/config.json").is_file() and (directory / "checkpoints").is_dir()


def _export_of(run: Path) -> Path:
    """The model that a run has left."""
    if not (run / "export/config.json").is_file():
        raise InputError(
            f"{run}: a run that has not come to its end, so there is no model of it yet. Start it "
            f"again, or export its newest checkpoint: launch/export.py --checkpoint {run} --out DIR"
        )
    log.info("%s is a run; its model is %s", run, run / "export")
    return run / "export"


def _check_links(directory: Path) -> None:
    """Raise InputError where a file of a model is none, or a link that ends elsewhere: what is read
    here is copied on and published, and somebody's link may lead to anything.

    A snapshot in the hub's cache is made of links to files of its repository there, which is fine.
    """
    home = directory.resolve()
    homes = [home, *_blobs_of(home)]
    templates = [path for name in TEMPLATE_DIRECTORIES for path in (home / name).glob("*")]
    for path in sorted([*home.iterdir(), *templates]):
        try:
            target = path.resolve()
            inside = any(map(target.is_relative_to, homes))
            if path.is_dir() and (inside or path.name not in TEMPLATE_DIRECTORIES):
                continue  # nothing else in a directory is read
            odd = path.exists() and not (path.is_file() or path.is_dir())
        except (OSError, RuntimeError) as error:  # links in a circle, or to what is not ours
            raise InputError(f"{path}: a link that cannot be followed ({error}).") from None
        if not inside:
            raise InputError(
                f"{path}: a link to {target}, outside of the model's directory. Put a copy of the "
                "file in place of the link, or delete it."
            )
        if odd:
            raise InputError(f"{path}: neither a file nor a directory. Delete it.")


def _blobs_of(home: Path) -> list[Path]:
    """Where links of a snapshot in the hub's cache may end: CACHE/models--OWNER--NAME/blobs, and
    what repositories share, CACHE/blobs; [] for other directories."""
    for snapshots in home.parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith("models--"):
            shared = repository.parent / "blobs"
            known = (shared / ".huggingface-shared-blobs").is_file()
            return [repository / "blobs", *([shared] * known)]
    return []


def load_config(
    directory: Path | str, weights: bool = True
) -> tuple[dict[str, Any], DecoderConfig]:
    """`config.json`, and what we read from it. Raises InputError.

    Where there are weights with a head of their own, though config.json says that the embedding is
    the head, both say the contrary, and that head is loaded, as by transformers 5. `weights=False`
    does not look at them, where they are not to be loaded.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        there = sorted(file.name for file in Path(directory).glob("*"))
        raise InputError(
            f"{path}: no such file; expected a Hugging Face model directory. There is "
            f"{some(there) or 'nothing'}."
        )
    raw = read_json(path)
    config = read_config(raw, str(path))
    id_list(raw.get("eos_token_id"), path)
    if "auto_map" in raw:
        log.warning(
            "%s names code of its own (auto_map), which is never run: the model is computed as any "
            "%s model",
            path,
            config.model_type,
        )
    if weights and config.tied and TensorFiles.there(Path(directory)):
        files = TensorFiles(Path(directory))
        if files.differ("lm_head.weight", "model.embed_tokens.weight"):
            log.warning(
                "%s says tie_word_embeddings, but the weights hold a head that differs from the "
                "embedding: it is loaded, and an export says tie_word_embeddings: false",
                path,
            )
            raw = {**raw, "tie_word_embeddings": False}
            config = dataclasses.replace(config, tied=False)
    return raw, config


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
    if not all(type(i) is int and 0 <= i <= MOST_ID for i in ids):
        raise InputError(
            f"{path}: eos_token_id={short(value)}; expected a token id or a list of them."
        )
    return ids
