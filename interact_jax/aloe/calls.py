"""Chat models whose answers are kept on disk: what was answered once is never asked for again.

    with CallCache.open(folder / "calls.sqlite") as cache:
        user = CachedModel(open_chat("openai:gpt-4.1-mini"), settings, cache)
        answers = user.answer(dialogues, params, seeds)

A call is what an answer depends on: the model with its settings, the dialogue, how it is sampled,
and the seed. Its answer is with the system as soon as it arrives, while others of the same batch
are still on their way, so that a killed program loses none; a machine that loses power may lose the
last few.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax.generation.chat_model import Answer, ChatModel, answers_of
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges.store import digest
from interact_jax.schema import InputError, Message, RunStopped

TABLE = "CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, answer BLOB NOT NULL)"
SETTINGS = (
    "PRAGMA locking_mode=EXCLUSIVE",  # one program at a time: so no memory is shared, and it works
    "PRAGMA journal_mode=WAL",  # on file systems that have none
    "PRAGMA synchronous=NORMAL",  # an answer costs no sync of the disk; the file stays whole
)
ASKED, FOUND, FAILED = "calls", "answers from the cache", "calls without an answer"
KEYS_AT_ONCE = 500  # of a query: SQLite limits its variables


class CallCache:
    """Answers by key, in a SQLite file; little of it is in memory."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self._path, self._connection = path, connection

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[CallCache]:
        """Raises InputError where it is no cache, or another program uses it; see `_errors`."""
        with _errors(path):
            connection = sqlite3.connect(path, isolation_level=None, timeout=5)
            try:
                for statement in (*SETTINGS, TABLE):
                    connection.execute(statement)
                connection.execute("SELECT key, answer FROM calls LIMIT 0")
            except BaseException:
                connection.close()
                raise
        try:
            yield cls(path, connection)
        finally:
            connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The answers that are there, by key."""
        found: dict[str, str] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), KEYS_AT_ONCE):
            some = wanted[start : start + KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, answer FROM calls WHERE key IN ({marks})"
            with _errors(self._path):
                rows = self._connection.execute(query, [bytes.fromhex(key) for key in some])
                found |= {key.hex(): _text(answer) for key, answer in rows}
        return found

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; it outlives the process from now on."""
        values = (bytes.fromhex(key), answer.encode(errors="surrogatepass"))
        with _errors(self._path):
            self._connection.execute("INSERT OR REPLACE INTO calls VALUES (?, ?)", values)


def _writable(text: str) -> str:
    """The text with "?" for halves of surrogate pairs, which no file in UTF-8 can hold: a server's
    JSON may have them."""
    return text.encode(errors="replace").decode()


def _text(answer: bytes) -> str:
    return answer.decode(errors="surrogatepass")


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into InputErrors, and those of the disk into RunStopped."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(
                f"{path}: another program is using it. Wait for its end, or take another directory."
            ) from None
        raise RunStopped(
            f"{path}: cannot be used ({error}). When that is mended, the same command goes on."
        ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a file of calls, or damaged ({error}). Move it away: what was in it is "
            "then asked for again."
        ) from None


class CachedModel:
    """A chat model that answers from a cache first. `settings` is JSON that says which model it is:
    name and address of an endpoint, or the digest of weights.

    Equal calls of a batch are asked once. Answers that failed are not kept. `counts` has calls,
    answers from the cache (or of an equal call), and calls without an answer.
    """

    def __init__(self, model: ChatModel, settings: Mapping[str, Any], cache: CallCache):
        self.name, self.settings = model.name, dict(settings)
        self.counts: collections.Counter[str] = collections.Counter()
        self.model, self._cache = model, cache

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """See ChatModel; answers have no completion, whether they are new or kept."""
        seeds = range(len(dialogues)) if seeds is None else seeds
        keys = [
            key_of(self.settings, dialogue, params, seed)
            for dialogue, seed in zip(dialogues, seeds, strict=True)
        ]
        answers = {key: Answer(text) for key, text in self._cache.get(dict.fromkeys(keys)).items()}
        asked = {key: place for place, key in enumerate(keys) if key not in answers}
        waiting, places = list(asked), list(asked.values())
        self.counts[FOUND] += len(keys) - len(waiting)
        if not waiting:  # weights are not loaded for nothing
            return [answers[key] for key in keys]
        for index, answer in answers_of(
            self.model,
            [dialogues[place] for place in places],
            params,
            [seeds[place] for place in places],
        ):
            self.counts[ASKED] += 1
            self.counts[FAILED] += bool(answer.error)
            text, error = (_writable(given) for given in (answer.text, answer.error))
            if not error:
                self._cache.put(waiting[index], text)
            answers[waiting[index]] = Answer(text, error=error, refused=answer.refused)
        return [answers[key] for key in keys]


def key_of(
    settings: Mapping[str, Any], dialogue: Sequence[Message], params: SamplingParams, seed: int
) -> str:
    """The digest of all that an answer depends on."""
    messages = [[m.role, m.content, dict(m.fields)] for m in dialogue]
    return digest([settings, messages, dataclasses.asdict(params), seed])
