"""The main path: from a file of conversations to a better model, in the order it happens.

    run = start(config, workdir)       data, model, optimiser; resumed where the run was before
    loop(run)                          steps until the end
    finish(run)                        summary and export

One step: the micro-batches of a batch are scored by student and teacher and differentiated one
after the other (`differentiate`); their sum, divided by the number of interactions, moves the
parameters (`update`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from interact_jax import checkpoint, config, scoring, sharding
from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.pipeline import Dataset, Draws, LogBatches, Packing, load_dataset
from interact_jax.metrics import Journal, StopSignal
from interact_jax.models import hf
from interact_jax.models.attention import backend_for
from interact_jax.models.decoder import Decoder, precision_of, with_wide_ends
from interact_jax.models.families import DecoderConfig, check_tokenizer
from interact_jax.objectives import OBJECTIVES, Objective
from interact_jax.optim import clip_factor, learning_rate, make_optimiser
from interact_jax.schema import Batch, InputError, RunStopped, Sum

log = logging.getLogger(__name__)


@flax.struct.dataclass
class Counters:
    """What a run has counted so far; part of the state, so a resumed run goes on counting."""

    interactions: jax.Array
    reply_tokens: jax.Array
    bad_steps: jax.Array  # skipped, because loss or gradient was not finite
    bad_steps_in_row: jax.Array


@flax.struct.dataclass
class TrainState:
    """Exactly what a checkpoint holds (the data position lies beside it)."""

    step: jax.Array
    params: Any
    opt_state: Any
    counters: Counters


@dataclasses.dataclass
class Run:
    """Everything a run works with. `state` and the position of `source` are all that moves."""

    config: ConfigDict
    workdir: Path
    chat: ChatFormat
    dataset: Dataset
    source: LogBatches
    model_config: DecoderConfig
    decoder: Decoder
    mesh: jax.sharding.Mesh
    total_steps: int
    differentiate: Callable[..., Any]
    add: Callable[..., Any]
    update: Callable[..., Any]
    checkpoints: checkpoint.Checkpoints
    state: TrainState


# ------------------------------------------------------------------------------------- start


def start(cfg: ConfigDict, workdir: str | Path) -> Run:
    """Set everything up. The state comes from, in this order: the newest checkpoint in `workdir`;
    `start_from`; the Hugging Face weights of `model.path`; random initialisation.

    Raises InputError for everything that the user can mend.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"there are {jax.process_count()} processes; training over several hosts is not there "
            "yet. Run one process with all devices of a host."
        )
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    saved_settings = workdir / "config.json"
    if saved_settings.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        config.check_resume(cfg, saved_settings)
    saved_settings.write_text(json.dumps(config.to_json(cfg), indent=2) + "\n")
    jax.config.update("jax_default_matmul_precision", precision_of(cfg.model.dtype))

    model_dir = hf.resolve(cfg.model.path, weights=cfg.model.init == "pretrained")
    _, model_config = hf.load_config(model_dir)
    other = cfg.model.tokenizer
    tokenizer_dir = hf.resolve(other, weights=False) if other else model_dir
    chat = ChatFormat.load(tokenizer_dir, cfg.hindsight, cfg.data.reply_tokens)
    check_tokenizer(len(chat.tokenizer), cfg.data.max_length, model_config)
    checkpoint.keep_model_files(model_dir, tokenizer_dir, workdir)

    settings = EncodeSettings.of(cfg)
    log.info("reading %s", cfg.data.path)
    dataset = load_dataset(
        cfg.data.path, cfg.data.format, chat, settings, cfg.sharing, cfg.data.workers
    )
    for line in dataset.lines():
        log.info("%s", line)
    mesh = sharding.make_mesh(**cfg.mesh)
    draws = Draws(dataset.interactions, cfg.batch, cfg.seed, cfg.epochs)
    packing = Packing.for_run(
        dataset,
        draws,
        cfg.batch.row_tokens,
        cfg.batch.rows * sharding.row_shards(mesh),
        cfg.objective.ignore_first,
    )
    log.info("%s", packing)
    source = LogBatches(dataset, draws, packing)

    attention = backend_for(cfg.attention, mesh)
    log.info("%s; attention=%s", sharding.told(mesh), attention)
    if mesh.shape["sequence"] > 1:
        log.warning(
            "mesh.sequence: nothing is shared out over it yet, its devices compute the same"
        )
    decoder = Decoder(
        model_config,
        dtype=jnp.dtype(cfg.model.dtype),
        param_dtype=jnp.dtype(cfg.model.param_dtype),
        remat=cfg.remat,
        attention=attention,
    )
    optimiser = make_optimiser(cfg.optim)
    with sharding.on(mesh):
        abstract = abstract_state(decoder, optimiser, mesh)
        checkpoints = checkpoint.Checkpoints(workdir, cfg.checkpoint.keep)
        state, position = first_state(cfg, decoder, optimiser, model_dir, abstract, checkpoints)
        if position is not None:
            source.seek(position)
        total_steps = cfg.steps or int(state.step) + source.count_steps()
        differentiate, add, update = jit_step(
            cfg, decoder, optimiser, abstract, learning_rate(cfg.optim, total_steps)
        )
    run = Run(
        config=cfg,
        workdir=workdir,
        chat=chat,
        dataset=dataset,
        source=source,
        model_config=model_config,
        decoder=decoder,
        mesh=mesh,
        total_steps=total_steps,
        differentiate=differentiate,
        add=add,
        update=update,
        checkpoints=checkpoints,
        state=state,
    )
    return run


def abstract_state(
    decoder: Decoder, optimiser: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes, types and shardings of the state, before any array exists."""
    shapes = jax.eval_shape(lambda: new_state(decoder.fresh_params(0), optimiser))
    return sharding.with_layout(shapes, mesh)


def new_state(params: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """A state that has not made a step yet."""
    zero = jnp.zeros((), jnp.int32)
    counters = Counters(zero, zero, zero, zero)
    return TrainState(zero, params, optimiser.init(params), counters)


def first_state(
    cfg: ConfigDict,
    decoder: Decoder,
    optimiser: optax.GradientTransformation,
    model_dir: Path,
    abstract: TrainState,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[TrainState, dict[str, Any] | None]:
    """The state to begin with and, where a run is resumed, its data position."""
    if (step := checkpoints.latest()) is not None:
        log.info("resuming from step %d", step)
        return checkpoints.restore(step, abstract)
    layout = sharding.layout_of(abstract)
    if cfg.start_from:
        log.info("starting from the parameters of %s", cfg.start_from)
        params = checkpoint.restore_params(cfg.start_from, abstract.params)
    elif cfg.model.init == "pretrained":
        log.info("loading %s", model_dir)
        params = hf.load_params(model_dir, decoder.config, decoder.param_dtype, layout.params)
    else:
        log.info("random initialisation")
        params = jax.jit(decoder.fresh_params, out_shardings=layout.params)(cfg.seed)
    make = functools.partial(new_state, optimiser=optimiser)
    return jax.jit(make, out_shardings=layout, donate_argnums=0)(params), None


# -------------------------------------------------------------------------------------- step


def differentiate(
    params: Any,
    batch: Batch,
    *,
    decoder: Decoder,
    forward: Callable[..., dict[str, scoring.Source]],
    objective: Objective,
) -> Any:
    """The sums of one micro-batch: gradients (float32) of the loss's total, and the metrics'."""

    def total(params: Any) -> tuple[jax.Array, dict[str, Sum]]:
        sources = forward(decoder, with_wide_ends(params), batch)
        quantities = scoring.score(sources, batch.replies.target_BxR, objective.want)
        loss, metrics = objective.loss(quantities, batch.replies)
        return loss.total, {"loss": loss, **metrics}

    gradients, metrics = jax.grad(total, has_aux=True)(params)
    return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), metrics


def add(sums: Any, more: Any) -> Any:
    """The sums of several micro-batches."""
    return jax.tree.map(jnp.add, sums, more)


def update(
    state: TrainState,
    sums: Any,
    *,
    optimiser: optax.GradientTransformation,
    lr: Callable[[jax.Array], jax.Array],
    clip_norm: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step on the mean over interactions; skipped where that is not finite."""
    gradients, metrics = sums
    loss, counted = metrics["loss"], metrics["signal_mean"].count
    share = 1 / jnp.maximum(loss.count, 1)
    norm = optax.tree.norm(gradients) * share
    good = jnp.isfinite(norm) & jnp.isfinite(loss.total)
    rate, factor = lr(state.step), share * clip_factor(norm, clip_norm)

    def move(params: Any, opt_state: Any) -> tuple[Any, Any]:
        scaled = jax.tree.map(lambda g: g * factor, gradients)
        updates, opt_state = optimiser.update(scaled, opt_state, params)
        params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), params, updates)
        return params, opt_state

    def stay(params: Any, opt_state: Any) -> tuple[Any, Any]:
        return params, opt_state

    # Two branches rather than a choice between values, which would need both states at a time.
    params, opt_state = jax.lax.cond(good, move, stay, state.params, state.opt_state)
    bad = (~good).astype(jnp.int32)
    c = state.counters
    counters = Counters(
        interactions=c.interactions + loss.count.astype(jnp.int32),
        reply_tokens=c.reply_tokens + counted.astype(jnp.int32),
        bad_steps=c.bad_steps + bad,
        bad_steps_in_row=(c.bad_steps_in_row + 1) * bad,
    )
    state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        counters=counters,
    )
    means = {name: total.mean() for name, total in metrics.items()}
    shown = {
        "loss": means.pop("loss"),
        **means,
        "grad_norm": norm,
        "lr": rate,
        "bad_steps_in_row": counters.bad_steps_in_row,
    }
    return state, shown


def jit_step(
    cfg: ConfigDict,
    decoder: Decoder,
    optimiser: optax.GradientTransformation,
    abstract: TrainState,
    lr: Callable[[jax.Array], jax.Array],
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """(differentiate, add, update), jitted: the sums of a micro-batch, of two, and a step by them.

    Micro-batches per step vary freely; only another shape of rows compiles anew.
    """
    objective = OBJECTIVES[cfg.objective.name]
    layout = sharding.layout_of(abstract)
    scalar = layout.step
    names = ("loss", *objective.metrics)
    sums_layout = (layout.params, {name: Sum(scalar, scalar) for name in names})
    one = functools.partial(
        differentiate, decoder=decoder, forward=scoring.FORWARD[cfg.sharing], objective=objective
    )
    move = functools.partial(update, optimiser=optimiser, lr=lr, clip_norm=cfg.optim.clip_norm)
    return (
        jax.jit(one, out_shardings=sums_layout),
        jax.jit(add, out_shardings=sums_layout, donate_argnums=0),
        jax.jit(move, out_shardings=(layout, scalar), donate_argnums=0),
    )


# -------------------------------------------------------------------------------------- loop


def loop(run: Run) -> None:
    """Train until the end of the run. The log shows step n - 1 while the device works on step n.

    Raises RunStopped after `max_bad_steps` steps in a row without a finite loss and gradient, and
    on SIGINT or SIGTERM, then with a checkpoint of the last step.
    """
    cfg, first = run.config, int(run.state.step)
    saved = run.checkpoints.latest()
    with (
        sharding.on(run.mesh),
        StopSignal() as stop,
        Journal(run.workdir, first, run.total_steps) as journal,
    ):
        for step in range(first + 1, run.total_steps + 1):
            batch = run.source.next(run.state.params, step)
            sums = None
            for micro in batch.micro:
                rows = sharding.place_rows(micro, run.mesh)
                found = run.differentiate(run.state.params, rows)
                sums = found if sums is None else run.add(sums, found)
            run.state, shown = run.update(run.state, sums)
            journal.add(step, shown, batch)
            due = step % cfg.checkpoint.every == 0 or step == run.total_steps or stop.asked
            if due:
                journal.flush()  # the log must not lag behind what a resumed run takes for done
            if journal.bad_steps_in_row >= cfg.max_bad_steps:
                run.checkpoints.wait()
                raise RunStopped(
                    f"step {step}: loss or gradient was not finite {journal.bad_steps_in_row} "
                    f"steps in a row (max_bad_steps). The parameters are those before; look at "
                    f"{journal.file}, and try a smaller optim.lr or optim.clip_norm."
                )
            if due:
                run.checkpoints.save(step, run.state, run.source.position())
                saved = step
            if stop.asked:
                run.checkpoints.wait()
                raise RunStopped(
                    f"stopped by {stop.asked} after step {saved} of {run.total_steps}; a "
                    "checkpoint is saved, the same command goes on from it."
                )
    run.checkpoints.wait()


# ------------------------------------------------------------------------------------ finish


def finish(run: Run) -> list[str]:
    """Write `export/`, a Hugging Face directory; the lines of the run's summary."""
    cfg = run.config
    files = run.workdir / "model"
    raw, _ = hf.load_config(files)
    hf.export(
        run.state.params,
        run.model_config,
        raw,
        run.workdir / "export",
        dtype=cfg.export.dtype,
        source_dir=files,
        tokenizer_dir=files,
        eos_ids=[run.chat.eos_id],
    )
    run.checkpoints.close()
    counters = run.state.counters
    lines = [
        f"{int(run.state.step):,} steps, {int(counters.interactions):,} interactions, "
        f"{int(counters.reply_tokens):,} counted reply tokens"
    ]
    if int(counters.bad_steps):
        lines.append(f"{int(counters.bad_steps):,} steps skipped: loss or gradient not finite")
    lost = dict(sorted((run.dataset.read.lost + run.dataset.counts).items()))
    lines += [f"{count:,} {reason}" for reason, count in lost.items()]
    lines.append(f"model: {run.workdir / 'export'}")
    return lines
