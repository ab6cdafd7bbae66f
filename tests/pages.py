"""Pages of a report as a reader finds them, and what they are made from."""

import json
from html.parser import HTMLParser

import numpy as np

from interact_jax import config, report
from interact_jax.schema import Interaction, Message
from interact_jax.signal import Scored

VOID = {"meta", "img", "source", "br", "input"}


class Page(HTMLParser):
    """What a reader finds: elements with their attributes, and the text outside of folds."""

    def __init__(self, file):
        super().__init__()
        self.elements, self.open, self.outside, self.everything = [], [], "", ""
        self.source = file.read_text()
        self.feed(self.source)
        assert not self.open  # every element was closed, in order

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if any(tag == "style" for tag, _ in self.open):
            return
        self.everything += text
        folded = any(tag == "details" and "open" not in a for tag, a in self.open)
        if not folded or any(tag == "summary" for tag, _ in self.open):
            self.outside += text

    def all(self, tag, **wanted):
        return [a for name, a in self.elements if name == tag and wanted.items() <= a.items()]

    def classed(self, name):
        return [a for _, a in self.elements if name in a.get("class", "").split()]


def replies(chat, *texts, seed=0):
    """Scored replies with signals of any sort, and their interactions."""
    rng = np.random.default_rng(seed)
    scored, interactions = [], {}
    for n, text in enumerate(texts):
        ids = np.asarray([*chat.encode(text), chat.eos_id])
        student, teacher = -rng.exponential(size=(2, len(ids)))
        scored.append(Scored(f"c_{n}", ids, student, teacher))
        user, o = Message("user", "hello"), Message("user", "<img src=x> & no")
        interactions[f"c_{n}"] = Interaction(f"c_{n}", (user,), Message("assistant", text), o)
    return scored, interactions


def run_page(folder, lines=(), before=None, after=None, changed=None, **more):
    """The page of a run with these lines in its log."""
    folder.mkdir(exist_ok=True)
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = config.to_json(config.default()) | {"model.path": "M", "data.path": "D.jsonl"}
    settings |= {"batch.interactions": 32} | (changed or {})
    return report.write_run_report(
        folder,
        metrics_file=file,
        shown="signal_abs_mean",
        settings=settings,
        interactions=1234,
        before=before,
        after=after,
        **more,
    )


def step(number, loss=1.0):
    return {"step": number, "loss": loss, "signal_abs_mean": 0.1, "grad_norm": 2.0, "seconds": 30.0}
