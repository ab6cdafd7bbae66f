"""The main path: from conversations to a better model, in the order it happens.

    run = start(config, workdir)       model, method, data; resumed where the run was before
    loop(run)                          steps until the end
    finish(run)                        summary and export

One step: the micro-batches of a batch are scored by all the models that the method uses, and
differentiated, one after the other (`differentiate`); their sum, divided by the weight of the
examples, updates the policy, and the other models follow their rules (`update`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.stages import Wrapped
from ml_collections import ConfigDict

from interact_jax import (
    best,
    card,
    checkpoint,
    config,
    evaluation,
    guard,
    loggers,
    memory,
    resuming,
    scoring,
    sharding,
    skipping,
)
from interact_jax.cluster import processes
from interact_jax.cluster.votes import Votes
from interact_jax.data.dataset import Dataset
from interact_jax.data.pipeline import BatchSource, StepBatch
from interact_jax.ends import Deferred
from interact_jax.feeds import Feed, check_files, has_record, open_feed
from interact_jax.held_out import HeldOut
from interact_jax.methods import Method, method_of
from interact_jax.metrics import Journal
from interact_jax.models import hf
from interact_jax.models.decoder import Decoder, with_wide_ends
from interact_jax.objectives import counts_in
from interact_jax.online.engines import check_engine
from interact_jax.opening import OpenedModel, open_for
from interact_jax.optim import clip_factor, learning_rate, make_optimiser
from interact_jax.printable import count
from interact_jax.run_state import Counters, Model, TrainState, abstract_state, new_state
from interact_jax.schema import Batch, RunStopped, Sum
from interact_jax.stage import Stage
from interact_jax.store import Place
from interact_jax.teachers import POLICY, Rule

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Run:
    """Everything a run works with. Only `state`, `kept` and the position of `source` change."""

    config: ConfigDict
    workdir: Path  # of what is written line by line, or is small
    home: Place  # of checkpoints, and of the export: the same, or in a bucket
    model: OpenedModel
    method: Method
    dataset: Dataset | None  # None: the conversations are not there yet
    source: BatchSource
    total_steps: int
    differentiate: Callable[..., Any]
    add: Callable[..., Any]
    update: Callable[..., Any]
    skim: skipping.Skimmer | None  # None: nothing is skipped
    held_out: HeldOut | None  # None: nothing is measured on other conversations
    checkpoints: checkpoint.Checkpoints
    state: TrainState
    kept: dict[str, Any]  # what is saved with every checkpoint


# ------------------------------------------------------------------------------------- start


def start(cfg: ConfigDict, stage: str | Path | Stage) -> Run:
    """Set everything up. `stage` is the run's directory, or the small files of one elsewhere. The
    state comes from, in this order: the run's newest checkpoint; `start_from`; the Hugging Face
    weights of `model.path`; random initialisation.

    Raises InputError for everything that the user can fix; a run that is refused stays unchanged.
    """
    if not isinstance(stage, Stage):
        stage = Stage(Path(stage), Path(stage))
    workdir, home = stage.folder, stage.home
    workdir.mkdir(parents=True, exist_ok=True)
    hf.check_place(home / "export")
    if home != workdir:
        check_engine(cfg.online.engine)
    loggers.check_installed(cfg.loggers)
    method, mesh = method_of(cfg), sharding.make_mesh(**cfg.mesh)
    checkpoints = checkpoint.Checkpoints(home, cfg.checkpoint, method.fixed, stage.push)
    # As process 0 sees it: on a network's file system others may see an older list.
    resumed = processes.by_first("resumed", lambda: checkpoints.latest() is not None)
    recorded = has_record(cfg, workdir)
    if resumed or recorded:
        config.check_resume(cfg, workdir / "config.json")

    check_files(cfg)
    model = open_for(cfg, mesh, workdir if resumed else None)
    log.info("%s; attention=%s", sharding.describe(mesh), model.decoder.attention)

    kept = checkpoints.kept() if resumed else {}
    feed = open_feed(cfg, model, method, workdir, kept)
    if feed.held_out is None and not resumed:
        best.check(cfg, None)  # before anything is compiled

    optimiser = make_optimiser(cfg.optim)
    with sharding.on(mesh):
        abstract = abstract_state(model.decoder, optimiser, mesh, method.rules)
        differentiate, add = jit_gradients(cfg, model.decoder, abstract)
        check_same_program(differentiate, abstract, feed, mesh)
        overlapping = check_memory(differentiate, abstract, feed, mesh, method)
        state, saved = initial_state(cfg, model, optimiser, method, abstract, checkpoints)
        source = feed.open(state.params, saved)
        total_steps = cfg.steps or int(state.step) + source.steps_left()
        update = jit_update(cfg, optimiser, abstract, learning_rate(cfg.optim, total_steps))
        skim = skipping.skimmer_for(cfg, method, model.decoder, mesh)
    kept = {**saved, "circumstances": resuming.circumstances(model), "steps": total_steps}
    for line in resuming.differences(saved, kept, cfg.optim, int(state.step)):
        log.warning("%s", line)

    if processes.is_first():
        if not resumed:
            checkpoint.keep_model_files(model.files, model.raw, model.tokenizer_files, workdir)
        config.write(cfg, workdir / "config.json")
    checkpoints.begin(overlapping)
    return Run(
        config=cfg,
        workdir=workdir,
        home=home,
        model=model,
        method=method,
        dataset=feed.dataset,
        source=source,
        total_steps=total_steps,
        differentiate=differentiate,
        add=add,
        update=update,
        skim=skim,
        held_out=feed.held_out,
        checkpoints=checkpoints,
        state=state,
        kept=kept,
    )


def check_memory(
    differentiate: Wrapped,
    abstract: TrainState,
    feed: Feed,
    mesh: jax.sharding.Mesh,
    method: Method,
) -> bool:
    """`memory.check_run`, for all processes: the least of what each has room for. Raises
    memory.DoesNotFit in all of them."""
    does_not_fit, overlapping = "", False
    try:
        overlapping = memory.check_run(
            differentiate, abstract, feed.packing, feed.trees, mesh, method.fixed, feed.copies
        )
    except memory.DoesNotFit as error:
        does_not_fit = str(error)
    own = json.dumps([does_not_fit, overlapping])
    found = [json.loads(each) for each in processes.exchange("room", own, processes.LONG_SECONDS)]
    if errors := [error for error, _ in found if error]:
        raise memory.DoesNotFit(does_not_fit or errors[0])
    return all(overlaps for _, overlaps in found)


def check_same_program(
    differentiate: Wrapped, abstract: TrainState, feed: Feed, mesh: jax.sharding.Mesh
) -> None:
    """Check that all processes are about to compile the same program: where they do not, they wait
    for one another without end. Raises RunStopped, which names those that differ."""
    if jax.process_count() > 1:
        batch = memory.abstract_batch(feed.packing.largest(feed.trees), mesh)
        text = differentiate.lower(abstract.all_params(), batch).as_text()
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        processes.agree("the program of a step", digest)


def initial_state(
    cfg: ConfigDict,
    model: OpenedModel,
    optimiser: optax.GradientTransformation,
    method: Method,
    abstract: TrainState,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """The initial state and, where a run is resumed, what its checkpoint has besides it."""
    if checkpoints.latest() is not None:
        return checkpoints.restore(abstract)
    layout = sharding.layout_of(abstract)
    if cfg.start_from:
        log.info("starting from the parameters of %s", cfg.start_from)
        params = checkpoint.restore_params(cfg.start_from, abstract.params)
    elif cfg.model.init == "pretrained":
        log.info("loading %s", model.files)
        params = model.load()
    else:
        log.info("random initialisation")
        params = model.fresh(cfg.seed)
    make = functools.partial(new_state, optimiser=optimiser, rules=method.rules)
    state = jax.jit(make, out_shardings=layout, donate_argnums=0)(params)
    checkpoints.keep_fixed(state)
    return state, {}


# -------------------------------------------------------------------------------------- step


def differentiate(
    models: Mapping[str, Any],
    batch: Batch,
    *,
    decoder: Decoder,
    forward: Callable[..., scoring.Hiddens],
    method: Method,
) -> Any:
    """The sums of one micro-batch: gradients (float32) of the loss's total with respect to the
    policy, metrics, and counts. `models` has the parameters of all models, by name."""

    def total(policy: Any) -> tuple[jax.Array, dict[str, Sum]]:
        wide = {**models, POLICY: with_wide_ends(policy)}
        seen = scoring.look(forward, decoder, wide, batch, method.sources, POLICY)
        quantities = method.quantities(seen, batch.replies)
        loss, metrics = method.loss(quantities, batch.replies)
        return loss.total, {"loss": loss, **metrics}

    gradients, metrics = jax.grad(total, has_aux=True)(models[POLICY])
    gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
    return gradients, metrics, counts_in(batch.replies)


def add(sums: Any, more: Any) -> Any:
    """Add the sums of two micro-batches."""
    return jax.tree.map(jnp.add, sums, more)


def update(
    state: TrainState,
    sums: Any,
    *,
    optimiser: optax.GradientTransformation,
    lr: Callable[[jax.Array], jax.Array],
    clip_norm: float,
    rules: Mapping[str, Rule],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step on the mean over examples; skipped if that is not finite."""
    gradients, metrics, counted = sums
    loss = metrics["loss"]
    share = 1 / jnp.maximum(loss.count, jnp.finfo(jnp.float32).tiny)
    norm = optax.tree.norm(gradients) * share
    good = jnp.isfinite(norm) & jnp.isfinite(loss.total)
    rate, factor = lr(state.step), share * clip_factor(norm, clip_norm)

    def move(models: dict[str, Model]) -> dict[str, Model]:
        params, opt_state = models[POLICY].params, models[POLICY].opt_state
        scaled = jax.tree.map(lambda g: g * factor, gradients)
        updates, opt_state = optimiser.update(scaled, opt_state, params)
        params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), params, updates)
        moved = models | {POLICY: Model(params, opt_state)}
        for name, rule in rules.items():
            if rule.move is not None:
                next_params = rule.move(models[name].params, params, state.step + 1)
                moved[name] = Model(next_params)
        return moved

    # Two branches rather than a selection of values, which would need both states at once.
    models = jax.lax.cond(good, move, lambda models: models, state.models)
    bad = (~good).astype(jnp.int32)
    c = state.counters
    counters = Counters(
        interactions=c.interactions + counted["interactions"],
        reply_tokens=c.reply_tokens + counted["reply_tokens"],
        bad_steps=c.bad_steps + bad,
        bad_steps_in_row=(c.bad_steps_in_row + 1) * bad,
    )
    means = {name: total.mean() for name, total in metrics.items()}
    shown = {
        "loss": means.pop("loss"),
        **means,
        "grad_norm": norm,
        "lr": rate,
        "bad_steps_in_row": counters.bad_steps_in_row,
    }
    return TrainState(state.step + 1, models, counters), shown


def jit_gradients(
    cfg: ConfigDict, decoder: Decoder, abstract: TrainState
) -> tuple[Wrapped, Wrapped]:
    """(differentiate, add), jitted: the sums of a micro-batch, and their addition.

    The number of micro-batches per step may vary; only a new shape of rows is compiled again.
    """
    method, layout = method_of(cfg), sharding.layout_of(abstract)
    scalar = layout.step
    names = ("loss", *method.metrics)
    counted = {"interactions": scalar, "reply_tokens": scalar}
    sums_layout = (layout.params, {name: Sum(scalar, scalar) for name in names}, counted)
    gradient_sums = functools.partial(
        differentiate, decoder=decoder, forward=scoring.FORWARD[cfg.sharing], method=method
    )
    return (
        jax.jit(gradient_sums, out_shardings=sums_layout),
        jax.jit(add, out_shardings=sums_layout, donate_argnums=0),
    )


def jit_update(
    cfg: ConfigDict,
    optimiser: optax.GradientTransformation,
    abstract: TrainState,
    lr: Callable[[jax.Array], jax.Array],
) -> Wrapped:
    """`update`, jitted: a step from the sums of its micro-batches."""
    layout, rules = sharding.layout_of(abstract), method_of(cfg).rules
    move = functools.partial(
        update, optimiser=optimiser, lr=lr, clip_norm=cfg.optim.clip_norm, rules=rules
    )
    return jax.jit(move, out_shardings=(layout, layout.step), donate_argnums=0)


# -------------------------------------------------------------------------------------- loop


def loop(run: Run) -> None:
    """Train until the end of the run. The log shows step n - 1 while the device works on step n.

    Raises RunStopped after `max_bad_steps` steps in a row without a finite loss and gradient, and
    on a signal to end the program, after saving a checkpoint of the last step.
    """
    cfg, first, last = run.config, int(run.state.step), run.total_steps
    writes, votes, stopping = processes.is_first(), Votes(run.model.mesh), False
    chosen = cfg.loggers if writes else ""
    curves = loggers.Loggers(chosen, run.workdir, first, config.to_json(cfg))
    with (
        sharding.on(run.model.mesh),
        Deferred() as stop,
        Journal(
            *(run.workdir, first, last, run.method.shown, run.kept.get("log")), curves, writes
        ) as journal,
        run.checkpoints.flushing(),
    ):
        for step in range(first + 1, last + 1):
            sums, batch = compute_sums(run, run.source.next(run.state))
            run.state, shown = run.update(run.state, sums)
            del sums  # before a checkpoint's copy of the state needs the memory
            stopping = votes.cast(bool(stop.asked))  # once: a signal may come between any two lines
            due = step % cfg.checkpoint.every == 0 or step == last or stopping
            with journal.paused():
                measured = evaluation.measure_step(run, step, step == last)
            journal.add(step, shown, batch, measured)
            collapse = evaluation.warn_of_collapse(run, measured)
            better = best.note(run.kept, cfg, step, measured)
            due = due or bool(collapse) or better
            if due:
                journal.flush()  # the log must include every step that the checkpoint includes
            if journal.bad_steps_in_row >= cfg.max_bad_steps:
                raise RunStopped(
                    f"step {step}: loss or gradient was not finite {journal.bad_steps_in_row} "
                    "steps in a row (max_bad_steps). The parameters are those before; look at "
                    f"{run.home / journal.file.name}, and try a smaller optim.lr or "
                    "optim.clip_norm."
                )
            if due:
                run.kept |= {"position": run.source.position(), "log": journal.digest()}
                run.checkpoints.save(step, run.state, run.kept, best.protected_steps(run.kept))
            if collapse:
                raise RunStopped(
                    f"step {step}: {collapse} A checkpoint is saved. To go on from it, give the "
                    f"same command with --config.evaluation.guard=warn. {guard.ADVICE}"
                )
            if stopping:
                break
    # Somebody may have been asked behind the last vote.
    if any(processes.exchange("stopped", stop.asked)):
        processes.leave()
        raise RunStopped(
            f"by {stop.asked or 'another process'} after step {int(run.state.step)} of {last}. A "
            "checkpoint is saved; the same command resumes from it.",
            stop.status or 128 + signal.SIGTERM,
        )


def compute_sums(run: Run, batch: StepBatch) -> tuple[Any, StepBatch]:
    """Compute the sums of a step by micro-batch; also returns the batch as differentiated."""
    models, full_sums = run.state.all_params(), None
    sums: Any = None
    if run.skim is not None:
        batch, full_sums = run.skim(models, batch)
    for micro in batch.micro:
        placed = sharding.place_rows(micro, run.model.mesh, batch.held)
        more = run.differentiate(models, placed)
        sums = more if sums is None else run.add(sums, more)
    gradients, *own_sums = sums
    return (gradients, *(full_sums or own_sums)), batch


# ------------------------------------------------------------------------------------ finish


def finish(run: Run) -> list[str]:
    """Write `export/`, a Hugging Face directory of the last step, or of the best one; returns the
    lines of the run's summary."""
    numbers, bad = totals(run), int(run.state.counters.bad_steps)
    lines = [
        f"{count(int(run.state.step), 'step')}, {count(numbers['interactions'], 'interaction')}, "
        f"{count(numbers['reply_tokens'], 'counted reply token')}"
    ]
    if bad:
        lines.append(f"{count(bad, 'step')} skipped: loss or gradient not finite")
    run.checkpoints.close()
    run.state, best_lines = best.restore(run.state, run.kept, run.config, run.home)
    files = run.workdir / "model"  # the run's own, since the original may be gone by now
    model = dataclasses.replace(run.model, files=files, tokenizer_files=files)
    model.export(run.state.params, run.home / "export", run.config.export.dtype)
    if processes.is_first():
        card.write(run.workdir, run.home / "export", int(run.state.step))
    return [*lines, *best_lines, *run.source.summary(), f"model: {run.home / 'export'}"]


def totals(run: Run) -> dict[str, int]:
    """Interactions and counted reply tokens of the run so far, even beyond 32 bits: the state has
    their last 32 bits, and the source's own counts are near enough to determine the rest."""
    counters = run.state.counters
    return {
        name: estimate + (int(getattr(counters, name)) - estimate + 2**31) % 2**32 - 2**31
        for name, estimate in run.source.totals().items()
    }
