"""People as judges: a page of blind pairs, and its saved answers read back.

    page = Page.of({"step 40": pairs}, persona, most=200, seed=0)
    page.write(folder / "pairs.html")          to be opened in a browser, without a network
    for answers in map(page.read, files):
        answers.judgements["step 40"]

A page shows every pair once, in an order and on sides that the seed decides, without names. Its id
is the digest of all it shows; saved answers carry it, so they are read for no other page.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import json_files, places
from interact_jax.judges import people_page
from interact_jax.judges.judge import CHOICES, Verdict
from interact_jax.judges.pairwise import BASELINE, CANDIDATE, Judgement, Pair, Vote
from interact_jax.judges.store import digest
from interact_jax.schema import InputError
from interact_jax.settings import Setting

SETTINGS = {
    "pairs": Setting(100, "pairs on the page for people, drawn at random; 0 = all", least=0),
}
FORMAT = "interact_jax judgements 1"
ANSWERS = CHOICES[:3]
KINDS = {
    "format": json_files.TEXT,
    "page": json_files.TEXT,
    "session": json_files.TEXT,
    "name": json_files.TEXT,
    "answers": json_files.OBJECT,
}
NOT_OURS = (
    "{}: expected the file that the page of pairs saves, with {!r} as its format; found {}. Open "
    "the page, judge, and press Save."
)
ANOTHER_PAGE = (
    "{}: these answers were given on another page ({}; that of this command is {}). Give the "
    "command that made their page: the same models, prompts, persona, seed and sampling."
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A pair on the page; `first` is whose reply stands first."""

    candidate: str  # the name of the side
    pair: Pair
    first: str


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one person saved: judgements by candidate, and how many pairs were left open."""

    name: str
    session: str
    judgements: Mapping[str, list[Judgement]]
    open: int


@dataclasses.dataclass(frozen=True)
class Page:
    """The pairs that people see, in order."""

    shown: tuple[Shown, ...]
    persona: str

    @classmethod
    def of(
        cls, pairs: Mapping[str, Sequence[Pair]], persona: str, most: int = 0, seed: int = 0
    ) -> Page:
        """The pairs of every candidate, mixed; at most `most`, if that is not 0."""
        rng = random.Random(f"pairs {seed}")
        everything = [(name, pair) for name, some in pairs.items() for pair in some]
        rng.shuffle(everything)
        return cls(
            tuple(
                Shown(name, pair, rng.choice((CANDIDATE, BASELINE)))
                for name, pair in everything[: most or None]
            ),
            persona,
        )

    @property
    def data(self) -> dict[str, Any]:
        """What the page holds: texts, and nothing that tells whose they are."""
        return {
            "persona": self.persona,
            "pairs": [
                {
                    "prompt": [[m.role, m.content] for m in shown.pair.prompt],
                    "first": comparison.first,
                    "second": comparison.second,
                }
                for shown in self.shown
                for comparison in [shown.pair.ordered(shown.first)]
            ],
        }

    @property
    def id(self) -> str:
        return digest(self.data)

    def write(self, file: Path) -> Path:
        places.write(file, people_page.render({"format": FORMAT, "page": self.id, **self.data}))
        return file

    def read(self, path: str) -> Answers:
        """The answers in a saved file. Raises InputError where it is no such file, belongs to
        another page, or holds what the page cannot have saved."""
        saved = json_files.read_json(Path(path))
        if saved.get("format") != FORMAT or missing(saved):
            raise InputError(NOT_OURS.format(path, FORMAT, json_files.short(saved)))
        json_files.check(saved, KINDS, path)
        if saved["page"] != self.id:
            raise InputError(ANOTHER_PAGE.format(path, saved["page"][:8], self.id[:8]))
        numbers = set(map(str, range(len(self.shown))))
        choices: dict[int, str] = {}
        for number, choice in saved["answers"].items():
            if number not in numbers or choice not in ANSWERS:
                raise InputError(
                    f"{path}: answers.{number}={json_files.short(choice)}; expected the number of "
                    f"a pair below {len(self.shown)}, and one of {', '.join(ANSWERS)}."
                )
            choices[int(number)] = choice
        name = saved["name"].strip() or f"anonymous {saved['session'][:8]}"
        judgements: dict[str, list[Judgement]] = {shown.candidate: [] for shown in self.shown}
        for number, choice in sorted(choices.items()):
            shown = self.shown[number]
            vote = Vote(shown.first, Verdict(choice, choice))
            judgements[shown.candidate].append(Judgement(shown.pair, name, (vote,)))
        return Answers(name, saved["session"], judgements, len(self.shown) - len(choices))


def missing(saved: Mapping[str, Any]) -> list[str]:
    return [key for key in KINDS if key not in saved]


def read_all(page: Page, paths: Sequence[str]) -> list[Answers]:
    """The answers of several people. Raises InputError where two files are of one sitting."""
    answers: dict[str, Answers] = {}
    files: dict[str, str] = {}
    for path in paths:
        found = page.read(path)
        if found.session in answers:
            raise InputError(
                f"{path}: the same sitting of {found.name} as {files[found.session]}, so its "
                "answers would count twice. Give the file that was saved last."
            )
        answers[found.session], files[found.session] = found, path
    return list(answers.values())
