"""Engines that are servers, against processes that speak their protocols over our own sampler."""

import contextlib
import functools
import json

import jax
import numpy as np
import pytest

from interact_jax import sharding
from interact_jax.endpoints.http import JsonServer
from interact_jax.endpoints.retrying import Patience
from interact_jax.generation import local
from interact_jax.generation.engine import Request, SamplingParams
from interact_jax.generation.server_engine import (
    PROCESSED,
    RAW,
    TEMPERED,
    Vocabulary,
    both_kinds,
)
from interact_jax.generation.sglang import SglangEngine
from interact_jax.generation.vllm import COMPLETIONS, GENERATE, VllmEngine
from interact_jax.generation.weight_files import WeightFiles
from interact_jax.opening import open_model
from interact_jax.schema import InputError, Message, RunStopped
from tests.servers.running import running
from tests.snippets import python_blocks

pytestmark = pytest.mark.compiled_quickly

QUICK = Patience(tries=200, first=0.01, longest=0.2)  # a server takes seconds to start
PARAMS = SamplingParams(max_new_tokens=8)
REQUESTS = ("What is the capital of France?", "Opposite of hot?", "Number after two?")
KINDS = {
    "vllm": ("vllm", COMPLETIONS),
    "vllm-generate": ("vllm", GENERATE),
    "sglang": ("sglang", "/generate"),
}
both = pytest.mark.parametrize("kind", ["vllm", "sglang"])
vllm_first = pytest.mark.parametrize(
    "kind", ["vllm", pytest.param("sglang", marks=pytest.mark.slow)]
)
"""Of what an engine does whatever the protocol; the slow tests try both."""


@pytest.fixture(scope="module")
def model():
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    return open_model("pocket", mesh=mesh, attention="xla")


@pytest.fixture(scope="module")
def versions(model):
    """The model's own parameters, and two others."""
    own = model.load()
    return [own, *(jax.tree.map(lambda x, f=f: x * f, own) for f in (1.1, 0.8))]


@pytest.fixture(scope="module")
def expected(model, versions):
    """The completions of requests from a version, by the sampler itself."""
    engine = local.open_engine(model, versions[0], rows=1)

    def sample(requests, version):
        engine.load(versions[version], version)
        return [engine.sample([request])[0] for request in requests]

    return sample


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                running("engine_server", tmp_path_factory.mktemp(name), "--protocol", name)
            )
            for name in ("vllm", "sglang")
        }


@pytest.fixture(autouse=True)
def in_order(servers):
    for server in servers.values():
        for switch in ("old", "bare"):
            (server.folder / switch).unlink(missing_ok=True)
        server.forget()


@pytest.fixture
def open_engine(servers, model, tmp_path):
    """A function that opens an engine of a kind."""

    def opened(kind, weights=True, **options):
        protocol, route = KINDS[kind]
        export = functools.partial(model.export, dtype="float32")
        files = WeightFiles(tmp_path / "weights", export) if weights else None
        given = (servers[protocol].url, Vocabulary.of(model), files)
        options = {"patience": QUICK, "concurrency": 3, **options}
        if protocol == "vllm":
            return VllmEngine(*given, model="pocket", route=route, **options)
        return SglangEngine(*given, **{"logprobs": RAW, **options})

    return opened


@pytest.fixture(scope="module")
def requests_of(model):
    def make(number, params=PARAMS):
        prompts = [model.chat.prompt([Message("user", text)]) for text in REQUESTS]
        return [Request(tuple(prompts[n % 3]), params, seed=n) for n in range(number)]

    return make


def assert_same(completions, expected):
    for one, other in zip(completions, expected, strict=True):
        assert one.ids == other.ids
        assert one.finished == other.finished
        np.testing.assert_allclose(one.logps, other.logps, atol=1e-5)


def route_of(kind):
    return KINDS[kind][1]


@pytest.mark.parametrize(
    "kind", ["vllm", pytest.param("vllm-generate", marks=pytest.mark.slow), "sglang"]
)
def test_completions_are_those_of_the_weights_that_were_handed_over(
    kind, open_engine, versions, expected, requests_of
):
    engine, requests, told = open_engine(kind), requests_of(12), {}
    assert engine.version == 0
    for version in (1, 2):  # the same requests: nothing cached may come back
        engine.load(versions[version], version)
        told.clear()
        completions = engine.sample(requests, lambda *found: told.update([found]))
        assert_same(completions, expected(requests, version))
        assert {completion.version for completion in completions} == {version} == {engine.version}
        assert [told[index] for index in range(12)] == completions
    assert any(one.finished for one in completions) and not all(one.finished for one in completions)
    assert engine.counts == {"completions": 24, "hand-overs": 2}
    assert not engine.stale
    assert all(one.sampling_logps == one.logps for one in completions)
    assert [place.name for place in engine.weights.directory.iterdir()] == [engine._wanted]


def test_a_vllm_that_does_not_name_the_version_of_a_completion(
    servers, open_engine, versions, expected, requests_of
):
    (servers["vllm"].folder / "old").touch()
    engine, requests = open_engine("vllm"), requests_of(5)
    engine.load(versions[1], 4)
    completions = engine.sample(requests)
    assert_same(completions, expected(requests, 1))
    assert {completion.version for completion in completions} == {4}


@both
def test_weights_of_others_are_detected_and_replaced(
    kind, servers, open_engine, versions, expected, requests_of
):
    if kind == "vllm":
        (servers["vllm"].folder / "old").touch()  # the harder case
    engine, rival, requests = open_engine(kind), open_engine(kind), requests_of(6)
    rival.weights.directory = rival.weights.directory.with_name("rival")
    engine.load(versions[1], 1)
    rival.load(versions[2], 5)
    completions = engine.sample(requests)
    assert_same(completions, expected(requests, 1))
    assert {completion.version for completion in completions} == {1}
    assert set(engine.stale) == {rival._wanted}
    assert 1 <= engine.stale[rival._wanted] <= 3  # as many as were on their way
    assert engine.counts["hand-overs"] == 2
    assert engine.counts["completions"] == 6


@vllm_first
def test_weights_that_change_between_completions_keep_their_version(
    kind, servers, open_engine, versions, expected, requests_of
):
    engine, requests = open_engine(kind), requests_of(20)
    engine.load(versions[1], 1)
    route, told = route_of(kind), []
    servers[kind].plan({"at": route, "nth": 5, "do": "hold"}, *[{"at": route, "do": "hold"}] * 2)

    def load_the_next(index, completion):
        told.append(index)
        if len(told) == 4:
            engine.load(versions[2], 2)

    completions = engine.sample(requests, load_the_next)
    assert sorted(told) == list(range(20))
    found = [completion.version for completion in completions]
    assert set(found) == {1, 2}
    for version in (1, 2):
        own = [index for index in range(20) if found[index] == version]
        assert_same(
            [completions[index] for index in own],
            expected([requests[index] for index in own], version),
        )


FAULTS = {
    "drop": {"do": "drop"},
    "half": {"do": "half"},
    "garbage": {"do": "garbage"},
    "status500": {"do": "status", "status": 500},
    "status429": {"do": "status", "status": 429, "headers": {"Retry-After": "0"}},
}


@pytest.mark.parametrize(
    "fault, kind",
    [
        pytest.param(fault, kind, marks=() if quick else pytest.mark.slow)
        for fault in FAULTS
        for kind in KINDS
        for quick in [kind == "vllm" or fault == "garbage"]
    ],
)
def test_what_passes_costs_no_request_and_repeats_none(
    kind, fault, servers, open_engine, versions, expected, requests_of
):
    server, requests, told = servers[KINDS[kind][0]], requests_of(4), []
    engine = open_engine(kind, concurrency=1)
    engine.load(versions[0], 1)
    server.forget()
    server.plan({"at": route_of(kind), "nth": 2, **FAULTS[fault]})
    completions = engine.sample(requests, lambda index, completion: told.append(index))
    assert_same(completions, expected(requests, 0))
    assert server.planned() == []
    assert told == [0, 1, 2, 3]
    assert engine.counts["failed tries"] == 1
    assert engine.counts["completions"] == 4
    assert len(server.journal(route_of(kind))) == 4


@vllm_first
def test_a_server_that_is_killed_and_started_again_costs_no_request_and_repeats_none(
    kind, servers, open_engine, versions, expected, requests_of
):
    server, requests, told = servers[kind], requests_of(12), []
    engine, starts = open_engine(kind), server.starts
    server.plan(
        {"at": "the middle of an update", "do": "die updating"},
        {"at": route_of(kind), "nth": 5, "do": "die answering"},
    )
    with server.kept_alive(deaths=2):
        engine.load(versions[1], 1)
        completions = engine.sample(requests, lambda index, completion: told.append(index))
    assert server.planned() == []
    assert server.starts == starts + 2
    assert_same(completions, expected(requests, 1))
    assert {completion.version for completion in completions} == {1}
    assert sorted(told) == list(range(12))
    assert engine.counts["completions"] == 12
    assert engine.counts["hand-overs"] == 2
    assert not engine.stale  # weights came first, and nothing was sampled from others in between
    seeds = [seed_of(entry["body"]) for entry in server.journal(route_of(kind))]
    assert sorted(seeds) == list(range(12))


def seed_of(body):
    return body["seed"] if "seed" in body else body["sampling_params"]["sampling_seed"]


@vllm_first
def test_half_an_update_is_never_sampled_from(
    kind, servers, open_engine, versions, expected, requests_of
):
    server, requests = servers[kind], requests_of(3)
    engine = open_engine(kind)
    engine.load(versions[1], 1)
    server.plan({"at": "the middle of an update", "do": "half update"})
    engine.load(versions[2], 2)
    assert server.planned() == []
    assert_same(engine.sample(requests), expected(requests, 2))


@both
def test_a_server_that_was_not_resumed_is_resumed(
    kind, servers, open_engine, versions, expected, requests_of
):
    server, requests = servers[kind], requests_of(2)
    resume = {"vllm": "/resume", "sglang": "/continue_generation"}[kind]
    server.plan({"at": resume, "do": "drop"})
    engine = open_engine(kind)
    engine.load(versions[1], 1)
    assert_same(engine.sample(requests), expected(requests, 1))


def test_an_update_that_a_killed_client_began_is_not_in_the_way(
    servers, open_engine, versions, expected, requests_of
):
    client = JsonServer(servers["vllm"].url)
    client.post("/pause?mode=wait", {})
    client.post("/init_weight_transfer_engine", {"init_info": {}})
    client.post("/start_weight_update", {})
    engine = open_engine("vllm")
    engine.load(versions[1], 1)
    assert_same(engine.sample(requests_of(2)), expected(requests_of(2), 1))


@vllm_first
def test_without_weights_the_servers_own_are_version_0(
    kind, servers, open_engine, versions, expected, requests_of
):
    rival = open_engine(kind)
    rival.load(versions[1], 1)
    engine, requests = open_engine(kind, weights=False), requests_of(3)
    completions = engine.sample(requests)
    assert_same(completions, expected(requests, 1))
    assert {completion.version for completion in completions} == {0}
    with pytest.raises(InputError, match="no directory for weights"):
        engine.load(versions[1], 1)
    rival.load(versions[2], 2)
    with pytest.raises(RunStopped, match="it had the weights"):
        engine.sample(requests)


def test_a_vllm_without_its_development_mode_samples_but_takes_no_weights(
    servers, open_engine, versions, requests_of
):
    (servers["vllm"].folder / "bare").touch()
    assert len(open_engine("vllm", weights=False).sample(requests_of(2))) == 2
    with pytest.raises(InputError, match="VLLM_SERVER_DEV_MODE=1"):
        open_engine("vllm").load(versions[1], 1)


@both
def test_weights_that_the_server_cannot_read_are_named(
    kind, servers, open_engine, versions, expected, requests_of, monkeypatch
):
    engine = open_engine(kind)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(engine.weights, "path", lambda label: "/nowhere")
        elsewhere.setattr(engine.weights, "write", lambda params, version: "v00000001-00000000")
        with pytest.raises(InputError, match="no safetensors in /nowhere"):
            engine.load(versions[1], 1)
    engine.load(versions[1], 2)
    assert_same(engine.sample(requests_of(2)), expected(requests_of(2), 1))


def test_a_server_that_stays_away_stops_the_run_and_loses_nothing(
    servers, open_engine, versions, requests_of
):
    server, told = servers["vllm"], []
    engine = open_engine("vllm", patience=Patience(tries=3, first=0.01), concurrency=1)
    engine.load(versions[1], 1)
    more = [{"at": COMPLETIONS, "do": "status", "status": 503}] * 2
    server.plan({"at": COMPLETIONS, "nth": 3, "do": "status", "status": 503}, *more)
    with pytest.raises(RunStopped, match=r"503.*\(3 tries\)\. Start the server again"):
        engine.sample(requests_of(9), lambda index, completion: told.append(index))
    assert told == [0, 1]
    assert len(server.journal(COMPLETIONS)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": None}, "an answer of another form"),
        ({"token_ids": [5, 6]}, "2 ids with 3 log-probabilities"),
        ({"token_ids": [5, 6, 10**6]}, "token ids from 5 to 1000000"),
        ({"token_ids": [5, 2, 7]}, "tokens after one that ends a reply"),
        ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "0 tokens, where 1 to 8"),
        ({"token_ids": [5] * 9, "logprobs": {"token_logprobs": [0.0] * 9}}, "9 tokens, where"),
        ({"logprobs": {"token_logprobs": [0.0, float("nan"), 0.0]}}, "not finite"),
        ({"logprobs": None}, "an answer of another form"),
        ({"prompt_token_ids": [1]}, "other prompt ids"),
    ],
)
def test_what_no_completion_can_be_is_refused(change, message, servers, open_engine, requests_of):
    engine = open_engine("vllm", weights=False)
    servers["vllm"].plan(answering({"token_ids": [5, 6, 7], **change}))
    with pytest.raises(InputError, match=message):
        engine.sample(requests_of(1))


def answering(choice):
    """A fault by which vLLM answers so."""
    usual = {"finish_reason": "stop", "logprobs": {"token_logprobs": [-1.0, -2.0, -3.0]}}
    text = json.dumps({"choices": [usual | choice]})
    return {"at": COMPLETIONS, "do": "garbage", "text": text}


def test_how_a_completion_ended(servers, open_engine, model, requests_of):
    eos = model.eos_ids[0]
    engine = open_engine("vllm", weights=False, concurrency=1)
    servers["vllm"].plan(
        answering({"token_ids": [5, 6, 7]}),
        answering({"token_ids": [5, 6, eos]}),
        answering({"token_ids": [5, 6, 7], "finish_reason": "length"}),
        answering({"token_ids": [], "finish_reason": "abort"}),
    )
    found = engine.sample(requests_of(4))
    ends = [(one.finished, one.stopped) for one in found]
    assert ends[:3] == [(False, True), (True, False), (False, False)]
    assert len(found[3].ids) > 0  # sampled again
    assert engine.counts["failed tries"] == 1


def test_tokens_of_several_versions_count_as_the_oldest(
    servers, open_engine, versions, requests_of
):
    engine = open_engine("vllm", concurrency=1)
    engine.load(versions[1], 1)
    old = engine._wanted
    engine.load(versions[2], 12)
    spans = [{"version": label, "start": 0, "end": 3} for label in (engine._wanted, old)]
    servers["vllm"].plan(answering({"token_ids": [5, 6, 7], "weight_versions": spans}))
    found = engine.sample(requests_of(2))
    assert [one.version for one in found] == [1, 12]
    assert engine.stale == {old: 1}


def test_what_is_asked_of_vllm(servers, open_engine, model, requests_of):
    params = SamplingParams(8, 0.5, top_k=7, top_p=0.9, min_p=0.1, stop=("END",))
    (request,) = requests_of(1, params)
    for kind in ("vllm", "vllm-generate"):
        open_engine(kind, weights=False).sample([request])
    sampling = {
        "max_tokens": 8,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": ["END"],
        "stop_token_ids": model.eos_ids,
        "skip_special_tokens": False,
        "seed": 0,
        "logprobs": 0,
    }
    ids = list(request.ids)
    flags = {"return_token_ids": True, "return_weight_versions": True}
    (first,), (second,) = (servers["vllm"].journal(route) for route in (COMPLETIONS, GENERATE))
    assert first["body"] == {"model": "pocket", "prompt": ids, **sampling, **flags}
    assert second["body"] == {"model": "pocket", "token_ids": ids, "sampling_params": sampling}


def test_what_is_asked_of_sglang(servers, open_engine, model, requests_of):
    (request,) = requests_of(1, SamplingParams(8, 0.5, min_p=0.1, stop=("END",)))
    open_engine("sglang", weights=False).sample([request])
    (entry,) = servers["sglang"].journal("/generate")
    assert entry["body"] == {
        "input_ids": list(request.ids),
        "return_logprob": True,
        "stream": False,
        "sampling_params": {
            "max_new_tokens": 8,
            "temperature": 0.5,
            "top_k": -1,
            "top_p": 1.0,
            "min_p": 0.1,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": ["END"],
            "stop_token_ids": model.eos_ids,
            "skip_special_tokens": False,
            "sampling_seed": 0,
        },
    }


def test_a_key_is_sent_and_comes_from_the_environment(
    servers, open_engine, requests_of, monkeypatch
):
    with pytest.raises(InputError, match="MY_KEY: not set"):
        open_engine("vllm", weights=False, key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "abc")
    open_engine("vllm", weights=False, key_variable="MY_KEY").sample(requests_of(1))
    (entry,) = servers["vllm"].journal(COMPLETIONS)
    assert entry["headers"]["Authorization"] == "Bearer abc"


def test_requests_that_can_never_be_sampled_are_refused_before_any_is_sent(
    servers, open_engine, model, requests_of
):
    engine, good = open_engine("vllm", weights=False), requests_of(1)
    context, size = model.config.max_positions, model.config.vocab_size
    for ids in ((), (5,) * context, (size,), (-1,)):
        with pytest.raises(InputError, match="prompt 1"):
            engine.sample([*good, Request(ids, PARAMS)])
    with pytest.raises(InputError, match="temperature"):
        engine.sample([*good, Request((5,), SamplingParams(temperature=-1))])
    assert servers["vllm"].journal() == []
    engine.sample([Request((5,) * (context - 3), PARAMS)])
    assert servers["vllm"].journal(COMPLETIONS)[0]["body"]["max_tokens"] == 3


@pytest.mark.parametrize(
    "options",
    [{"logprobs": "natural"}, {"concurrency": 0}, {"route": "/v2"}],
    ids=lambda options: next(iter(options)),
)
def test_bad_settings_are_refused(options, model):
    with pytest.raises(InputError, match=next(iter(options))):
        VllmEngine("http://127.0.0.1:9", Vocabulary.of(model), **{"model": "x", **options})


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://a:x", ""])
def test_addresses_that_are_none(url, model):
    with pytest.raises(InputError, match="expected the address of a server"):
        SglangEngine(url, Vocabulary.of(model))


def test_log_probabilities_are_named_for_what_they_are():
    x = [-1.0, -2.0]
    plain, warm = SamplingParams(), SamplingParams(temperature=0.7)
    kept, both_ = SamplingParams(top_p=0.9), SamplingParams(temperature=0.7, top_k=5)
    greedy = SamplingParams(temperature=0)
    known = {
        (RAW, plain): (x, x),
        (RAW, warm): (x, []),
        (RAW, kept): (x, []),
        (RAW, both_): (x, []),
        (TEMPERED, plain): (x, x),
        (TEMPERED, warm): ([], x),
        (TEMPERED, kept): (x, []),
        (TEMPERED, both_): ([], []),
        (PROCESSED, plain): (x, x),
        (PROCESSED, warm): ([], x),
        (PROCESSED, kept): ([], x),
        (PROCESSED, both_): ([], x),
    }
    known |= {(kind, greedy): (x, [0.0, 0.0]) for kind in (RAW, TEMPERED, PROCESSED)}
    for (kind, params), expected in known.items():
        assert both_kinds(x, kind, params) == expected, (kind, params)


def test_the_engine_that_the_documentation_opens(servers, tmp_path, monkeypatch):
    """As it stands, but for the model and the address."""
    monkeypatch.chdir(tmp_path)
    code = python_blocks("users.md")[-1].replace("Qwen/Qwen3-8B", "pocket")
    names = {}
    exec(code.replace("http://127.0.0.1:8000", servers["vllm"].url), names)
    (completion,) = names["completions"]
    assert completion.finished and completion.version == 1
    assert "hot" not in names["model"].chat.decode(completion.ids).lower()
