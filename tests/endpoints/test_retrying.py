import datetime
import email.utils
import threading

import pytest

from interact_jax.endpoints.retrying import (
    Abandoned,
    Failed,
    Patience,
    asked_wait,
    in_parallel,
    insist,
    refusal,
)


class Flaky:
    """Fails with these, one after another, then works."""

    def __init__(self, *failures):
        self.failures, self.calls = list(failures), 0

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def busy(after=None):
    return Failed("busy", again=True, after=after, status=429)


def test_what_may_help_is_tried_again_and_each_try_is_told():
    told, waits = [], []
    attempt = Flaky(busy(), busy())
    assert insist(attempt, Patience(first=1.0), waits.append, told.append) == "done"
    assert attempt.calls == 3
    assert [str(failure) for failure in told] == ["busy", "busy"]
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_it_ends_after_all_tries_and_says_how_many():
    attempt = Flaky(*[busy() for _ in range(5)])
    with pytest.raises(Failed, match=r"^busy \(3 tries\)$") as ended:
        insist(attempt, Patience(tries=3), lambda seconds: None)
    assert attempt.calls == 3
    assert ended.value.status == 429


def test_what_cannot_help_is_not_tried_again():
    attempt = Flaky(Failed("refused", again=False))
    with pytest.raises(Failed, match=r"^refused$"):
        insist(attempt, Patience(), lambda seconds: None)
    assert attempt.calls == 1


def test_other_errors_pass():
    attempt = Flaky(KeyError("a bug"))
    with pytest.raises(KeyError):
        insist(attempt, Patience(), lambda seconds: None)
    assert attempt.calls == 1


def test_waits_double_up_to_the_longest_and_less_a_random_part():
    patience = Patience(first=0.75, longest=10.0)
    assert [patience.wait(n, None, 0.0) for n in (1, 2, 3, 4, 5, 6, 2000)] == [
        *(0.75, 1.5, 3.0, 6.0),
        *(10.0, 10.0, 10.0),
    ]
    assert patience.wait(2, None, 0.5) == 1.5 * 0.75


def test_a_server_gets_the_wait_that_it_asks_for():
    assert Patience().wait(1, 30.0, 0.9) == 30.0
    assert Patience(first=2.0).wait(1, 0.1, 0.0) == 2.0  # but no shorter one
    waits = []
    insist(Flaky(busy(after=30.0)), Patience(), waits.append)
    assert waits == [30.0]


def test_a_server_that_asks_for_too_long_has_answered():
    attempt = Flaky(busy(after=4000.0))
    with pytest.raises(Failed, match=r"busy; it asks to wait 4,000 s$"):
        insist(attempt, Patience(most_asked=300.0), lambda seconds: None)
    assert attempt.calls == 1


def test_waits_are_read_in_every_form():
    now = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    seconds = now.timestamp()
    assert asked_wait({"Retry-After": "7"}, seconds) == 7
    assert asked_wait({"retry-after": later}, seconds) == 90
    assert asked_wait({"retry-after": later}, seconds + 1000) == 0
    assert asked_wait({"retry-after-ms": "250", "retry-after": "7"}, seconds) == 0.25
    assert asked_wait({"retry-after": "-3"}, seconds) == 0
    for unreadable in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": ""}):
        assert asked_wait(unreadable, seconds) is None


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_refusals_that_pass(status):
    assert refusal(status, {}, "no").again


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 501])
def test_refusals_that_stay(status):
    assert not refusal(status, {}, "no").again


def test_all_work_is_done_once_each_with_its_result():
    results = dict(in_parallel(lambda index, pause: index * index, 100, workers=7))
    assert results == {index: index * index for index in range(100)}
    assert dict(in_parallel(lambda index, pause: index, 0, workers=7)) == {}


def test_no_more_at_a_time_than_there_are_workers():
    """All workers meet: more could not have been there, and fewer would not have got through."""
    inside, most, lock = 0, 0, threading.Lock()
    meeting = threading.Barrier(4)

    def work(index, pause):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        meeting.wait(timeout=60)
        with lock:
            inside -= 1
        return index

    assert len(dict(in_parallel(work, 16, workers=4))) == 16
    assert most == 4


def test_an_exception_ends_the_rest_and_cuts_waits_short():
    began, waiting, cut = [], threading.Event(), threading.Event()

    def work(index, pause):
        began.append(index)
        if index == 0:
            waiting.set()
            cut_short = pause(600.0)
            cut.set()
            assert cut_short
        waiting.wait(timeout=60)
        raise ValueError("no use")

    with pytest.raises(ValueError, match="no use"):
        dict(in_parallel(work, 50, workers=2))
    assert cut.wait(timeout=60)
    assert sorted(began) == [0, 1]


def test_a_wait_that_is_cut_short_abandons_the_request():
    attempt = Flaky(busy(), busy())
    with pytest.raises(Abandoned):
        insist(attempt, Patience(), lambda seconds: True)
    assert attempt.calls == 1
