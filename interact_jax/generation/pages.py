"""Which page of a pool holds what: pages are shared by sequences that begin with the same tokens.

    pages = Pages(64)
    lease = pages.lease(prompt_ids, len(prompt_ids) + max_new_tokens)    None: there is no room yet
    pages.release(lease, ids)                                  the sequence has ended with these ids

A page is known by its tokens and the page before it, so by all tokens up to its end: what several
sequences begin with is computed once and kept once. Pages that nobody leases stay until their room
is needed, the least recently used first, and serve later prompts that begin with what they hold.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from interact_jax.models.attention.paged import SLOTS

NO_PAGE = -1  # what the first page of a sequence follows
Key = tuple[int, tuple[int, ...]]  # the page before, and the tokens of a page or of its beginning


@dataclasses.dataclass
class Lease:
    """The pages of a sequence, in order. The first `known` tokens are in them already, or will be
    once earlier leases are filled; `copy` is a page (source, target) to be copied after that, which
    `Pages.copied` is then told."""

    pages: list[int]
    known: int
    copy: tuple[int, int] | None = None


class Pages:
    """Pages 0 to `count` - 1 of one device."""

    def __init__(self, count: int):
        self.count = count
        self.forget()

    def forget(self) -> None:
        """All pages are free and hold nothing: the weights have changed, or the pool is new."""
        self._users = [0] * self.count
        self._free = list(range(self.count - 1, -1, -1))
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._page_of: dict[Key, int] = {}
        self._keys_of: dict[int, list[Key]] = collections.defaultdict(list)
        self._keys_after: dict[int, list[Key]] = collections.defaultdict(list)

    def lease(self, prompt: Sequence[int], tokens: int) -> Lease | None:
        """Pages for a sequence of at most `tokens` that begins with the prompt; None where there
        are too few at present.

        The prompt's last token does not count as known: it is fed to draw the next.
        """
        filled = prompt[: len(prompt) - 1]
        shared = self._known_pages(filled)
        known = len(shared) * SLOTS
        tail = tuple(filled[known : known + SLOTS])
        source = self._page_of.get((shared[-1] if shared else NO_PAGE, tail))
        needed = -(-tokens // SLOTS) - len(shared)
        if source is not None and needed > self._available([*shared, source]):
            source = None  # its own page is needed: the tail is computed again
        held = [*shared, *([] if source is None else [source])]
        if needed > self._available(held):
            return None
        for page in held:
            self._use(page)
        lease = Lease([*shared, *(self._take() for _ in range(needed))], known)
        if source is not None:
            lease.known, lease.copy = len(filled), (source, lease.pages[len(shared)])
        self._learn(lease.pages, filled, with_tail=True)
        return lease

    def copied(self, lease: Lease) -> None:
        """The copy that the lease asked for is made: its source may be overwritten."""
        assert lease.copy is not None
        self._leave(lease.copy[0])
        lease.copy = None

    def release(self, lease: Lease, ids: Sequence[int]) -> None:
        """The sequence has ended; the keys and values of `ids` are in its pages."""
        self._learn(lease.pages, ids)
        for page in lease.pages:
            self._leave(page)

    # -------------------------------------------------------------------------------- what is known

    def _known_pages(self, ids: Sequence[int]) -> list[int]:
        """The full pages that hold the beginning of `ids`."""
        pages: list[int] = []
        before = NO_PAGE
        for start in range(0, len(ids) - SLOTS + 1, SLOTS):
            page = self._page_of.get((before, tuple(ids[start : start + SLOTS])))
            if page is None:
                break
            pages.append(page)
            before = page
        return pages

    def _learn(self, pages: Sequence[int], ids: Sequence[int], with_tail: bool = False) -> None:
        """Remember what the pages hold; where another holds the same, that one is used."""
        before = NO_PAGE
        for start, page in zip(range(0, len(ids), SLOTS), pages, strict=False):
            tokens = tuple(ids[start : start + SLOTS])
            if len(tokens) < SLOTS and not with_tail:
                break
            key = before, tokens
            if key not in self._page_of:
                self._page_of[key] = page
                self._keys_of[page].append(key)
                self._keys_after[before].append(key)
            before = self._page_of[key]

    def _unlearn(self, page: int) -> None:
        """A page is overwritten: neither it nor what follows it can be found any more."""
        for key in self._keys_of.pop(page, ()):
            self._page_of.pop(key, None)
        for key in self._keys_after.pop(page, ()):
            later = self._page_of.pop(key, None)
            if later is None:
                continue
            self._keys_of[later].remove(key)
            if not self._keys_of[later]:
                self._unlearn(later)
                if later in self._idle:
                    del self._idle[later]
                    self._free.append(later)

    # ----------------------------------------------------------------------------------- who has it

    def _available(self, held: Sequence[int]) -> int:
        """Pages that may be taken while these are held."""
        return len(self._free) + len(self._idle) - sum(page in self._idle for page in held)

    def _take(self) -> int:
        page = self._free.pop() if self._free else self._idle.popitem(last=False)[0]
        self._unlearn(page)
        self._users[page] = 1
        return page

    def _use(self, page: int) -> None:
        self._idle.pop(page, None)
        self._users[page] += 1

    def _leave(self, page: int) -> None:
        self._users[page] -= 1
        if self._users[page]:
            return
        if self._keys_of.get(page):
            self._idle[page] = None
        else:
            self._free.append(page)
