import random

import pytest

from interact_jax.generation.pages import Pages
from interact_jax.models.attention.paged import SLOTS


class Device:
    """What the pages of a pool really hold: at every slot, all tokens up to it, as keys and values
    depend on all of them."""

    def __init__(self, count):
        self.slots = [[None] * SLOTS for _ in range(count)]

    def write(self, pages, ids, start):
        for place in range(start, len(ids)):
            self.slots[pages[place // SLOTS]][place % SLOTS] = tuple(ids[: place + 1])

    def holds(self, pages, ids):
        return all(
            self.slots[pages[place // SLOTS]][place % SLOTS] == tuple(ids[: place + 1])
            for place in range(len(ids))
        )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_to_be_known_is_there(seed):
    """Random prompts with much in common, in too few pages, admitted a few at a time."""
    rng = random.Random(seed)
    count = rng.choice([6, 12, 40])
    pages, device = Pages(count), Device(count)
    running, told_known, refused = [], 0, 0
    for _ in range(120):
        admitted = []
        for _ in range(rng.randrange(4)):
            length = rng.choice([1, 2, 5, SLOTS, SLOTS + 1, 2 * SLOTS + 1, 70])
            kind = rng.randrange(2)
            prompt = [kind] * (length - 1) + [rng.randrange(2)]
            new = rng.randrange(1, 60)
            lease = pages.lease(prompt, len(prompt) + new - 1)
            if lease is None:
                assert running or admitted  # alone, a sequence always has room
                refused += 1
                break
            assert len(lease.pages) == -(-(len(prompt) + new - 1) // SLOTS)
            told_known += lease.known
            admitted.append((lease, prompt, new))
        for lease, prompt, _ in admitted:
            if lease.copy is None:
                device.write(lease.pages, prompt[:-1], lease.known)
        copies = {}
        for lease, _, _ in admitted:  # all at a time, from what was there before
            if lease.copy is not None:
                source, target = lease.copy
                copies[target] = copies.get(source, source)
        before = [list(slots) for slots in device.slots]
        for target, source in copies.items():
            device.slots[target] = list(before[source])
        for lease, prompt, new in admitted:
            if lease.copy is not None:
                pages.copied(lease)
            assert device.holds(lease.pages, prompt[:-1])
            running.append((lease, prompt, new))
        rng.shuffle(running)
        for _ in range(rng.randrange(len(running) + 1)):
            lease, prompt, new = running.pop()
            ids = prompt + [rng.randrange(2) for _ in range(rng.randrange(new))]
            device.write(lease.pages, ids, len(prompt) - 1)
            assert device.holds(lease.pages, ids)  # nobody else wrote there
            pages.release(lease, ids)
    assert told_known > 0 and (refused > 0 or count == 40)
    for lease, prompt, _ in running:
        pages.release(lease, prompt[:-1])
    assert pages.lease([1] * 9, count * SLOTS) is not None  # no page was lost


def test_a_lease_that_does_not_fit_takes_nothing():
    pages = Pages(4)
    first = pages.lease([1] * 40, 100)
    assert pages.lease([1] * 40, 100) is None
    pages.release(first, [1] * 99)
    assert pages.lease([2] * 40, 4 * SLOTS) is not None


def test_a_sequence_has_room_where_all_pages_hold_its_own_prompt():
    """The page that would be copied is needed for the copy."""
    pages = Pages(4)
    prompt, tokens = [1] * (3 * SLOTS + 9), 4 * SLOTS
    for _ in range(3):
        lease = pages.lease(prompt, tokens)
        assert lease is not None and len(set(lease.pages)) == 4
        if lease.copy is not None:
            pages.copied(lease)
        pages.release(lease, [*prompt, 2, 3])


def test_new_weights_forget_everything():
    pages = Pages(8)
    pages.release(pages.lease([1] * 70, 90), [1] * 90)
    assert pages.lease([1] * 70, 90).known == 69
    pages.forget()
    assert pages.lease([1] * 70, 90).known == 0
