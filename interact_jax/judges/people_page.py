"""The page of blind pairs as one HTML file: texts, style and script in it, nothing from elsewhere.

The texts are data of the page (JSON) that its script writes as text, never as markup; a policy
lets the browser run that one script and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interact_jax.report.style import STYLE

HERE = Path(__file__).parent
BODY = """<main>
<h1>Which answer is better?</h1>
<p id="persona" hidden></p>
<p class="note">Two answers to the same request, in random order. Choose with the buttons, or with
the keys 1, 0 and 2; ← and → move between pairs. Your answers stay in this browser until you save
them as a file, which you hand to whoever gave you this page.</p>
<p id="progress" class="progress" role="status"></p>
<article class="pair" id="pair" tabindex="-1" aria-labelledby="progress">
<div class="turns halves">
<div id="prompt" class="wide"></div>
<section><span class="label">first answer (1)</span>
<div class="said" dir="auto" id="first"></div></section>
<section><span class="label">second answer (2)</span>
<div class="said" dir="auto" id="second"></div></section>
</div>
</article>
<div class="choices" role="group" aria-label="Which answer is better?">
<button type="button" data-choice="first">First <kbd>1</kbd></button>
<button type="button" data-choice="neither">Neither <kbd>0</kbd></button>
<button type="button" data-choice="second">Second <kbd>2</kbd></button>
</div>
<div class="moves">
<button type="button" id="back">← Back</button>
<button type="button" id="next">Next →</button>
<button type="button" id="open">Next unanswered</button>
</div>
<p class="saving"><label>Your name (optional): <input id="name" autocomplete="off" maxlength="60">
</label> <button type="button" id="save">Save answers</button>
<button type="button" id="anew">Start over</button></p>
<p id="kept" class="note" role="status"></p>
</main>
<noscript><p>This page needs JavaScript; all of it is in this file.</p></noscript>"""


def render(data: Mapping[str, Any]) -> str:
    """The page. `data` has `format`, `page` (its id), `persona`, and `pairs`: `prompt` (pairs of
    role and text), `first`, `second`."""
    script = (HERE / "people_page.js").read_text(encoding="utf-8")
    style = STYLE + (HERE / "people_page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # A script element ends at the first "</script", and a comment in it at "-->": no text has "<".
    texts = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Which answer is better?</title><style>{style}</style></head>\n"
        f"<body>\n{BODY}\n"
        f'<script type="application/json" id="data">{texts}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )
