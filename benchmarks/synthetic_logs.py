"""Conversations made of random words, of any number and length, for trials of speed and memory.

    python benchmarks/synthetic_logs.py --out logs --conversations 200000 --length 0.1
    python benchmarks/synthetic_logs.py --out logs --conversations 20000

They have five turns, and messages as long as those of WildChat (arXiv 2405.01470: users write 296
tokens and the model 441, on average; lengths are lognormal), times --length. Words are the most
common ones of English, and invented ones, as frequent as in a language (Zipf). A tenth of the
conversations are in other scripts. Each depends on --seed and its number alone. Some are copies of
earlier ones, and some hold an e-mail address, a telephone number or a key, all invented.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interact_jax import cli
from interact_jax.arguments import Parser
from interact_jax.schema import InputError

TURNS = 5
WORDS_OF = {"user": 176, "assistant": 252}  # on average: a word has 1.7 tokens
SPREAD = 0.9  # standard deviation of the logarithm of a length
INVENTED = 5_000  # words besides the common ones
COMMON = (
    "the of and to a in is you that it for was on are with as this have be at or from one had by "
    "but not what all were we when your can said there use an each which she do how their if will "
    "up other about out many then them these so some her would make like him into time has look "
    "two more write go see number no way could people my than first water been call who its now "
    "find long down day did get come made may part over new sound take only little work know place "
    "year live back give most very after thing our just name good sentence man think say great "
    "where help through much before line right too mean old any same tell boy follow came want "
    "show also around form three small set put end does another well large must big even such "
    "because turn here why ask went men read need land different home us move try kind hand"
)
SYLLABLES = "ka lo mi tre sun ber an de vor ist pel qua ni os um gra the ing er al on re"
OTHER_SCRIPTS = (
    "的一是不了人我在有他这中大来上国",
    "абвгдежзиклмнопрстуфхцч",
    "ابتثجحخدذرزسشصضطظع",
)
MARKS = (".", ".", ".", "?", "!", ":", "\n\n", ".\n- ")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="directory of the parts, which must not exist")
    add("--conversations", type=cli.at_least(1), default=20_000)
    add("--parts", type=cli.at_least(1), default=16, help="files")
    add("--length", type=float, default=1.0, help="of messages, relative to WildChat's")
    add("--copies", type=float, default=0.02, help="share of copies of earlier conversations")
    add("--personal", type=float, default=0.02, help="share with an address, a number or a key")
    add("--gzip", action="store_true", help="compress the parts")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not args.length > 0:
        raise InputError(f"--length {args.length}: expected a number above 0.")
    if args.out.exists():
        raise InputError(f"--out {args.out}: it exists. Name a directory that does not.")
    args.out.mkdir(parents=True)
    maker = Maker(args.seed, args.length, args.copies, args.personal)
    parts = min(args.parts, args.conversations)
    bounds = [round(n * args.conversations / parts) for n in range(parts + 1)]
    for part, (start, end) in enumerate(itertools.pairwise(bounds)):
        suffix = ".jsonl.gz" if args.gzip else ".jsonl"
        file = args.out / f"part-{part:05d}-of-{parts:05d}{suffix}"
        with (gzip.open if args.gzip else open)(file, "wt", encoding="utf-8") as out:
            for number in range(start, end):
                print(json.dumps(maker.conversation(number), ensure_ascii=False), file=out)


class Maker:
    """Conversations by number."""

    def __init__(self, seed: int, length: float, copies: float, personal: float) -> None:
        self._seed, self._length, self._copies, self._personal = seed, length, copies, personal
        rng = random.Random(f"words {seed}")
        syllables, sizes = SYLLABLES.split(), range(INVENTED)
        invented = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in sizes]
        self._words = COMMON.split() + invented
        self._weights = list(itertools.accumulate(1 / (n + 3) for n in range(len(self._words))))

    def conversation(self, number: int) -> dict[str, Any]:
        """In the native format; the same for the same number."""
        rng = random.Random(f"{self._seed} {number}")
        made = {"id": f"s{number}", "user": f"u{number // 4}"}
        if number and rng.random() < self._copies:
            return {**self.conversation(rng.randrange(number)), **made}
        script = rng.choice(OTHER_SCRIPTS) if rng.random() < 0.1 else ""
        roles = [*(("user", "assistant") * TURNS), "user"]
        texts = [self._text(rng, WORDS_OF[role], script) for role in roles]
        if rng.random() < self._personal:
            texts[0] += " " + personal(rng)
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        return {**made, "messages": messages}

    def _text(self, rng: random.Random, average: float, script: str) -> str:
        # A lognormal's mean is exp(mu + sigma^2 / 2).
        mu = math.log(average * self._length) - SPREAD**2 / 2
        count = max(1, round(rng.lognormvariate(mu, SPREAD)))
        if script:
            return "".join(rng.choices(script, k=3 * count))
        words = rng.choices(self._words, cum_weights=self._weights, k=count)
        return " ".join(_sentences(words, rng))


def _sentences(words: Sequence[str], rng: random.Random) -> Iterator[str]:
    start = 0
    while start < len(words):
        end = start + rng.randint(4, 18)
        sentence = " ".join(words[start:end])
        yield sentence[:1].upper() + sentence[1:] + rng.choice(MARKS)
        start = end


def personal(rng: random.Random) -> str:
    """Something that nobody would want in a training set."""
    digits = "".join(rng.choices("0123456789", k=9))
    return rng.choice(
        (
            f"Write to ann.{digits[:4]}@example.org.",
            f"Call +49 30 {digits[:7]}.",
            f"My key is sk-{digits}{digits[::-1]}abcdef.",
        )
    )


if __name__ == "__main__":
    cli.run(main)
