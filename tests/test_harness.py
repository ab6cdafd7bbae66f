"""lm-eval on our scorer and sampler gives the numbers of its own Hugging Face backend."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when lm_eval is imported

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, processors

from interact_jax import cli, places, pocket
from interact_jax.generation.engine import Completion
from interact_jax.harness import InteractLM, sampling_params
from interact_jax.opening import open_model
from interact_jax.pocket import world
from interact_jax.schema import InputError
from launch import harness
from tests.network import no_network  # noqa: F401
from tests.runs import outcome
from tests.tiny import BOS, EOS, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.compiled_quickly,
    pytest.mark.one_device,
    pytest.mark.usefixtures("no_network"),
]

PROGRAM = Path(harness.__file__)
POSITIONS = 96
CHOICES = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXTS = """
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["."], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match, ignore_case: true, ignore_punctuation: true}]
"""


def adds_bos(directory):
    """Make a tokenizer put BOS before every text, as that of Llama does."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    bos = tokenizer.id_to_token(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, BOS)]
    )
    tokenizer.save(path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    tiny_tokenizer(directory, "llama")
    adds_bos(directory)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    tiny_model(directory, "llama", max_position_embeddings=POSITIONS, **sizes)
    return directory


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pocket")
    model = open_model("pocket")
    model.export(model.load(), directory, "float32")
    return directory


@pytest.fixture(scope="module")
def ours(llama):
    return InteractLM(path=str(llama), attention="xla", row_tokens=128)


@pytest.fixture(scope="module")
def theirs(llama):
    return hugging_face(llama)


def hugging_face(directory):
    """In batches of one: in larger ones it decides by the first text whether all get a BOS."""
    return get_model("hf").create_from_arg_string(
        f"pretrained={directory},dtype=float32,device=cpu,batch_size=1"
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with tasks about the pocket world: choices and texts."""
    folder = tmp_path_factory.mktemp("tasks")
    requests = [r for r in world.held_out_requests(400, seed=1) if r.kind == "capital"][:12]
    answers = sorted({request.answer for request in requests})
    lines = []
    for n, request in enumerate(requests):
        others = [answer for answer in answers if answer != request.answer][:3]
        label = n % 4
        choices = [f"{text}." for text in (*others[:label], request.answer, *others[label:])]
        line = {"question": request.text, "choices": choices, "label": label}
        lines.append(json.dumps(line) + "\n")
    (folder / "data.jsonl").write_text("".join(lines))
    for name, text in (("choices", CHOICES), ("texts", TEXTS)):
        text = text.replace("DATA", str(folder / "data.jsonl"))
        (folder / f"{name}.yaml").write_text(text)
    return folder


def instances(kind, arguments):
    return [Instance(kind, {}, args, n) for n, args in enumerate(arguments)]


def both(kind, arguments, *models):
    return [getattr(model, kind)(instances(kind, arguments)) for model in models]


def greedy(model, context, tokens):
    """What the model writes, as text."""
    arguments = [(context, {"until": [], "max_gen_toks": tokens})]
    return both("generate_until", arguments, model)[0][0]


def test_likelihoods_are_those_of_hugging_face(ours, theirs):
    question, long = "What is the capital of France?", "Please answer. " * 60
    arguments = [
        (question, " Paris"),
        (question, " The capital of France is Paris."),
        ("", "Please"),
        ("How do I sort a list? ", "sorted"),  # the space goes with the continuation
        (long, " in one word"),
        ("<|begin|>Thank you", ", that is polite"),
    ]
    mine, expected = both("loglikelihood", arguments, ours, theirs)
    for (logp, is_greedy), (their_logp, their_greedy) in zip(mine, expected, strict=True):
        assert logp == pytest.approx(their_logp, abs=1e-4)
        assert is_greedy == their_greedy


def test_the_greedy_continuation_is_recognised(ours):
    """By ids, which may not survive being read as text."""
    prompt = ours.tok_encode("What is the capital of France?")
    ids = list(prompt)
    for _ in range(3):
        scores = ours._loglikelihood_tokens([(None, ids, [token]) for token in range(320)])
        (best,) = [token for token, (_, is_greedy) in enumerate(scores) if is_greedy]
        ids.append(best)
    whole, other = ids[len(prompt) :], [*ids[len(prompt) : -1], (ids[-1] + 1) % 320]
    scores = ours._loglikelihood_tokens([(None, prompt, whole), (None, prompt, other)])
    assert [is_greedy for _, is_greedy in scores] == [True, False]


def test_long_texts_are_scored_in_the_windows_of_lm_eval(ours, theirs):
    texts = [("Thank you, that is polite.",), ("The capital of France is Paris. " * 30,)]
    mine, expected = both("loglikelihood_rolling", texts, ours, theirs)
    assert mine == pytest.approx(expected, abs=1e-3)
    assert ours.max_length < len(ours.tok_encode(texts[1][0])) / 2


def test_greedy_texts_are_those_of_hugging_face(ours, theirs, caplog):
    contexts = ["What is the capital of France?", "<|begin|>Sort", "Please answer. " * 60]
    text = greedy(theirs, contexts[0], 12)
    until = next(letter for letter in text[3:] if letter.isascii() and letter.isprintable())
    for stop in ([], [until], until):
        arguments = [(text, {"until": stop, "max_gen_toks": 12}) for text in contexts]
        mine, expected = both("generate_until", arguments, ours, theirs)
        assert mine == expected
        assert (until in mine[0]) == (not stop)
    assert "1 of 3 contexts cut on the left" in caplog.text


def test_special_tokens_have_no_text(ours, theirs):
    head = ours.tok_encode("<|head|>", add_special_tokens=False)
    ids = [*ours.tok_encode("Thank", False), *head, *ours.tok_encode(" you", False), EOS]
    text = ours._text(Completion(ids, [0.0] * len(ids), True), {"until": "<|head|>"})
    assert text == theirs.tok_decode(ids) == "Thank you"


def test_chat_templates_are_rendered_as_by_transformers(ours, theirs):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Sort a list"},
    ]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    begun = [*chat, {"role": "assistant", "content": " The answer is "}]
    for messages in (chat[:3], begun):
        mine, expected = (
            model.apply_chat_template(messages, add_generation_prompt=False)
            for model in (ours, theirs)
        )
        assert mine == expected
        assert not mine.endswith("<|eot|>")
    assert ours.chat_template(True) == theirs.chat_template(True)


def test_a_template_without_system_messages_is_given_none(llama, tmp_path, caplog):
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|eot|>' }}{% endfor %}"
    )
    directory = shutil.copytree(llama, tmp_path / "model")
    (directory / "chat_template.jinja").write_text(refuses)
    model = InteractLM(path=str(directory), attention="xla")
    user = {"role": "user", "content": "Hello"}
    text = model.apply_chat_template([{"role": "system", "content": "Be brief."}, user])
    assert text == "user:Hello<|eot|>"
    assert "system messages left out" in caplog.text
    with pytest.raises(InputError, match="refuses"):
        model._template.render([{"role": "system", "content": "Be brief."}, user])


def test_reasoning_is_mentioned_to_the_template_only_where_asked_for(tmp_path):
    tiny_tokenizer(tmp_path, "think")
    tiny_model(tmp_path, "qwen3", hidden_size=16, num_hidden_layers=1)
    user, closed = [{"role": "user", "content": "Hello"}], "<think>\n\n</think>\n\n"
    ends = {}
    for enabled in (None, True, False):
        model = InteractLM(path=str(tmp_path), attention="xla", enable_thinking=enabled)
        ends[enabled] = model.apply_chat_template(user).endswith(closed)
    assert ends == {None: False, True: False, False: True}


def evaluate(model, tasks, names, **options):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(
        model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **options
    )


def test_tasks_on_a_tiny_llama_give_the_numbers_of_hugging_face(ours, theirs, tasks):
    names = ["choices", "texts"]
    mine, expected = (evaluate(model, tasks, names, num_fewshot=0) for model in (ours, theirs))
    for name in names:
        assert accuracies(mine["results"][name]) == accuracies(expected["results"][name])
    check_samples(mine["samples"], expected["samples"])


def accuracies(results):
    found = {key: value for key, value in results.items() if key.partition(",")[0] in METRICS}
    assert found
    return found


METRICS = ("acc", "acc_norm", "exact_match")


def check_samples(mine, expected):
    """Responses are the same, log-likelihoods within 1e-4."""
    for ours, theirs in zip(mine["choices"], expected["choices"], strict=True):
        for (logp, greedy), (their_logp, their_greedy) in zip(
            flat(ours), flat(theirs), strict=True
        ):
            assert float(logp) == pytest.approx(float(their_logp), abs=1e-4)
            assert str(greedy) == str(their_greedy)
    for ours, theirs in zip(mine["texts"], expected["texts"], strict=True):
        assert ours["resps"] == theirs["resps"]


def flat(sample):
    return [answer for answers in sample["resps"] for answer in answers]


@pytest.mark.slow
def test_the_command_evaluates_the_pocket_model_as_hugging_face_does(export, tasks, tmp_path):
    out = tmp_path / "results.json"
    command = [
        *(sys.executable, PROGRAM, "--model", "interact", "--apply_chat_template"),
        *("--model_args", f"path={export},dtype=float32", "--tasks", "choices,texts"),
        *("--include_path", tasks, "--output_path", out, "--log_samples"),
    ]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    expected = evaluate(hugging_face(export), tasks, ["choices", "texts"], apply_chat_template=True)
    (results,) = tmp_path.glob("results_*.json")
    found = json.loads(results.read_text())["results"]
    for name in ("choices", "texts"):
        assert accuracies(found[name]) == accuracies(expected["results"][name])
    samples = {}
    for name in ("choices", "texts"):
        (file,) = tmp_path.glob(f"samples_{name}_*.jsonl")
        samples[name] = [json.loads(line) for line in file.read_text().splitlines()]
    check_samples(samples, expected["samples"])
    assert found["texts"]["exact_match,none"] > 0.5  # it knows the world
    assert found["choices"]["acc,none"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("path=pocket,pretrained=x", "no argument pretrained"),
        ("dtype=float32", "no path"),
        ("path=pocket,dtype=float16", "dtype='float16'"),
        ("path=pocket,max_length=100000", "positions"),
        ("path=pocket,attention=fast", "attention='fast'"),
        ("path=pocket,rows=-1", "rows=-1"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    added = {"batch_size": 1, "max_batch_size": None, "device": None}
    with pytest.raises(InputError, match=message):
        get_model("interact").create_from_arg_string(arguments, added)


@pytest.fixture
def few_tasks(monkeypatch):
    """Without lm-eval's own thousands of tasks, which take long to read."""
    few = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)


def test_the_command_refuses_a_model_that_is_not_there(tasks, few_tasks, capsys, monkeypatch):
    given = ["--model", "interact", "--model_args", "path=nowhere", "--tasks", "choices"]
    monkeypatch.setattr(sys, "argv", ["harness.py"])
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: harness.main([*given, "--include_path", str(tasks)]))
    assert ended.value.code == 2
    assert "nowhere" in capsys.readouterr().err


def test_settings_of_generation_are_understood_or_refused():
    params = sampling_params({"until": "x", "max_new_tokens": 5, "temperature": 0.0})
    assert (params.stop, params.max_new_tokens, params.temperature) == (("x",), 5, 0.0)
    drawn = sampling_params({"until": [], "do_sample": True, "temperature": 0.5, "top_k": 3})
    assert (drawn.temperature, drawn.top_k, drawn.max_new_tokens) == (0.5, 3, 256)
    assert sampling_params({"num_beams": 1}).temperature == 0
    for settings in ({"num_beams": 4}, {"repetition_penalty": 1.1}, {"max_length": 9}):
        with pytest.raises(InputError, match="not supported"):
            sampling_params(settings)


def test_what_leaves_no_room_is_refused(ours):
    with pytest.raises(InputError, match=f"max_gen_toks={POSITIONS}"):
        both("generate_until", [("Hello", {"max_gen_toks": POSITIONS})], ours)
    with pytest.raises(InputError, match="a choice is empty"):
        both("loglikelihood", [("Hello", "")], ours)
    with pytest.raises(InputError, match="continuation of"):
        both("loglikelihood", [("Hello", " sort" * 2 * POSITIONS)], ours)


def test_repeated_requests_are_drawn_anew(ours):
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    first, again = (both("generate_until", [("Hello", settings)] * 2, ours)[0] for _ in range(2))
    assert first[0] != first[1]
    assert first == again


def test_the_pocket_model_is_found_by_its_name():
    model = InteractLM(path="pocket", attention="xla")
    assert model.model.files == Path(pocket.MODEL)
    assert places.STANDARD not in model.tokenizer_name
    assert model.get_model_info()["model_num_parameters"] > 1e5


def test_tasks_that_lm_eval_does_not_know_are_named(tasks, few_tasks, capsys, monkeypatch):
    def ask():
        EvaluatorConfig(tasks=["choises", "texts"], include_path=str(tasks)).process_tasks()

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", ask)
    status, said = outcome(lambda _: harness.main(), [], capsys)
    assert status == 2 and "Traceback" not in said
    assert said.startswith("error: --tasks choises: lm-eval knows no such task. ")
    assert "--include_path" in said


def test_other_errors_of_lm_eval_stay(monkeypatch):
    def fails():
        raise ValueError("something else")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
    with pytest.raises(ValueError, match="something else"):
        harness.main()
