"""Where a Hugging Face model is, and the content of its small files."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import huggingface_hub

import interact_jax
from interact_jax import digests, progress
from interact_jax.json_files import read_json, short
from interact_jax.models.families import DecoderConfig, read_config
from interact_jax.models.hf.tensor_files import TensorFiles, is_of_weights, list_names
from interact_jax.models.hf.tokenizer_files import TEMPLATE_DIRECTORIES
from interact_jax.places import check_name
from interact_jax.schema import InputError

log = logging.getLogger(__name__)
MOST_ID = 2**31 - 1

POCKET = Path(interact_jax.__file__).parent / "pocket" / "model"
SHIPPED = {"pocket": POCKET, "pocket-talks": POCKET.parent / "talks"}
"""The models that come with this package, by name."""


def resolve(path: str, weights: bool = True) -> Path:
    """The directory of a model: a local one, one of SHIPPED, or a hub id, downloaded if need be.

    `weights=False` downloads no weights, for a tokenizer or for random parameters.

    Raises InputError if it is neither here nor available, with what was tried, if one of its files
    is a link to somewhere else, and if one of an export's is not what was exported.
    """
    if shipped := SHIPPED.get(path):
        if not (shipped / "config.json").is_file():
            raise InputError(f"{path}: this installation lacks the shipped model ({shipped}).")
        return shipped
    check_name(f"model {path}", path)
    local = Path(path).expanduser()
    if local.is_dir():
        local = _export_of(local) if is_run(local) else local
        _check_links(local)
        _check_digests(local, weights)
        return local
    if local.exists():
        raise InputError(f"{path}: a file; expected the directory of a Hugging Face model.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path, re.ASCII):
        raise InputError(
            f"{path!r}: no such directory, and no Hugging Face hub id (OWNER/NAME). Expected a "
            "directory with config.json, a hub id, or `pocket`, the model that comes with this "
            "package."
        )
    # Some repositories have the weights twice, under other names for other programs.
    patterns = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
    patterns += ["model*.safetensors"] * weights
    try:
        snapshot = Path(huggingface_hub.snapshot_download(path, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # the hub's errors are OSErrors, except for bad names
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path}: no such directory ({local.absolute()}), and the Hugging Face hub did not "
            f"give a model of that name ({type(error).__name__}: {reason}). Check the name and the "
            "connection; private and gated models need `hf auth login`; on a machine without "
            "network give the directory of a copy. `pocket` is the model that comes with this "
            "package."
        ) from error
    _check_links(snapshot)
    return snapshot


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a run, which has its models in subdirectories."""
    return (directory / "model/config.json").is_file() and (directory / "checkpoints").is_dir()


def _export_of(run: Path) -> Path:
    """The exported model of a run."""
    if not (run / "export/config.json").is_file():
        raise InputError(
            f"{run}: a run that has not finished, so there is no model of it yet. Resume it, "
            f"or export its newest checkpoint: launch/export.py --checkpoint {run} --out DIR"
        )
    log.info("%s is a run; its model is %s", run, run / "export")
    return run / "export"


def _check_links(directory: Path) -> None:
    """Raise InputError if an entry is not a regular file, or is a link to somewhere else: what is
    read here is copied and published, and a stranger's link may lead to anything.

    A snapshot in the hub's cache consists of links to files of its repository, which is fine.
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
            is_special = path.exists() and not (path.is_file() or path.is_dir())
        except (OSError, RuntimeError) as error:  # circular links, or links to what we may not read
            raise InputError(f"{path}: a link that cannot be followed ({error}).") from None
        if not inside:
            raise InputError(
                f"{path}: a link to {target}, outside of the model's directory. Put a copy of the "
                "file in place of the link, or delete it."
            )
        if is_special:
            raise InputError(f"{path}: neither a file nor a directory. Delete it.")


@progress.of("checking the model's files")
def _check_digests(directory: Path, weights: bool) -> None:
    """Raise Damaged if a file of an export that has digests was changed; without `weights`, these
    are not read."""
    remedy = (
        f"Export it again, or copy it again; if you changed the file yourself, delete "
        f"{directory / digests.NAME.format(0, 1)}."
    )
    digests.check(directory, remedy, needed=False, unread=None if weights else is_of_weights)


def _blobs_of(home: Path) -> list[Path]:
    """Where links of a snapshot in the hub's cache may lead: CACHE/models--OWNER--NAME/blobs, and
    CACHE/blobs, which repositories share; [] for other directories."""
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
    """`config.json`, as it is and as we read it. Raises InputError.

    If config.json says that the embedding is the head, but the weights have a different head, both
    results say that it is not, and the head is loaded, as by transformers 5. `weights=False` does
    not look at the weights, if they are not to be loaded.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        names = sorted(file.name for file in Path(directory).glob("*"))
        raise InputError(
            f"{path}: no such file; expected a Hugging Face model directory. There is "
            f"{list_names(names) or 'nothing'}."
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
    if weights and config.tied and TensorFiles.exist(Path(directory)):
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
    """The tokens that end a reply, by `generation_config.json`, else `config.json`; or []."""
    for name in ("generation_config.json", "config.json"):
        path = Path(directory) / name
        if path.is_file() and (ids := id_list(read_json(path).get("eos_token_id"), path)):
            return ids
    return []


def id_list(value: Any, path: Path) -> list[int]:
    """`eos_token_id` (an id, a list of ids or null) as a list; `path` is for errors."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and 0 <= i <= MOST_ID for i in ids):
        raise InputError(
            f"{path}: eos_token_id={short(value)}; expected a token id or a list of them."
        )
    return ids
