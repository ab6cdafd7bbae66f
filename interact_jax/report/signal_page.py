"""`signal.html`: the signal of hindsight for every token of logged replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from interact_jax import progress
from interact_jax.data import thinking
from interact_jax.data.chat import ChatFormat
from interact_jax.report import html, plots
from interact_jax.report.colour import LIMIT, TICKS, css_name, level
from interact_jax.report.heat import MOST_ROWS, heat_map
from interact_jax.report.measures import NATS
from interact_jax.report.summing import token_mean
from interact_jax.report.terminal import visible
from interact_jax.schema import Interaction
from interact_jax.signal import Scored

MOST_REPLIES = 500  # shown token by token, the strongest signals first
MOST_TOKENS = 40_000  # in total: a page of a few megabytes, which browsers scroll easily
OPEN = 20  # replies that are not folded
HEAD = 160  # tokens of a long reply that are shown before the fold
SPARED = 60  # a rest of at most this many is not folded


@progress.of("writing the report")
def write_signal_report(
    folder: Path,
    scored: Sequence[Scored],
    interactions: Mapping[str, Interaction],
    chat: ChatFormat,
    *,
    title: str,
    of_run: bool = False,
) -> Path:
    """Write `signal.html`, and its pictures as PNG as well, into `folder`; returns the page's path.

    `interactions` are all of the data's. Replies are sorted by mean |signal|, strongest first, here
    and in the heat map. The page of a run (`of_run`) links to the run's page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(scored, key=lambda s: -_strength(s))
    body = [_figures(ordered, len(interactions))]
    if ordered:
        body += [_legend(), *_pictures(folder, ordered), *_replies(ordered, interactions, chat)]
    return html.write_page(folder / html.SIGNAL, title, body, [html.RUN] if of_run else [])


def figures(signals: Sequence[np.ndarray]) -> dict[str, tuple[float, float]]:
    """The figures at the top of the page, each with its standard error over interactions."""
    large = [np.where(np.isfinite(s), np.abs(s) > 0.5, np.nan) for s in signals]
    return {
        "mean signal": token_mean(signals),
        "mean |signal|": token_mean([np.abs(signal) for signal in signals]),
        "share of tokens with |signal| > 0.5": token_mean(large),
    }


def _strength(scored: Scored) -> float:
    """The sort key of replies; those without a finite signal come last."""
    mean, _ = token_mean([np.abs(scored.signal)])
    return mean if np.isfinite(mean) else -1.0


def _figures(scored: Sequence[Scored], total: int) -> str:
    signals = [s.signal for s in scored]
    tokens = sum(map(len, signals))
    rows = [
        ("interactions", f"{len(signals):,} of the {total:,} in the data"),
        ("reply tokens", f"{tokens:,}"),
    ]
    for name, (mean, error) in figures(signals).items() if tokens else ():
        text = f"{mean:.4f}".replace("-", "−") if np.isfinite(mean) else "–"
        rows.append((name, f"{text}\u00a0±\u00a0{error:.4f}" if np.isfinite(error) else text))
    not_finite = sum(int((~np.isfinite(signal)).sum()) for signal in signals)
    if not_finite:
        rows.append(("tokens without a finite signal", f"{not_finite:,}, left out of all means"))
    return html.table(rows, kind="values") + (
        '<p class="note">The signal of a token is log π(yₜ | x, o) − log π(yₜ | x), in nats: how '
        "much likelier the model finds it once it has been shown the user's follow-up o. "
        f"{NATS} ± is one standard error over interactions, because tokens of one reply depend on "
        "one another.</p>"
    )


def _legend() -> str:
    ends = {-LIMIT: "≤ −{:g}", LIMIT: "≥ {:g}"}
    spans = "".join(
        f'<span class="{css_name(level(tick))}">'
        f"{ends[tick].format(LIMIT) if tick in ends else f'{tick:g}'.replace('-', '−')}</span>"
        for tick in TICKS
    )
    return (
        f'<p class="legend">{spans} nats</p>'
        '<p class="note">Red: the follow-up makes the token less likely. Blue: more likely. '
        "Equally strong signals have equally strong colours.</p>"
    )


def _pictures(folder: Path, scored: Sequence[Scored]) -> Iterator[str]:
    signals = [s.signal for s in scored]
    most = scored[:MOST_ROWS]
    figure = plots.heat_map([s.signal for s in most], [s.id for s in most])
    html.save_picture(folder, "signal_heatmap", figure)
    yield "<h2>Every token</h2>"
    yield heat_map(scored, len(_on_page(scored)))
    mean, absolute = (figure_mean for figure_mean, _ in list(figures(signals).values())[:2])
    longest = max(map(len, signals))
    by_position, histogram = plots.by_position(signals), plots.histogram(signals)
    html.save_picture(folder, "signal_by_position", by_position)
    html.save_picture(folder, "signal_histogram", histogram)
    yield '<h2>All tokens together</h2><div class="figures">'
    yield html.inline_figure(
        by_position,
        f"Mean signal and mean |signal| by position in the reply, 0 to {longest - 1}. Over all "
        f"tokens they are {mean:.4f} and {absolute:.4f} nats.",
        "Above: means over the replies that reach a position. Below: how many do. The band is one "
        "standard error; a single reply has none.",
    )
    counts = [int(sum((sign * s > 0.5).sum() for s in signals)) for sign in (-1, 1)]
    yield html.inline_figure(
        histogram,
        f"Histogram of the signal: {counts[0]:,} tokens below −0.5 nats, {counts[1]:,} above 0.5, "
        f"of {sum(map(len, signals)):,}.",
        f"Bars are as wide as steps of colour, counts on a logarithmic scale. What lies beyond "
        f"±{LIMIT:g} nats is counted in the last bar of its side.",
    )
    yield "</div>"


# --------------------------------------------------------------------------------------- replies


def _on_page(ordered: Sequence[Scored]) -> Sequence[Scored]:
    """The replies that are shown token by token: at least the first, however long it is."""
    tokens = np.cumsum([len(s.y) for s in ordered[:MOST_REPLIES]])
    return ordered[: max(1, int((tokens <= MOST_TOKENS).sum()))]


def _replies(
    ordered: Sequence[Scored], interactions: Mapping[str, Interaction], chat: ChatFormat
) -> Iterator[str]:
    on_page = _on_page(ordered)
    yield "<h2>Replies, strongest signal first</h2>"
    yield (
        f'<p class="note">{html.count_shown(len(on_page), len(ordered), "scored replies")} Point '
        "at a token, or focus it, for its log-probabilities.</p>"
    )
    for number, scored in enumerate(on_page, 1):
        yield _reply(number, scored, interactions[scored.id], chat)


def _reply(number: int, scored: Scored, interaction: Interaction, chat: ChatFormat) -> str:
    mean = _strength(scored)
    strength = f"mean |signal| {mean:.3f}" if mean >= 0 else "no finite signal"
    if scored.reasoning:
        strength += f" · {html.escape_text(thinking.NOTES[scored.reasoning])}"
    prompt = interaction.x[-1]
    return (
        f'<details class="pair"{" open" if number <= OPEN else ""}>'
        f"<summary><h3>{number} · {html.escape_text(scored.id)}</h3> "
        f'<span class="soft">{strength}</span></summary>'
        f'<div class="turns" id="reply-{number}">'
        + html.section(prompt.role, html.message(prompt.content), "wide")
        + html.section("reply", _tokens(scored, chat))
        + html.section("follow-up", html.message(interaction.o.content), "follow")
        + "</div></details>"
    )


def _tokens(scored: Scored, chat: ChatFormat) -> str:
    rows = zip(
        chat.pieces(scored.y.tolist()),
        scored.logp_student,
        scored.logp_teacher,
        scored.signal,
        strict=True,
    )
    tokens = [_token(piece, *map(float, numbers)) for piece, *numbers in rows]
    if len(tokens) <= HEAD + SPARED:
        return "".join(tokens)
    rest = tokens[HEAD:]
    return "".join(tokens[:HEAD]) + html.fold(f"{len(rest):,} more tokens", "".join(rest))


def _token(piece: str, student: float, teacher: float, signal: float) -> str:
    colour = css_name(level(signal)) if np.isfinite(signal) else "odd"
    numbers = f"student {student:.3f}  teacher {teacher:.3f}  signal {signal:+.3f}"
    text = html.escape_text(piece).replace("\n", "⏎\n") or "∅"
    return (
        f'<span class="t {colour}" tabindex="0" data-n="{html.escape_attribute(visible(piece))}   '
        f'{numbers}">{text}</span>'
    )
