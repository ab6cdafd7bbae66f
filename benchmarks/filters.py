"""How well the filters of prepared data work, and how fast: the figures of docs/filters.md.

    python benchmarks/filters.py
    python benchmarks/filters.py --data 'logs/*.jsonl' --million

Near duplicates, personal data and languages are planted (`planted.py`), so that it is known what is
to be found. With `--data`, speeds are those on a log; with `--million`, near duplicates are decided
for a million conversations. Where `datafog` is installed, it is measured as well.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import planted
from benchmarks.compare_objectives import markdown
from interact_jax import cli
from interact_jax.arguments import Parser
from interact_jax.data.conversations import read_conversations
from interact_jax.prepare.deciding import Remaining
from interact_jax.prepare.filtering import Survey
from interact_jax.prepare.filters import FILTERS, language, parse_filter
from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.near_duplicates import NearDuplicates
from interact_jax.prepare.filters.personal import Personal
from interact_jax.schema import Conversation

Find = Callable[[str], Iterable[tuple[int, int, str]]]
Row = Sequence[str]
HARMLESS = 2  # sentences without personal data, for each of a kind
LETTERS = (10, 20, 40, 80, 160)  # of texts whose language is told
SPEC = {"model": "model:missing=keep", "time": "time:since=2020-01-01,missing=keep"}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data", default="", help="conversations to measure speeds on; by default they are made up"
    )
    add("--conversations", type=cli.at_least(200), default=10_000, help="among which copies are")
    add("--copies", type=cli.at_least(1), default=200, help="of each kind")
    add("--sentences", type=cli.at_least(1), default=500, help="of each kind and language")
    add("--seed", type=cli.at_least(0), default=1)
    add("--million", action="store_true", help="decide near duplicates of a million conversations")
    args = parser.parse_args(argv)
    given, kinds = planted.with_copies(args.seed, args.conversations, args.copies)
    print_table("Copies found", ("filter", *planted.COPIES, "precision"), copies(given, kinds))
    names = ("found by", "kind", *planted.LANGUAGES, "all")
    for name, find in finders().items():
        recall, precision = personal(find, args.seed, args.sentences)
        print_table("Personal data: recall", names, [(name, *row) for row in recall])
        print_table("Personal data: precision", names, [(name, *row) for row in precision])
    header = ("found by", *planted.MAKERS, "harmless ones left")
    print_table("Formats not seen", header, [(n, *unseen(f)) for n, f in finders(4.2).items()])
    header = ("language", *(f"{n} letters" for n in LETTERS))
    print_table("Language told rightly", header, list(languages()))
    talks = read_conversations(args.data)[0] if args.data else given
    print_table("Speed", ("filter", "MB/s", "decided in s"), list(speeds(talks)))
    if args.million:
        print_table("A million conversations", ("found", "s"), [million()])


def print_table(title: str, header: Row, rows: Sequence[Row]) -> None:
    print(f"\n{title}\n\n{markdown(header, rows)}", flush=True)


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


# -------------------------------------------------------------------------------------- copies


def copies(given: Sequence[Conversation], kinds: Sequence[str]) -> list[Row]:
    """For each filter, the share of copies of each kind that it drops, and that of copies among
    what it drops."""
    filters: dict[str, Survey] = {
        "duplicates": Duplicates(),
        "duplicates:ignore_case=yes,ignore_space=yes": Duplicates(True, True),
        **{
            f"near_duplicates:threshold={threshold}": NearDuplicates(threshold)
            for threshold in (0.5, 0.6, 0.7, 0.8)
        },
    }
    return [copies_row(name, survey, given, kinds) for name, survey in filters.items()]


def copies_row(
    name: str, survey: Survey, given: Sequence[Conversation], kinds: Sequence[str]
) -> Row:
    dropped = collections.Counter(
        kind for kind, out in zip(kinds, surveyed(survey, given), strict=True) if out
    )
    recalls = [percent(dropped[kind], kinds.count(kind)) for kind in planted.COPIES]
    right = sum(n for kind, n in dropped.items() if kind not in ("", planted.COPIES[-1]))
    return (name, *recalls, percent(right, dropped.total()))


def surveyed(survey: Survey, given: Sequence[Conversation]) -> list[bool]:
    """Whether each conversation is dropped."""
    notes = np.frombuffer(b"".join(map(survey.note, given)), np.uint8)
    left_out = np.zeros(len(given), bool)
    left_out[decided(survey, notes.reshape(-1, survey.width))] = True
    return left_out.tolist()


def decided(survey: Survey, notes_NxW: np.ndarray) -> list[int]:
    """Which conversations a survey drops."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Remaining(notes_NxW, np.ones(len(notes_NxW), bool), Path(folder))
        return [place for place, _ in survey.decide(notes)]


# ------------------------------------------------------------------------------- personal data


def found_by(filter: Personal) -> Find:
    return lambda text: [(span.start, span.stop, span.kind) for span in filter.spans(text)]


def finders(entropy: float | None = None) -> dict[str, Find]:
    """The filter with its defaults and, where it is given, with an `entropy`; and datafog."""
    filters = {"personal": Personal()}
    if entropy is not None:
        filters[f"personal:entropy={entropy}"] = Personal(entropy=entropy)
    found = {name: found_by(filter) for name, filter in filters.items()}
    try:
        module = importlib.import_module(
            "datafog.processing.text_processing.regex_annotator.regex_annotator"
        )
    except ImportError:
        return found
    annotator = module.RegexAnnotator()
    kinds = {"EMAIL": "e-mail", "PHONE": "phone", "CREDIT_CARD": "card", "IP_ADDRESS": "ip"}

    def by_datafog(text: str) -> Iterator[tuple[int, int, str]]:
        for span in annotator.annotate_with_spans(text)[1].spans:
            if span.label in kinds:
                yield span.start, span.end, kinds[span.label]

    return {**found, "datafog": by_datafog}


def personal(find: Find, seed: int, sentences: int) -> tuple[list[Row], list[Row]]:
    """(recall, precision) by kind and language. Found is what is covered from end to end, whatever
    it was taken for; right is what touches something of its kind."""
    recalled, planted_, right, found = (collections.Counter[tuple[str, str]]() for _ in range(4))
    for tongue in planted.LANGUAGES:
        for kind in (*planted.MAKERS, ""):
            for n in range(sentences if kind else HARMLESS * sentences):
                one = planted.plant(seed, n, tongue, kind)
                hits = list(find(one.text))
                planted_[kind, tongue] += 1
                recalled[kind, tongue] += any(a <= one.start and one.stop <= b for a, b, _ in hits)
                for a, b, what in hits:
                    found[what, tongue] += 1
                    right[what, tongue] += what == kind and a < one.stop and one.start < b
    return table(recalled, planted_), table(right, found)


def unseen(find: Find) -> Row:
    """Of the formats of each kind how many were found, of harmless ones how many were left."""
    row = []
    for kind, things in planted.UNSEEN.items():
        hits = [any(what == kind for *_, what in find(f"so {thing} then")) for thing in things]
        clean = [not any(True for _ in find(f"so {thing} then")) for thing in things]
        row.append(f"{sum(hits if kind else clean)} of {len(things)}")
    return row


def table(
    part: collections.Counter[tuple[str, str]], whole: collections.Counter[tuple[str, str]]
) -> list[Row]:
    """A row for each kind, with a share for each language and one for all of them."""
    rows: list[Row] = []
    for kind in planted.MAKERS:
        keys = [(kind, tongue) for tongue in planted.LANGUAGES]
        shares = [percent(part[key], whole[key]) for key in keys]
        rows.append(
            (kind, *shares, percent(sum(part[k] for k in keys), sum(whole[k] for k in keys)))
        )
    return rows


# ------------------------------------------------------------------------------------ languages


def languages() -> Iterator[Row]:
    """Shares of stretches of text whose likeliest language is the right one, and, in brackets, of
    those of which the filter is sure enough."""
    threshold = language.Language().least
    totals: dict[int, list[int]] = {n: [0, 0, 0] for n in LETTERS}
    for code, text in planted.TEXTS.items():
        row = [code]
        for letters in LETTERS:
            told = [language.identify(part) for part in planted.stretches(text, letters)]
            right = [probability for name, probability in told if name == code]
            sure = sum(p >= threshold for p in right)
            row.append(shares(len(right), sure, len(told)))
            totals[letters] = [
                a + b for a, b in zip(totals[letters], (len(right), sure, len(told)), strict=True)
            ]
        yield row
    yield ["all", *(shares(*totals[letters]) for letters in LETTERS)]


def shares(right: int, sure: int, told: int) -> str:
    return f"{percent(right, told)} ({percent(sure, told)})"


# --------------------------------------------------------------------------------------- speeds


def speeds(given: Sequence[Conversation]) -> Iterator[Row]:
    """Megabytes of text (UTF-8) a second of a processor; the fastest of three."""
    size = sum(len(m.content.encode()) for c in given for m in c.messages) / 1e6
    for name in FILTERS:
        made: Any = parse_filter(SPEC.get(name, name))
        is_survey = hasattr(made, "decide")
        work = made.note if is_survey else made
        seconds = min(timed(lambda work: [*map(work, given)], work) for _ in range(3))
        decided = timed(surveyed, made, given) - seconds if is_survey else None
        yield name, f"{size / seconds:.1f}", "" if decided is None else f"{max(0, decided):.1f}"


def timed(work: Callable[..., object], *given: object) -> float:
    """Seconds of a processor."""
    began = time.process_time()
    work(*given)
    return time.process_time() - began


def million(conversations: int = 1_000_000) -> Row:
    """How many near duplicates are found, and in how many seconds: one conversation in ten is a
    copy with a tenth of its signature changed."""
    survey, rng = NearDuplicates(), np.random.default_rng(1)
    shape = (conversations, survey.permutations)
    signatures = rng.integers(0, 2**16, shape, np.uint16)
    copied = rng.permutation(conversations)[: conversations // 5].reshape(2, -1)
    changed = rng.random((copied.shape[1], shape[1])) < 0.1
    signatures[copied[1]] = np.where(changed, signatures[copied[1]], signatures[copied[0]])
    notes = signatures.astype("<u2").view(np.uint8)
    notes = np.pad(notes, ((0, 0), (0, survey.width - notes.shape[1])))
    del signatures
    found: list[int] = []
    seconds = timed(lambda: found.extend(decided(survey, notes)))
    return f"{len(found)}", f"{seconds:.0f}"


if __name__ == "__main__":
    main()
