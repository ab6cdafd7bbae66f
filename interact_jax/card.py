"""The model card of an export: model, data, settings and results.

    card.write(workdir, workdir / "export", step)

Everything is read from the run's directory. A README.md from elsewhere is not replaced.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

import interact_jax
from interact_jax import config, store
from interact_jax.data import mixture
from interact_jax.data.recipes import HINDSIGHT
from interact_jax.json_files import read_json
from interact_jax.metrics import interactions_until
from interact_jax.objectives import OBJECTIVES
from interact_jax.store import Place

log = logging.getLogger(__name__)

NAME = "README.md"
MARK = (
    "<!-- Written by interact_jax. As long as this line is here, an export replaces the file. -->"
)
PAPER = "[arXiv 2603.12273](https://arxiv.org/abs/2603.12273)"
PATHS = (
    "model.path",
    "model.tokenizer",
    "data.path",
    "data.mapping",
    "start_from",
    "online.prompts",
    "online.user_model",
)  # shown by name, without their location
ALWAYS = (
    *("objective.name", "teacher.name", "optim.name", "optim.lr", "optim.schedule"),
    *("batch.interactions", "batch.conversations", "steps", "epochs", "seed"),
)
SHOWN_ABOVE = ("model.path", "data.path", "data.mixture")  # they have rows of their own


def write(workdir: Path, out: Place | str, step: int, weights: str = "policy") -> None:
    """Write the card of a run's model after `step` steps into its export `out`. Failures are only
    logged: the export is complete without it."""
    place = store.place(out) / NAME
    try:
        if NAME in store.of(out).entries(store.place(out)) and not _is_ours(place):
            log.warning("%s: not written by this package, left as it is", place)
            return
        store.of(out).write(place, text(workdir, step, weights))
    except Exception as error:  # the run's files may be damaged; the model is still exported
        log.error("%s: the model card was not written: %s", place, error)


def update(workdir: Path, out: Place | str, step: int) -> None:
    """Write the card once more, with what was measured since; one from elsewhere is left alone, as
    `write` has said."""
    if _is_ours(store.place(out) / NAME):
        write(workdir, out, step)


def _is_ours(place: Place) -> bool:
    files = store.of(place)
    if not files.is_file(place):
        return False
    with files.open(place) as file:
        return MARK.encode() in file.read()


def text(workdir: Path, step: int, weights: str) -> str:
    """The card. Raises InputError where the run's config.json cannot be read."""
    settings = read_json(workdir / "config.json")
    base, data = _display_name(settings["model.path"]), _data_name(settings)
    facts = {
        "base model": base,
        "data": data,
        "objective, teacher": f"{settings['objective.name']}, {settings['teacher.name']}",
        "steps": f"{step:,}",
        "interactions learned from": _interactions(workdir / "metrics.jsonl", step),
        "weights": "of the trained model" if weights == "policy" else f"of the model {weights!r}",
        "interact_jax": interact_jax.__version__,
    }
    measured = _summary(workdir / "summary.json", step) if weights == "policy" else {}
    before, after = measured.get("before") or {}, measured.get("after") or {}
    measurements = [
        (name, f"{before[name]:.4g}", f"{after[name]:.4g}") for name in after if name in before
    ]
    parts = [
        _front_matter(settings["model.path"]),
        f"# {html.escape(base)}, trained on {html.escape(data)}\n",
        _describe_method(settings),
        _table(("", ""), facts.items()),
    ]
    if measurements:
        parts += ["## Measured\n", _table(("", "before", "after"), measurements)]
    if measured.get("collapse"):
        parts.append(f"**{html.escape(measured['collapse'], quote=False)}**\n")
    parts += [
        "## Settings\n\nThose that differ from the defaults, and the most important ones.\n",
        _table(("setting", "value"), _notable_settings(settings).items()),
        MARK + "\n",
    ]
    return "\n".join(parts)


def _describe_method(settings: Mapping[str, Any]) -> str:
    address, objective = interact_jax.REPOSITORY, settings["objective.name"]
    package = f"[interact_jax]({address})" if address else "interact_jax"
    recipe = settings["data.recipe"]
    if recipe == "auto":
        recipe = OBJECTIVES[objective].recipes[0]
    if recipe != HINDSIGHT:
        return f"A language model that was trained with {package}, by the objective {objective}.\n"
    return (
        f"A language model that was trained on what its users said next, with {package}. The idea "
        f"is that of *Aligning Language Models from User Interactions* ({PAPER}): shown a user's "
        "follow-up in hindsight, the model scores every token of its own reply, and is moved "
        "towards that judgement.\n"
    )


def _front_matter(model: str) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if _is_hub_id(model):
        lines.append(f"base_model: {model}")
    return "\n".join(["---", *lines, "tags:", "- interact_jax", "---", ""])


def _is_hub_id(model: str) -> bool:
    """Whether a path was a hub id: a path that looks like one may also have been a directory that
    no longer exists."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII) or Path(model).is_dir():
        return False
    return isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str)


def _display_name(path: str) -> str:
    """A model or file as the card names it: a hub id, or the last part of a path."""
    return path if _is_hub_id(path) else Path(path).name


def _data_name(settings: Mapping[str, Any]) -> str:
    """The data as the card names them: of a mixture each data set, with its weight."""
    if given := settings.get("data.mixture"):
        names = [f"{_display_name(e.path)} ({float(e.weight):g})" for e in mixture.parse(given)]
        return ", ".join(names)
    return _display_name(config.data_of(settings))


def _interactions(metrics: Path, step: int) -> str:
    (count,) = interactions_until(metrics, [step])
    if count is None:
        log.warning(
            "%s cannot be read, or lacks a step up to %d, so the model card does not say how many "
            "interactions the model has learned from",
            metrics,
            step,
        )
    return "not known" if count is None else f"{count:,}"


def _summary(file: Path, step: int) -> Mapping[str, Any]:
    """The run's summary; nothing if it measured other weights than these."""
    values = read_json(file) if file.is_file() else {}
    return values if values.get("step") == step else {}


def _notable_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of interest to a reader: not where files were, nor how it was computed."""
    known, default = config.settings(), config.to_json(config.default())
    notable = {}
    for name, value in settings.items():
        relevant = name in known and not known[name].free and value != default[name]
        if name not in SHOWN_ABOVE and (relevant or name in ALWAYS):
            notable[name] = str(_display_value(name, value))
    return notable


def _display_value(name: str, value: Any) -> Any:
    if name == "data.weigh":
        file, colon, function = value.rpartition(":")
        return Path(file).name + colon + function
    if name in ("online.users", "online.schedule"):  # with files of personas
        return re.sub(r"[^\s|;:,]*/", "", value)
    if name == "online.user_model" and ":" in value:
        return value.partition("@")[0]
    return _display_name(value) if name in PATHS and value else value


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "&#124;").replace("\n", "<br>")
