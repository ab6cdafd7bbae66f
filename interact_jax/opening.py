"""An opened model: everything that a program needs of a model. Every program opens models this way.

model = open_model("Qwen/Qwen3-0.6B", mesh=mesh)
params = model.load()                             the weights, laid out over the mesh
model.export(params, "runs/mine/export")
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import memory, progress, sharding
from interact_jax.checkpoint import check_model_files
from interact_jax.data.chat import ChatFormat
from interact_jax.data.rendering import DATE
from interact_jax.models import hf
from interact_jax.models.attention import backend_for
from interact_jax.models.decoder import Decoder, precision_of
from interact_jax.models.families import DecoderConfig, check_tokenizer
from interact_jax.schema import InputError
from interact_jax.settings import Setting
from interact_jax.store import Place

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")
WITH_WORK = 3  # a guess at the memory for a model and its use, as a multiple of its parameters
SETTINGS = {
    "model.path": Setting(
        "pocket",
        "the model: a Hugging Face directory or hub id, or the directory of a finished run;"
        " pocket = the shipped model; pocket-talks = another, of longer talks (docs/pocket.md)",
        free=True,
    ),
    "model.tokenizer": Setting("", "directory of another tokenizer; empty = the model's own"),
    "model.init": Setting(
        "pretrained",
        "where the weights come from; random needs only config.json",
        ("pretrained", "random"),
    ),
    "model.dtype": Setting("bfloat16", "type in which the model computes", DTYPES),
    "model.param_dtype": Setting(
        "float32",
        "type in which parameters are kept; bfloat16 loses updates smaller than 1/256 of a "
        "parameter",
        DTYPES,
    ),
    "export.dtype": Setting("bfloat16", "type of the exported weights", DTYPES, free=True),
}


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """What a program needs of a model. `files` and `tokenizer_files` are directories."""

    files: Path
    tokenizer_files: Path
    raw: dict[str, Any]  # config.json, with the tying of the head as found in the weights
    decoder: Decoder
    chat: ChatFormat
    mesh: jax.sharding.Mesh

    @property
    def config(self) -> DecoderConfig:
        return self.decoder.config

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a reply: those at which the model stops, and the one that is learned."""
        return list(dict.fromkeys([*hf.eos_token_ids(self.files), *self._ends]))

    @property
    def _ends(self) -> list[int]:
        return [self.chat.tokenizer.eos_token_id, self.chat.eos_id]

    def abstract(self) -> Any:
        """Shapes, types and shardings of the parameters, before any array exists."""
        shapes = jax.eval_shape(self.decoder.fresh_params, 0)
        return sharding.with_layout(shapes, self.mesh)

    @progress.of("loading the weights")
    def load(self) -> Any:
        """The parameters from safetensors, each process and device its own part."""
        abstract = self.abstract()
        memory.choose_allocator(WITH_WORK * memory.device_bytes(abstract), self.mesh)
        layout = sharding.layout_of(abstract)
        return hf.load_params(self.files, self.config, self.decoder.param_dtype, layout)

    def fresh(self, seed: int) -> Any:
        """Random parameters."""
        layout = sharding.layout_of(self.abstract())
        fresh = jax.jit(self.decoder.fresh_params, out_shardings=layout)
        return fresh(np.uint32(seed))  # an int would become int32

    @progress.of("exporting the model")
    def export(
        self, params: Any, directory: Place | str, dtype: str, max_shard_size: str | int = "5GB"
    ) -> None:
        """Write a Hugging Face directory with these parameters."""
        hf.export(
            params,
            self.config,
            self.raw,
            directory,
            dtype=dtype,
            source_dir=self.files,
            tokenizer_dir=self.tokenizer_files,
            eos_ids=self._ends,
            max_shard_size=max_shard_size,
        )


def open_model(
    path: str | Path,
    *,
    mesh: jax.sharding.Mesh | None = None,
    tokenizer: str = "",
    weights: bool = True,
    hindsight: str = "offline",
    reply_tokens: str = "in_place",
    thinking: str = "auto",
    date: str = DATE,
    end: str = "auto",
    max_length: int = 1,
    dtype: str = "float32",
    param_dtype: str = "",
    remat: str = "none",
    attention: str = "auto",
) -> OpenedModel:
    """Open a Hugging Face directory, a hub id, or "pocket"; no weight is read yet.

    `weights=False` does not require any. dtype is that of the computation, and of the parameters
    where param_dtype is "". The precision of matrix products is set for this dtype, in the whole
    process. Without a mesh, one over all devices is used. Raises InputError for everything that the
    user can fix, including a tokenizer or `max_length` that does not fit the model.
    """
    jax.config.update("jax_default_matmul_precision", precision_of(dtype))
    mesh = sharding.make_mesh() if mesh is None else mesh
    files = hf.resolve(str(path), weights=weights)
    raw, config = hf.load_config(files, weights)
    tokenizer_files = hf.resolve(tokenizer, weights=False) if tokenizer else files
    chat = ChatFormat.load(
        tokenizer_files,
        hindsight,
        reply_tokens,
        thinking=thinking,
        date=date,
        end=end,
        stops=hf.eos_token_ids(files),
    )
    if note := chat.describe_end():
        log.info("%s", note)
    check_tokenizer(chat.vocabulary, max_length, config)
    decoder = Decoder(
        config,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype or dtype),
        remat=remat,
        attention=backend_for(attention, mesh),
    )
    return OpenedModel(files, tokenizer_files, raw, decoder, chat, mesh)


def chat_for(cfg: Any) -> ChatFormat:
    """The chat format of a run's settings, without its model."""
    files = hf.resolve(cfg.model.path, weights=False)
    tokenizer = cfg.model.tokenizer
    return ChatFormat.load(
        hf.resolve(tokenizer, weights=False) if tokenizer else files,
        cfg.hindsight,
        cfg.data.reply_tokens,
        thinking=cfg.data.thinking,
        date=cfg.data.date,
        end=cfg.data.end,
        stops=hf.eos_token_ids(files),
    )


def open_for(cfg: Any, mesh: jax.sharding.Mesh, run: Path | None = None) -> OpenedModel:
    """The model of a run's settings; a resumed run has its own config and tokenizer, in its
    directory `run`."""
    own = None if run is None else check_model_files(run)
    if own is not None:
        _check_same(Path(cfg.model.path).expanduser(), own)
    return open_model(
        own or cfg.model.path,
        mesh=mesh,
        tokenizer="" if own else cfg.model.tokenizer,
        weights=cfg.model.init == "pretrained" and not own,
        hindsight=cfg.hindsight,
        reply_tokens=cfg.data.reply_tokens,
        thinking=cfg.data.thinking,
        date=cfg.data.date,
        end=cfg.data.end,
        max_length=cfg.data.max_length,
        dtype=cfg.model.dtype,
        param_dtype=cfg.model.param_dtype,
        remat=cfg.remat,
        attention=cfg.attention,
    )


def _check_same(given: Path, own: Path) -> None:
    """Raise InputError where the model of `model.path` has another config than the run's own."""
    if hf.is_run(given):
        given = given / "model"
    if not (given / "config.json").is_file():  # a hub id, or gone
        log.info("the model is the run's own, %s", own)
        return
    (_, theirs), (_, ours) = (hf.load_config(place, weights=False) for place in (given, own))
    fields = {field.name for field in dataclasses.fields(ours)}
    if theirs.tied and not ours.tied:  # that was seen in its weights, which need not be there now
        fields -= {"tied"}
    different = [
        f"{name} is {getattr(ours, name)!r} in the run, {getattr(theirs, name)!r} there"
        for name in sorted(fields)
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if different:
        raise InputError(
            f"model.path={given}: the run in {own.parent} is of another model ({different[0]}). "
            "Give the original model, or use another --workdir."
        )
