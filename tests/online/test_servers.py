"""An online run whose replies a server samples, which dies and is started again meanwhile."""

import pytest

from interact_jax.endpoints.retrying import Patience
from interact_jax.online import engines
from tests.online.runs import trained
from tests.runs import read_lines
from tests.servers.running import running

pytestmark = pytest.mark.compiled_quickly

QUICK = Patience(tries=200, first=0.01, longest=0.2)  # a server takes seconds to start


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("engine_server", tmp_path_factory.mktemp("vllm"), "--protocol", "vllm") as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries follow one another quickly, and few requests are on their way at a time."""
    vllm = engines.VllmEngine
    options = {"patience": QUICK, "concurrency": 2}
    monkeypatch.setattr(
        engines, "VllmEngine", lambda *given, **more: vllm(*given, **{**more, **options})
    )


@pytest.mark.slow
def test_a_server_that_dies_costs_no_interaction_and_repeats_none(server, tmp_path):
    """Killed in the middle of sampling, and in the middle of a weight update."""
    more = {"online.engine": f"vllm@{server.url}", "online.served_model": "pocket", "steps": 3}
    whole = trained(tmp_path / "whole", more)
    server.forget()
    server.plan(
        {"at": "/v1/completions", "nth": 6, "do": "die answering"},
        {"at": "the middle of an update", "nth": 3, "do": "die updating"},
    )
    with server.kept_alive(deaths=2):
        run = trained(tmp_path / "killed", more)
    assert server.planned() == []
    conversations = [
        [
            (talk["id"], [(m["role"], m["content"], m.get("token_ids")) for m in talk["messages"]])
            for talk in read_lines(folder / "conversations.jsonl")
        ]
        for folder in (whole.workdir, run.workdir)
    ]
    assert conversations[0] == conversations[1]
    assert len({name for name, _ in conversations[1]}) == len(conversations[1]) == 12
    versions = [talk["version"] for talk in read_lines(run.workdir / "conversations.jsonl")]
    assert versions == [0] * 4 + [1] * 4 + [2] * 4
    assert run.source.totals() == whole.source.totals()
