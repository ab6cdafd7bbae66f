"""The look of the pages: colours of the light and the dark scheme, and the style sheet.

Pictures are drawn in the light colours; within a page each of these is replaced by its variable.
"""

from __future__ import annotations

from collections.abc import Mapping

from interact_jax.report.colour import DARK, LEVELS, LIGHT, Theme, css_name, shade

# Text has a contrast of at least 4.5:1 on page and panel, in both schemes (WCAG AA).
LIGHT_COLOURS = {
    "page": LIGHT.page,
    "panel": "#f4f6f8",
    "ink": "#1f2328",
    "soft": "#57606a",
    "line": "#d0d7de",
    "ended": "#e4e8ec",
    "link": "#0a58b8",
    "first": "#9a4600",
    "second": "#0b6e7d",
    "pale": "#a5adb8",
    "alarm": "#b3261e",
}
DARK_COLOURS = {
    "page": DARK.page,
    "panel": "#1d2229",
    "ink": "#e6e8eb",
    "soft": "#a0a9b4",
    "line": "#39414c",
    "ended": "#2a3039",
    "link": "#82b7ff",
    "first": "#f0a560",
    "second": "#5cc8d7",
    "pale": "#66707d",
    "alarm": "#ff8a80",
}

STEPS = [step for step in range(-LEVELS, LEVELS + 1) if step]


def _variables(colours: Mapping[str, str], theme: Theme) -> dict[str, str]:
    return {**colours, **{css_name(step): shade(step, theme) for step in STEPS}}


LIGHT_VARIABLES = {hexes: name for name, hexes in _variables(LIGHT_COLOURS, LIGHT).items()}
"""The names of the light colours, by the colour."""


def _declare(colours: Mapping[str, str], theme: Theme) -> str:
    return ";".join(f"--{name}:{value}" for name, value in _variables(colours, theme).items())


COLOUR_SCHEMES = f"""
:root {{ color-scheme: light dark; {_declare(LIGHT_COLOURS, LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_declare(DARK_COLOURS, DARK)} }} }}
"""
PICTURE_STYLE = f"""{COLOUR_SCHEMES}
svg {{ background: var(--page) }}
text {{ font-family: system-ui, sans-serif !important }}
"""
"""Of a picture that is a file of its own."""

STYLE = f"""{COLOUR_SCHEMES}
{"".join(f".{css_name(s)}{{background:var(--{css_name(s)})}}" for s in STEPS)}
* {{ box-sizing: border-box }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 0; color: var(--ink);
  background: var(--page) }}
nav, main {{ max-width: 72rem; margin: 0 auto; padding: 0 1rem }}
main {{ padding-bottom: 4rem }}
nav {{ display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding-top: 1rem }}
a {{ color: var(--link) }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 1.2rem 0 .6rem; overflow-wrap: anywhere }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .6rem }}
h3 {{ font-size: 1rem; margin: 0; display: inline; overflow-wrap: anywhere }}
p {{ max-width: 46rem; margin: .6rem 0 }}
.note, figcaption, .label, .soft {{ color: var(--soft); font-size: .875rem }}
:focus-visible {{ outline: 2px solid var(--link); outline-offset: 2px }}
summary {{ cursor: pointer; color: var(--link) }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem 1.5rem .25rem 0;
  border-bottom: 1px solid var(--line) }}
td {{ overflow-wrap: anywhere }}
th {{ font-weight: 400; color: var(--soft) }}
thead th {{ font-size: .875rem }}
.scroll + .scroll {{ margin-top: 1rem }}
.scroll + details {{ margin-top: .6rem }}
table.values td {{ overflow-wrap: break-word }}
table.numbers td, table.numbers thead th + th {{ text-align: right }}
table.numbers td {{ white-space: nowrap }}
table.numbers thead th {{ vertical-align: bottom }}
table.numbers td:last-child, table.numbers th:last-child {{ padding-right: 0 }}
table.numbers tr > th:first-child {{ position: sticky; left: 0; background: var(--page) }}
table.settings {{ font-size: .875rem }}
table.settings th {{ white-space: nowrap }}
table.settings td {{ min-width: 8rem }}
table.settings td:last-child {{ min-width: 12rem }}
.set {{ display: inline-block; margin-right: 1rem }}
figure {{ margin: 1rem 0 }}
figure > svg {{ display: block; width: 100%; max-width: 36rem; height: auto }}
svg text {{ font-family: system-ui, sans-serif !important }}
figcaption {{ max-width: 46rem }}
.figures table.numbers {{ width: 100% }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 0 2rem }}
.map .scroll {{ display: grid; grid-template-columns: min-content 1fr; gap: .5rem;
  padding-top: .4rem }}
.ids {{ position: sticky; left: 0; z-index: 1; background: var(--page); font-size: .7rem;
  line-height: 14px }}
.ids > a, .ids > span {{ position: absolute; right: 0; max-width: 100%; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; color: var(--soft) }}
.cells img {{ display: block; width: 100%; image-rendering: pixelated; background: var(--ended) }}
.axis {{ position: relative; height: 1.3rem; font-size: .75rem; color: var(--soft) }}
.axis span {{ position: absolute; transform: translateX(-50%) }}
.legend {{ font-size: .75rem }}
.legend span {{ display: inline-block; min-width: 2.1rem; padding: 0 .1rem; text-align: center;
  font-size: .75rem }}
.pair {{ border: 1px solid var(--line); border-radius: 8px; margin: .6rem 0; overflow: clip }}
.pair > summary, .pair > header {{ background: var(--panel); padding: .35rem .8rem;
  color: var(--ink) }}
.pair h2 {{ display: inline; font-size: .9rem; margin: 0 }}
.pair h3 {{ font-weight: 600; font-size: .9rem }}
.turns {{ display: grid; grid-template-columns: 3fr 2fr; gap: .7rem 1.2rem; padding: .7rem .8rem;
  scroll-margin-top: 4rem }}
.turns.halves {{ grid-template-columns: 1fr 1fr }}
.turns > section {{ min-width: 0 }}
.wide {{ grid-column: 1 / -1 }}
.earlier section {{ margin: .5rem 0; padding-left: .8rem; border-left: 1px solid var(--line) }}
.follow {{ border-left: 3px solid var(--line); padding-left: .8rem }}
.label {{ display: block }}
.said {{ white-space: pre-wrap; overflow-wrap: anywhere }}
.said summary {{ font-size: .875rem }}
.odd {{ border: 1px solid var(--alarm); border-radius: 3px; color: var(--alarm); font-size: .8em;
  padding: 0 .15em; unicode-bidi: isolate }}
.t {{ border-radius: 3px; padding: .1rem 0 }}
.t:hover, .t:focus {{ outline: 2px solid var(--ink); outline-offset: 0 }}
.t:hover::after, .t:focus::after {{ content: attr(data-n); position: fixed; z-index: 2;
  left: 1rem; right: 1rem; bottom: 1rem; margin: auto; width: fit-content; padding: .4rem .9rem;
  border-radius: 6px; color: var(--page); background: var(--ink); white-space: pre-wrap;
  font-variant-numeric: tabular-nums; direction: ltr }}
@media (max-width: 45rem) {{
  .turns, .turns.halves {{ grid-template-columns: 1fr }}
  th, td {{ padding-right: .8rem }}
  table.numbers {{ width: 100%; font-size: .875rem }}
}}
@media print {{
  body {{ font-size: 10pt }}
  nav {{ display: none }}
  details::details-content {{ content-visibility: visible; block-size: auto }}
  .pair, figure {{ break-inside: avoid }}
  .t, .legend span, .cells img {{ print-color-adjust: exact; -webkit-print-color-adjust: exact }}
}}
"""
