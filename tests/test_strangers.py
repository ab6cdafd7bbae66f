"""Models from strangers: whatever is in their files, they are opened or refused in a sentence."""

from __future__ import annotations

import json
import os

import pytest

from interact_jax.opening import open_model
from interact_jax.schema import InputError
from launch import export, generate, plan, score, train
from tests import hostile
from tests.runs import outcome, records, tiny, train_arguments, write_lines

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("strangers") / "model"
    tiny(directory, max_shard_size="50KB")
    return directory


@pytest.fixture
def spoilt(model, tmp_path):
    return hostile.copy_of(model, tmp_path)


def refused(directory, expected, **options):
    with pytest.raises(InputError, match=expected) as caught:
        opened = open_model(directory, attention="xla", **options)
        if options.get("weights", True):
            opened.load()
    assert len(str(caught.value)) < 1500 and str(caught.value).count("\n") <= 3
    return str(caught.value)


# -------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    "name",
    [
        *hostile.SHORT,
        *(pytest.param(name, marks=pytest.mark.slow) for name in hostile.LONG),
    ],
)
def test_a_hostile_template_is_refused(spoilt, name):
    (spoilt / "chat_template.jinja").write_text(hostile.TEMPLATES[name])
    refused(spoilt, "chat_template.jinja: the chat template cannot be used: .*model.tokenizer")


def test_the_line_of_a_template_is_named(spoilt):
    (spoilt / "chat_template.jinja").write_text("{{ bos_token }}\n\n{{ 1 / 0 }}\n")
    refused(spoilt, "line 3: ZeroDivisionError: division by zero")
    (spoilt / "chat_template.jinja").write_text("{{ bos_token }}\n{% for %}\n")
    refused(spoilt, "line 2: Expected an expression")


def test_a_template_in_the_configuration_is_named_with_its_file(spoilt):
    (spoilt / "chat_template.jinja").unlink()
    hostile.put(spoilt / "tokenizer_config.json", {"chat_template": "{{ 1 / 0 }}"})
    refused(spoilt, "tokenizer_config.json: the chat template cannot be used: line 1: ")


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "file, change, expected",
    hostile.FILES,
    ids=[f"{f[0]}-{n}" for n, f in enumerate(hostile.FILES)],
)
def test_a_file_with_wrong_types_or_sizes_is_refused(spoilt, file, change, expected):
    hostile.put(spoilt / file, change)
    said = refused(spoilt, expected, weights=False)
    assert file in said


@pytest.mark.parametrize("name", hostile.HEADERS)
def test_weights_whose_header_lies_are_refused(spoilt, name):
    shard = sorted(spoilt.glob("model-*.safetensors"))[0]
    shard.write_bytes(hostile.weights(hostile.HEADERS[name]))
    refused(spoilt, f"{shard.name}: damaged or incomplete")


@pytest.mark.parametrize("length", [0, 1 << 20, (1 << 63) - 1, (1 << 64) - 1])
def test_weights_whose_header_is_not_so_long_are_refused(spoilt, length):
    shard = sorted(spoilt.glob("model-*.safetensors"))[0]
    shard.write_bytes(hostile.weights(hostile.HEADERS["another shape"], length))
    refused(spoilt, f"{shard.name}: damaged or incomplete")


@pytest.mark.parametrize(
    "shard",
    [5, None, "", "../x.safetensors", "/etc/passwd", "a/../../b", "..", "é" * 128, "x" * 5000],
)
def test_an_index_names_files_beside_it(spoilt, shard):
    index = spoilt / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(found))
    said = refused(spoilt, "weight_map: 'model.norm.weight': .*; expected the name of a file")
    assert "index.json" in said


@pytest.mark.parametrize(
    "index",
    ["{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', hostile.DEEP],
    ids=["no map", "no object", "a list", "no files", "deep"],
)
def test_an_index_without_files_is_refused(spoilt, index):
    (spoilt / "model.safetensors.index.json").write_text(index)
    refused(spoilt, "model.safetensors.index.json: ")


def test_a_tensor_in_two_files_is_refused(spoilt):
    first, second = sorted(spoilt.glob("model-*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    index = spoilt / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    names = found["weight_map"]
    found["weight_map"] = {name: file for name, file in names.items() if file != second.name}
    found["weight_map"]["again"] = second.name
    index.write_text(json.dumps(found))
    refused(spoilt, f"{second.name}: holds tensors that {first.name} holds, too")


def test_ids_beyond_the_embedding_are_refused(spoilt):
    """The number of tokens may be small and their ids large: they would be read off the end."""
    file = spoilt / "tokenizer.json"
    found = json.loads(file.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = 100_000
    file.write_text(json.dumps(found))
    refused(spoilt, "embedding only 320 rows", weights=False)


# ------------------------------------------------------------------------------- code and links


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["own.Own", None]}, ["own.Own", None]])
def test_code_of_a_tokenizers_own_is_never_run(spoilt, auto_map, tmp_path, monkeypatch):
    """Whatever would be answered to the question whether to run it."""
    (spoilt / "own.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')\n")
    (spoilt / "tokenizer.json").unlink()
    hostile.put(spoilt / "tokenizer_config.json", {"auto_map": auto_map, "tokenizer_class": "Own"})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refused(spoilt, "tokenizer_config.json: auto_map: the tokenizer needs code of its own")
    assert not (tmp_path / "was here").exists()


def test_code_that_is_not_needed_is_not_run_either(spoilt, tmp_path, monkeypatch, caplog):
    (spoilt / "own.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')\n")
    hostile.put(
        spoilt / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    )
    hostile.put(spoilt / "config.json", {"auto_map": {"AutoModelForCausalLM": "own.Own"}})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    opened = open_model(spoilt, attention="xla")
    assert not (tmp_path / "was here").exists()
    said = [record.getMessage() for record in caplog.records]
    assert sum("auto_map" in line and "never run" in line for line in said) == 2
    opened.export(opened.load(), tmp_path / "out", "float32")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "out" / name).read_text())


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "tokenizer.*", "model-*"])
def test_a_link_out_of_the_directory_is_refused(spoilt, name, tmp_path):
    name = sorted(spoilt.glob(name))[0].name
    (spoilt / name).rename(tmp_path / "elsewhere")
    (spoilt / name).symlink_to(tmp_path / "elsewhere")
    refused(spoilt, f"{name}: a link to .*elsewhere, outside of the model's directory")
    (spoilt / name).unlink()
    (spoilt / name).symlink_to(os.path.join("..", "elsewhere"))
    refused(spoilt, f"{name}: a link to .*elsewhere, outside of the model's directory")


def test_a_link_to_a_directory_of_templates_is_refused(spoilt, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (spoilt / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    refused(spoilt, "additional_chat_templates: a link to .*elsewhere")
    (spoilt / "additional_chat_templates").unlink()
    (spoilt / "additional_chat_templates").mkdir()
    (spoilt / "additional_chat_templates/x.jinja").symlink_to("/etc/passwd")
    refused(spoilt, "x.jinja: a link to /etc/passwd")


def test_links_in_a_circle_and_pipes_are_refused(spoilt):
    (spoilt / "vocab.json").symlink_to("vocab.json")
    refused(spoilt, r"vocab.json: a link that cannot be followed|vocab.json: a link to")
    (spoilt / "vocab.json").unlink()
    os.mkfifo(spoilt / "vocab.json")
    refused(spoilt, "vocab.json: neither a file nor a directory")


def test_links_inside_of_the_directory_are_followed(spoilt):
    (spoilt / "files").mkdir()
    (spoilt / "config.json").rename(spoilt / "files/config.json")
    (spoilt / "config.json").symlink_to("files/config.json")
    assert open_model(spoilt, attention="xla").load()


def hub_cache(model, cache, shared):
    """A cache as huggingface_hub makes it: snapshots link to blobs, these to what all share."""
    repository = cache / "models--somebody--tiny"
    snapshot, blobs = repository / "snapshots/abc", repository / "blobs"
    for directory in (snapshot, blobs, repository / "refs", cache / "blobs/00"):
        directory.mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    if shared:
        (cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    for number, file in enumerate(sorted(model.iterdir())):
        blob = blobs / str(number)
        if shared and file.suffix == ".safetensors":
            (cache / "blobs/00" / str(number)).write_bytes(file.read_bytes())
            blob.symlink_to(f"../../blobs/00/{number}")
        else:
            blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_in_the_hubs_cache_is_loaded(model, shared, tmp_path, monkeypatch):
    snapshot = hub_cache(model, tmp_path / "hub", shared)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert open_model("somebody/tiny", attention="xla").load()
    assert open_model(snapshot, attention="xla").load()  # also by its path
    (tmp_path / "link").symlink_to(snapshot)
    assert open_model(tmp_path / "link", attention="xla").load()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(model / "config.json")
    refused(snapshot, "config.json: a link to .*, outside of the model's directory")


# --------------------------------------------------------------------------------------- programs


def a_run(model, place):
    (place / "checkpoints/1").mkdir(parents=True)
    hostile.copy_of(model, place)
    return place


def arguments_of(program, model, place):
    data = write_lines(place / "talks.jsonl", records())
    out = str(place / "out")
    if program is train:
        settings = {"model.path": model, "data.path": data, "data.max_length": 512}
        return train_arguments(place / "run", settings)
    if program is plan:
        settings = {"model.path": model, "data.path": data, "data.max_length": 512}
        arguments = train_arguments(place / "run", settings)
        workdir = arguments.index("--workdir")
        return [*arguments[:workdir], *arguments[workdir + 2 :], "--topology", "v5e:2x2"]
    if program is score:
        return ["--model", str(model), "--data", str(data), "--out", out]
    if program is generate:
        prompts = write_lines(place / "prompts.jsonl", [{"prompt": "Hi"}])
        return ["--model", str(model), "--prompts", str(prompts), "--out", out]
    return ["--checkpoint", str(a_run(model, place / "run")), "--out", out]


@pytest.mark.parametrize(
    "program", [train, generate, score, export, plan], ids=lambda p: p.__name__.split(".")[-1]
)
@pytest.mark.parametrize("fault", ["template", "config"])
def test_programs_end_with_one_message(spoilt, program, fault, tmp_path, capsys):
    file, content, expected = {
        "template": ("chat_template.jinja", hostile.SHORT["an error"], "the chat template cannot"),
        "config": ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    }[fault]
    hostile.put(spoilt / file, content)
    place = tmp_path / "place"
    place.mkdir()
    status, said = outcome(program.main, arguments_of(program, spoilt, place), capsys)
    assert status == 2, said
    assert said.count("error:") == 1 and "Traceback" not in said
    assert file in said and expected in said
