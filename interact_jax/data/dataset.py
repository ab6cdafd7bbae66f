"""From files of conversations to token trees: all that a run learns from, and what was lost."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from interact_jax import progress
from interact_jax.data.chat import ChatFormat
from interact_jax.data.collecting import collecting_rarely
from interact_jax.data.conversations import ON_ERROR, ReadReport, read_conversations
from interact_jax.data.copies import COPIES
from interact_jax.data.encode import Counts, EncodeSettings
from interact_jax.data.fingerprint import fingerprint
from interact_jax.data.fitting import count_learned, fit, is_plain
from interact_jax.data.forest import LENGTH, Forest
from interact_jax.data.formats import FORMATS
from interact_jax.data.limits import Member
from interact_jax.data.mending import REPAIR
from interact_jax.data.prepared import PreparedData, is_prepared
from interact_jax.data.recipes import RECIPES
from interact_jax.data.records import MEND_LINE
from interact_jax.data.sources import MOST_BYTES
from interact_jax.data.stored_trees import StoredTrees
from interact_jax.data.tokenise import Tokenised, Tokeniser
from interact_jax.data.tokenise_all import AS_MANY_AS_PAY, tokenise, workers_for
from interact_jax.data.tree import Tree
from interact_jax.data.tree_index import Sizes
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
    "data.cache": Setting(
        "",
        "directory for the token trees of prepared data, which later runs find there; empty = "
        "trees/ in this user's cache",
        free=True,
    ),
    "data.workers": Setting(
        AS_MANY_AS_PAY,
        "processes that tokenise; 0 = the main process alone, -1 = one for each core where files "
        "are large (of prepared data, and in several processes, none); the result is the same",
        least=AS_MANY_AS_PAY,
        most=1024,
        free=True,
    ),
}


@dataclasses.dataclass
class Counted:
    """What was lost or mended, on the way from files to conversations (`read`) and from those to
    trees (`counts`)."""

    counts: Counts
    read: ReadReport
    examples: dict[str, str] = dataclasses.field(default_factory=dict)  # first place of each count

    def note(self, counts: Counts, place: str) -> None:
        """Count what happened to a conversation."""
        self.counts.update(counts)
        for reason in counts:
            self.examples.setdefault(reason, place)

    def summary(self) -> Counts:
        """Everything that was lost or mended, by reason."""
        read = self.read
        return read.lost + read.mended + read.copies + read.unused + self.counts


@dataclasses.dataclass(kw_only=True)
class Dataset(Counted):
    """All conversations of a run as trees; `trees[i]` are those of one conversation."""

    conversations: list[Conversation] = dataclasses.field(default_factory=list)
    trees: list[Forest] = dataclasses.field(default_factory=list)
    interactions: list[int] = dataclasses.field(default_factory=list)
    """Of each conversation; or pairs, if a run learns from pairs."""

    def __len__(self) -> int:
        return len(self.trees)

    @property
    def prints(self) -> dict[str, str]:
        """Digests of all that a run learns from (`fingerprint`)."""
        with collecting_rarely():
            return fingerprint(self)

    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]:
        """The trees of these conversations."""
        return StoredTrees(
            self.trees.__getitem__, indices, Sizes.of([self.trees[i] for i in indices])
        )

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """The weight of each conversation: that of all its units."""
        return np.array([trees.facts.weight for trees in self.trees], np.float64)

    @property
    def users(self) -> np.ndarray:
        """The user of each conversation, "" where nobody is named."""
        return np.array([conversation.user for conversation in self.conversations], np.str_)

    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]:
        """These conversations, whose trees are at hand, as `Limits` sees them."""
        chosen = (self.conversations[i] for i in indices)
        return [(c.id, c.user, weight_of(of_one)) for c, of_one in zip(chosen, trees, strict=True)]

    def follow(self, *orders: Iterator[int]) -> Callable[[Sequence[int]], list[Forest]]:
        """A function that returns the trees of the next conversations."""
        return lambda indices: [self.trees[i] for i in indices]

    def totals(self, drawn_N: np.ndarray, ignore_first: int) -> dict[str, int]:
        """Interactions, and counted tokens of replies, where conversation n was drawn so often."""
        tokens = [counted_tokens(trees, ignore_first) for trees in self.trees]
        values = {"interactions": self.interactions, "reply_tokens": tokens}
        return {name: int(drawn_N @ np.array(each, np.int64)) for name, each in values.items()}

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


def counted_tokens(trees: Iterable[Tree], ignore_first: int) -> int:
    """How many tokens of the replies count, where the first ones of each do not."""
    if isinstance(trees, Forest):
        return int(np.maximum(trees.replies_MxC[:, LENGTH] - ignore_first, 0).sum())
    lengths = (len(reply.target.y) for tree in trees for reply in tree.replies)
    return sum(max(0, length - ignore_first) for length in lengths)


def units_of(trees: Iterable[Tree]) -> int:
    """How many units there are: interactions, or pairs of replies."""
    if isinstance(trees, Forest):
        return trees.facts.units
    targets = (reply.target for tree in trees for reply in tree.replies)
    return len({(target.conversation, target.unit or target.id) for target in targets})


def weight_of(trees: Iterable[Tree]) -> float:
    """The weight of all units of a conversation."""
    if isinstance(trees, Forest):
        return trees.facts.weight
    targets = (reply.target for tree in trees for reply in tree.replies)
    return sum({target.unit: target.weight for target in targets}.values())


def load_dataset(
    path: str,
    format: str,
    chat: ChatFormat,
    settings: EncodeSettings,
    sharing: str,
    workers: int = AS_MANY_AS_PAY,
    recipe: str = "hindsight",
) -> Dataset:
    """Read conversations, encode what `recipe` takes from them, and grow their trees; the `path`
    "pocket" stands for the shipped logs.

    `workers` processes tokenise, -1 = as many as pay off; the result is the same for any number.
    Raises InputError if nothing is left.
    """
    path = str(POCKET_LOGS) if path == "pocket" else path
    if is_prepared(path):
        prepared = PreparedData(path)
        interactions = int(prepared.interactions.sum())
        report = ReadReport(conversations=len(prepared), interactions=interactions)
        return grow(list(prepared), report, chat, settings, sharing, workers, recipe)
    count_units, expected = RECIPES[recipe].count_units, RECIPES[recipe].expected
    with progress.of(f"reading {input_name(path)}"), collecting_rarely():
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
    workers: int = AS_MANY_AS_PAY,
    recipe: str = "hindsight",
) -> Dataset:
    """Encode what `recipe` takes from conversations that were read, and grow their trees: none
    where nothing of them can be used. `workers` as in `load_dataset`."""
    dataset = Dataset(collections.Counter(), report)
    conversations = list(_fit_all(conversations, chat, settings, dataset))
    workers = workers_for(conversations) if workers == AS_MANY_AS_PAY else workers
    results = tokenise(conversations, Tokeniser(chat, settings, sharing, recipe), workers)
    with collecting_rarely():
        for conversation, tokenised in _with_progress(conversations, results):
            dataset.note(tokenised.counts, conversation.source or conversation.id)
            if tokenised.trees:
                dataset.conversations.append(conversation)
                dataset.trees.append(Forest.of(tokenised.trees))
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
        counts: Counts = collections.Counter()
        fitted = fit_one(conversation, chat, settings, counts)
        dataset.note(counts, conversation.source or conversation.id)
        if fitted is not None:
            yield fitted


def fit_one(
    conversation: Conversation, chat: ChatFormat, settings: EncodeSettings, counts: Counts
) -> Conversation | None:
    """The conversation in a form that the chat template accepts; None where there is none. `counts`
    collects what was changed."""
    if is_plain(conversation):
        return conversation
    try:
        fitted = fit(conversation, chat.abilities, settings.repair, counts)
    except InputError as error:
        if settings.on_error == "stop":
            raise InputError(f"{error} {MEND_LINE}.") from error
        counts["conversations dropped: not as the chat template takes them"] += 1
        return None
    if fitted is not None:
        count_learned(fitted, counts)
    return fitted


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
