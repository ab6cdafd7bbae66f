"""Self-contained HTML pages: pictures inside, nothing loaded from anywhere, no scripts.

The text of conversations comes from strangers, so everything is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from interact_jax import places
from interact_jax.data import thinking
from interact_jax.data.chat import ChatFormat
from interact_jax.metrics import read_log
from interact_jax.report import plots
from interact_jax.report.colour import HIGH, LOW, css
from interact_jax.report.terminal import visible
from interact_jax.schema import Interaction
from interact_jax.signal import Scored

MOST_REPLIES = 64  # shown token by token; the strongest signals first

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
img { max-width: 100%; border-radius: 6px; background: white }
table.figures td { padding: .1rem 1.2rem .1rem 0 }
article { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; overflow: hidden }
article header { background: var(--soft); padding: .3rem .8rem; font-size: .85rem }
.turns { display: grid; grid-template-columns: 3fr 2fr; gap: 0 1rem; padding: .6rem .8rem }
.turns > div { white-space: pre-wrap; overflow-wrap: anywhere }
.user { grid-column: 1 / -1; opacity: .75 }
.label { display: block; font-size: .75rem; opacity: .6 }
.follow { border-left: 3px solid var(--line); padding-left: .8rem }
.t { border-radius: 3px; padding: .05rem 0 }
.legend span { padding: .1rem .5rem }
"""


def write_signal_report(
    folder: Path,
    scored: Sequence[Scored],
    interactions: Mapping[str, Interaction],
    chat: ChatFormat,
    *,
    title: str,
) -> Path:
    """Write `signal.html` and its pictures as PNG into `folder`; the page's path.

    Replies are sorted by mean |signal|, strongest first; the heat map has the same order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(scored, key=lambda s: -float(np.abs(s.signal).mean()))
    signals = [s.signal for s in ordered]
    pictures = {
        "signal_heatmap": plots.heat_map(signals),
        "signal_by_position": plots.by_position(signals),
        "signal_histogram": plots.histogram(signals),
    }
    body = [f"<h1>{escape(title)}</h1>", _figures(signals), _legend()]
    body += [_picture(folder, name, figure) for name, figure in pictures.items()]
    body.append("<h2>Replies, strongest signal first</h2>")
    body += [_reply(s, interactions[s.id], chat) for s in ordered[:MOST_REPLIES]]
    if len(ordered) > MOST_REPLIES:
        body.append(f"<p>{len(ordered) - MOST_REPLIES:,} more replies are not shown.</p>")
    return _write(folder / "signal.html", title, body)


def write_run_report(
    folder: Path,
    *,
    metrics_file: Path,
    shown: str,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
) -> Path:
    """Write `index.html`: what was measured before and after, and how training went; `shown` is a
    metric beside loss and gradient norm."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_log(metrics_file)
    body = ["<h1>Training run</h1>"]
    if before and after:
        body += [_picture(folder, "before_after", plots.before_after(before, after))]
    if lines:
        body += ["<h2>Training</h2>", _picture(folder, "training", plots.training(lines, shown))]
    if (folder / "signal.html").exists():
        body.append('<p><a href="signal.html">The signal, token by token</a></p>')
    return _write(folder / "index.html", "Training run", body)


def figures(signals: Sequence[np.ndarray]) -> dict[str, float]:
    """The numbers in the header of a signal report."""
    tokens = np.concatenate(signals)
    return {
        "interactions": len(signals),
        "reply tokens": len(tokens),
        "mean signal": float(tokens.mean()),
        "mean |signal|": float(np.abs(tokens).mean()),
        "share of tokens with |signal| > 0.5": float((np.abs(tokens) > 0.5).mean()),
    }


def _figures(signals: Sequence[np.ndarray]) -> str:
    def text(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{text(value)}</td></tr>"
        for name, value in figures(signals).items()
    )
    return f'<table class="figures">{rows}</table>'


def _legend() -> str:
    steps = (LOW, -5, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, HIGH)
    spans = "".join(f'<span style="background:{css(s)}">{s:+g}</span>' for s in steps)
    return (
        f'<p class="legend">{spans} nats: log π(yₜ | x, o) − log π(yₜ | x). Red: shown the '
        "follow-up, the model would rather not have said it; blue: it would all the more.</p>"
    )


def _reply(scored: Scored, interaction: Interaction, chat: ChatFormat) -> str:
    rows = zip(
        chat.pieces(scored.y.tolist()),
        scored.logp_student,
        scored.logp_teacher,
        scored.signal,
        strict=True,
    )
    tokens = "".join(
        f'<span class="t" style="background:{css(float(signal))}" title="{escape(visible(piece))}: '
        f'student {student:.3f}, teacher {teacher:.3f}, signal {signal:+.3f}">'
        f"{escape(piece) or '∅'}</span>"
        for piece, student, teacher, signal in rows
    )
    mean = float(np.abs(scored.signal).mean())
    return (
        f"<article><header>{escape(scored.id)} · mean |signal| {mean:.3f}{_reasoning(scored)}"
        "</header>"
        f'<div class="turns"><div class="user"><span class="label">user</span>'
        f"{escape(interaction.x[-1].content)}</div>"
        f'<div><span class="label">reply</span>{tokens}</div>'
        f'<div class="follow"><span class="label">follow-up</span>'
        f"{escape(interaction.o.content)}</div></div></article>"
    )


def _reasoning(scored: Scored) -> str:
    return f" · {escape(thinking.NOTES[scored.reasoning])}" if scored.reasoning else ""


def _picture(folder: Path, name: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    places.write(folder / f"{name}.png", buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>'


def _write(file: Path, title: str, body: Sequence[str]) -> Path:
    places.write(
        file,
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n",
    )
    return file
