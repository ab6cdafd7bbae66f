"""What process 0 asks of others, and all learn: threads in place of processes."""

import math

import pytest

from interact_jax.cluster import processes
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import Completion, Request, SamplingParams
from interact_jax.generation.for_all import chat_for_all, engine_for_all
from interact_jax.generation.server_engine import ServerEngine
from interact_jax.schema import InputError, Message, RunStopped
from tests.cluster.threads import as_processes

pytestmark = pytest.mark.one_device

PARAMS = SamplingParams(max_new_tokens=2)
DIALOGUES = [[Message("user", "one")], [Message("user", "zwei 🙂")]]
REQUESTS = [Request((1, 2), PARAMS), Request((3,), PARAMS)]
COMPLETIONS = [
    Completion([5, 6], [-0.1, -math.inf], True, [-0.3, -1e-30], version=3),
    Completion([], [], False, stopped=True),
]


class Parrot:
    """A chat model that counts."""

    name = "parrot"

    def __init__(self):
        self.asked = 0

    def answer(self, dialogues, params, seeds=None):
        self.asked += len(dialogues)
        return [Answer(d[-1].content, error="" if n else "busy") for n, d in enumerate(dialogues)]


class Server(ServerEngine):
    """A server that says what it is told to."""

    _draw = _label = _update = None  # what speaks with a real one

    def __init__(self):
        self.name, self.version, self.done = "server", 0, []

    def sample(self, requests, done=None):
        self.done.append("sample")
        if not requests:
            raise RunStopped("it stays away", 3)
        return COMPLETIONS

    def write(self, params, version):
        self.done.append(f"write {version}")
        return f"v{version}"

    def take(self, label, version):
        self.done.append(f"take {label}")


def test_chat_models_are_opened_and_asked_by_process_0():
    def run(process):
        opened = []

        def open_model():
            opened.append(Parrot())
            return opened[0]

        model = chat_for_all(open_model)
        answers = [model.answer(DIALOGUES, PARAMS, seeds=[1, 2]) for _ in range(2)]
        return model.name, answers, [parrot.asked for parrot in opened]

    expected = [[Answer("one", error="busy"), Answer("zwei 🙂")]] * 2
    with as_processes(3) as together:
        assert together(run) == [
            ("parrot", expected, [4]),
            ("parrot", expected, []),
            ("parrot", expected, []),
        ]


def test_a_key_that_is_missing_is_an_error_of_all():
    def open_model():
        raise InputError("OPENAI_API_KEY is not set.")

    def run(process):
        with pytest.raises(InputError, match="OPENAI_API_KEY is not set") as missing:
            chat_for_all(open_model)
        own = InputError("of this process")
        return processes.is_common(missing.value) and not processes.is_common(own)

    with as_processes(2) as together:
        assert together(run) == [True, True]


def test_a_server_is_asked_by_process_0_and_weights_are_written_by_all():
    def run(process):
        server, told = Server(), []
        engine = engine_for_all(server)
        completions = engine.sample(REQUESTS, lambda *found: told.append(found))
        assert told == list(enumerate(completions))
        engine.load({}, 7)
        with pytest.raises(RunStopped, match="it stays away") as stopped:
            engine.sample([])
        return completions, engine.version, stopped.value.status, server.done

    with as_processes(2) as together:
        first, second = together(run)
    assert first == (COMPLETIONS, 7, 3, ["sample", "write 7", "take v7", "sample"])
    assert second == (COMPLETIONS, 7, 3, ["write 7"])


def test_alone_they_are_what_they_were():
    server, parrot = Server(), Parrot()
    assert engine_for_all(server) is server and chat_for_all(lambda: parrot) is parrot
