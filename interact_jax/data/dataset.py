"""From files of conversations to token trees: all that a run learns from, and what was lost."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from interact_jax import progress
from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import ON_ERROR, ReadReport, read_conversations
from interact_jax.data.copies import COPIES
from interact_jax.data.encode import Counts, EncodeSettings
from interact_jax.data.fitting import count_learned, fit, is_plain
from interact_jax.data.formats import FORMATS
from interact_jax.data.mending import REPAIR
from interact_jax.data.recipes import RECIPES
from interact_jax.data.records import MEND_LINE
from interact_jax.data.sources import MOST_BYTES
from interact_jax.data.tokenise import Tokenised, Tokeniser, tokenise
from interact_jax.data.tree import Tree
from interact_jax.places import input_name
from interact_jax.printable import count, count_reason
from interact_jax.schema import Conversation, InputError
from interact_jax.settings import Setting

POCKET_LOGS = Path(__file__).parents[1] / "pocket" / "logs.jsonl.gz"
SETTINGS = {
    "data.path": Setting(
        "", "the conversations: a file, a glob or a directory; pocket = the shipped logs", free=True
    ),
    "data.format": Setting(
        "auto", "format of the conversations; auto looks at the records", tuple(FORMATS)
    ),
    "data.mapping": Setting(
        "",
        "TOML file that names the columns of tables with a row for every message; empty = their "
        "usual names",
        before="",
    ),
    "data.on_error": Setting(
        "stop",
        "what to do with a record that cannot be read: stop with its file and line, or skip"
        " and count it",
        ON_ERROR,
    ),
    "data.repair": Setting(
        "join",
        "what to do with untidy conversations: join repairs them (messages of one role in a"
        " row, empty replies, whatever the chat template refuses), drop leaves out the "
        "interactions concerned, stop treats it as an error; all repairs are counted",
        REPAIR,
    ),
    "data.copies": Setting(
        "keep",
        "conversations with the same messages as an earlier one: keep = learn from each, as often "
        "as it occurs; drop = learn from the first alone; counted either way",
        COPIES,
        before="keep",
    ),
    "data.max_bytes": Setting(
        MOST_BYTES,
        "largest size of a file, in bytes after unpacking; a larger one is an error",
        least=1,
        free=True,
    ),
    "data.workers": Setting(
        0,
        "processes that tokenise; 0 = the main process does; the result is the same",
        least=0,
        most=1024,
        free=True,
    ),
}


@dataclasses.dataclass
class Dataset:
    """All conversations of a run as trees; `trees[i]` are those of one conversation."""

    conversations: list[Conversation]
    trees: list[list[Tree]]
    interactions: list[int]  # of each conversation; or pairs, if a run learns from pairs
    counts: Counts  # what was lost, mended or cut when the conversations became tokens
    read: ReadReport
    examples: dict[str, str] = dataclasses.field(default_factory=dict)  # first place of each count

    def note(self, counts: Counts, conversation: Conversation) -> None:
        """Count what happened to a conversation."""
        self.counts.update(counts)
        for reason in counts:
            self.examples.setdefault(reason, conversation.source or conversation.id)

    def trees_of(self, indices: Iterable[int]) -> list[Tree]:
        """The trees of these conversations."""
        return [tree for i in indices for tree in self.trees[i]]

    def lines(self) -> list[str]:
        """What was read and what was lost, for people."""
        lines = [
            *self.read.lines(),
            f"{count(len(self.trees), 'conversation')} with "
            f"{count(sum(self.interactions), 'interaction')}: "
            f"{count(sum(len(t) for t in self.trees), 'token tree')}",
        ]
        for reason, times in sorted(self.counts.items()):
            example = f", such as {self.examples[reason]}" if reason in self.examples else ""
            lines.append(f"  {count_reason(times, reason)}{example}")
        return lines


def load_dataset(
    path: str,
    format: str,
    chat: ChatFormat,
    settings: EncodeSettings,
    sharing: str,
    workers: int = 0,
    recipe: str = "hindsight",
) -> Dataset:
    """Read conversations, encode what `recipe` takes from them, and grow their trees; the `path`
    "pocket" stands for the shipped logs.

    `workers` processes tokenise; the result is the same for any number. Raises InputError if
    nothing is left.
    """
    path = str(POCKET_LOGS) if path == "pocket" else path
    count_units, expected = RECIPES[recipe].count_units, RECIPES[recipe].expected
    with progress.of(f"reading {input_name(path)}"):
        conversations, report = read_conversations(
            path,
            format,
            settings.on_error,
            count_units,
            expected,
            settings.repair,
            settings.max_bytes,
            settings.copies,
            settings.mapping,
        )
    dataset = grow(conversations, report, chat, settings, sharing, workers, recipe)
    if not dataset.trees:
        raise InputError(
            f"{input_name(path)}: no interaction is left to work on.\n" + "\n".join(dataset.lines())
        )
    return dataset


def grow(
    conversations: Sequence[Conversation],
    report: ReadReport,
    chat: ChatFormat,
    settings: EncodeSettings,
    sharing: str,
    workers: int = 0,
    recipe: str = "hindsight",
) -> Dataset:
    """Encode what `recipe` takes from conversations that were read, and grow their trees: none
    where nothing of them can be used."""
    dataset = Dataset([], [], [], collections.Counter(), report)
    conversations = list(_fit_all(conversations, chat, settings, dataset))
    results = tokenise(conversations, Tokeniser(chat, settings, sharing, recipe), workers)
    for conversation, tokenised in _with_progress(conversations, results):
        dataset.note(tokenised.counts, conversation)
        if tokenised.trees:
            dataset.conversations.append(conversation)
            dataset.trees.append(tokenised.trees)
            dataset.interactions.append(tokenised.units)
    return dataset


def _fit_all(
    conversations: Iterable[Conversation],
    chat: ChatFormat,
    settings: EncodeSettings,
    dataset: Dataset,
) -> Iterator[Conversation]:
    """The conversations that the chat template can show, in a form that it accepts."""
    for conversation in conversations:
        if is_plain(conversation):
            yield conversation
            continue
        counts: Counts = collections.Counter()
        try:
            fitted = fit(conversation, chat.abilities, settings.repair, counts)
        except InputError as error:
            if settings.on_error == "stop":
                raise InputError(f"{error} {MEND_LINE}.") from error
            counts["conversations dropped: not as the chat template takes them"] += 1
            fitted = None
        if fitted is not None:
            count_learned(fitted, counts)
            yield fitted
        dataset.note(counts, conversation)


def _with_progress(
    conversations: Sequence[Conversation], tokenised: Iterable[Tokenised]
) -> Iterable[tuple[Conversation, Tokenised]]:
    console = Console(stderr=True)
    return track(
        zip(conversations, tokenised, strict=True),
        "tokenising",
        total=len(conversations),
        console=console,
        transient=True,
        disable=not console.is_terminal or len(conversations) < 2 or not progress.is_wanted(),
    )
