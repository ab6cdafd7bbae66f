"""Hugging Face models in and out: nothing is changed, and what is wrong is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from interact_jax import sharding
from interact_jax.models import hf
from interact_jax.models.decoder import Decoder
from interact_jax.models.families import read_config
from interact_jax.models.hf.rules import RULES
from interact_jax.models.hf.tensor_files import parse_size
from interact_jax.schema import InputError
from tests.tiny import EOS, FAMILY_SIZES, tiny_model, tiny_tokenizer


def tensors_of(directory) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def reexport(source, target, dtype="float32", layout=None, **options) -> dict:
    """Import and export without training; the raw config of the export."""
    raw, config = hf.load_config(source)
    mesh_layout = layout and layout(config)
    params = hf.load_params(source, config, jnp.float32, mesh_layout)
    defaults = {"source_dir": source, "tokenizer_dir": source, "eos_ids": [EOS]}
    hf.export(params, config, raw, target, dtype=dtype, **{**defaults, **options})
    return json.loads((target / "config.json").read_text())


def layout(config):
    """Shardings over 8 devices, some letters cut in two, some in four."""
    mesh = sharding.make_mesh(data=1, fsdp=4, tensor=2)
    shapes = jax.eval_shape(Decoder(config).fresh_params, 0)
    return sharding.layout_of(sharding.with_layout(shapes, mesh))


def edit(directory, name="config.json", **changes) -> None:
    """Change keys of a JSON file; a key that is set to `...` goes."""
    path = directory / name
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model in several files with its tokenizer; tests that spoil something copy it."""
    directory = tmp_path_factory.mktemp("llama")
    tiny_model(directory, "llama", max_shard_size="50KB")
    return tiny_tokenizer(directory, "llama")


@pytest.fixture
def spoilt(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "model")


# ------------------------------------------------------------------------------ in and out


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_round_trip_is_bit_identical(tmp_path, family, tied):
    for dtype in ("float32", "bfloat16"):
        source, target = tmp_path / f"source-{dtype}", tmp_path / f"target-{dtype}"
        model = tiny_model(source, family, tied, dtype=dtype, max_shard_size="50KB")
        tiny_tokenizer(source)
        reexport(source, target, dtype, max_shard_size="60KB")
        before, after = tensors_of(source), tensors_of(target)
        assert before.keys() == after.keys()
        for name in before:
            assert before[name].dtype == after[name].dtype
            assert torch.equal(before[name], after[name]), name

        loaded = AutoModelForCausalLM.from_pretrained(
            target, dtype="auto", attn_implementation="eager"
        )
        assert loaded.dtype == model.dtype
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, loaded.get_parameter(name)), name
        tokens = torch.arange(30)[None]
        assert torch.equal(model(tokens).logits, loaded(tokens).logits)


def test_import_under_shardings_equals_import_on_one_device(llama):
    _, config = hf.load_config(llama)
    one = hf.load_params(llama, config, jnp.float32)
    where = layout(config)
    many = hf.load_params(llama, config, jnp.float32, where)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, many, where))
    assert many["layers"]["q_DxHxK"].addressable_shards[0].data.shape == (3, 12, 2, 12)
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_import_with_layers_on_different_devices(llama):
    """Nothing but the shardings says which axis is cut, N of stacked layers included."""
    _, config = hf.load_config(llama)
    one = hf.load_params(llama, config, jnp.float32)
    stages = jax.make_mesh((3,), ("stage",), devices=jax.devices()[:3])
    where = {key: jax.NamedSharding(stages, jax.P()) for key in one}
    where["layers"] = {key: jax.NamedSharding(stages, jax.P("stage")) for key in one["layers"]}
    many = hf.load_params(llama, config, jnp.float32, where)
    assert many["layers"]["gate_DxF"].addressable_shards[0].data.shape == (1, 48, 64)
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_export_of_sharded_parameters(llama, tmp_path):
    reexport(llama, tmp_path / "out", layout=layout)
    before, after = tensors_of(llama), tensors_of(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before | after)


def test_import_reads_only_what_its_devices_hold(llama, monkeypatch):
    """Parts are cut in the file, a part that several devices hold is read once."""
    _, config = hf.load_config(llama)
    read = []
    original = hf.importing.TensorFiles.read

    def spy(self, name, index):
        part = original(self, name, index)
        read.append((name, part.size))
        return part

    monkeypatch.setattr(hf.importing.TensorFiles, "read", spy)
    hf.load_params(llama, config, jnp.float32, layout(config))
    total = sum(x.numel() for x in tensors_of(llama).values())
    assert sum(size for _, size in read) == total
    assert max(size for name, size in read if "q_proj" in name) == 48 * 48 // 8


def test_no_file_stays_mapped(llama, monkeypatch):
    """What was read of it would count as memory of the process until all parameters are there."""
    _, config = hf.load_config(llama)
    original, mapped = hf.importing.TensorFiles.read, []

    def spy(self, name, index):
        part = original(self, name, index)
        mapped.append(str(self.file(name)) in Path("/proc/self/maps").read_text())
        return part

    monkeypatch.setattr(hf.importing.TensorFiles, "read", spy)
    hf.load_params(llama, config, jnp.float32)
    assert mapped and not any(mapped)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.ours)
def test_a_part_by_rule_is_that_part_of_the_whole(rule):
    """Any part, also one that cuts within heads; and backwards undoes forwards."""
    sizes = {"V": 10, "D": 6, "H": 4, "G": 2, "K": 3, "F": 5}
    theirs = np.random.default_rng(0).normal(size=rule.their_shape(sizes))
    whole = rule.forwards(theirs.__getitem__, (slice(None),) * len(rule.letters), sizes)
    assert whole.shape == tuple(sizes[letter] for letter in rule.letters)
    np.testing.assert_array_equal(rule.backwards(whole), theirs)
    part = tuple(slice(1, sizes[letter] - 1) for letter in rule.letters)
    np.testing.assert_array_equal(rule.forwards(theirs.__getitem__, part, sizes), whole[part])


def test_parameters_are_stored_in_param_dtype(llama):
    _, config = hf.load_config(llama)
    params = hf.load_params(llama, config, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    source = tensors_of(llama)["model.norm.weight"].bfloat16().float().numpy()
    np.testing.assert_array_equal(params["final_norm_D"].astype(np.float32), source)


def test_float16_weights(spoilt):
    for path in spoilt.glob("*.safetensors"):
        halves = {name: x.half() for name, x in load_file(path).items()}
        save_file(halves, path, metadata={"format": "pt"})
    _, config = hf.load_config(spoilt)
    params = hf.load_params(spoilt, config, jnp.float32)
    expected = tensors_of(spoilt)["lm_head.weight"].float().numpy().T
    np.testing.assert_array_equal(params["head_DxV"], expected)


# ---------------------------------------------------------------------------------- export


def test_shards_keep_to_their_size_and_are_indexed(llama, tmp_path):
    out = tmp_path / "out"
    reexport(llama, out, max_shard_size="70KB")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert files == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    sizes = {}
    for file in files:
        with safe_open(out / file, "pt") as handle:
            assert handle.metadata() == {"format": "pt"}
            names = handle.keys()
            assert all(index["weight_map"][name] == file for name in names)
            sizes[file] = sum(handle.get_tensor(name).nbytes for name in names)
    assert max(sizes.values()) <= 70_000
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["metadata"]["total_parameters"] == sum(sizes.values()) // 4

    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # weights as readable as JSON

    reexport(llama, out)  # again, over it, in one file: nothing of the first stays
    assert [path.name for path in out.glob("model*")] == ["model.safetensors"]


def test_export_holds_one_file_of_tensors_at_a_time(llama, tmp_path, monkeypatch):
    """The tensors of a file are gone before those of the next are made."""
    import weakref

    from interact_jax.models.hf.rules import Rule

    made, most = [], [0]
    original = Rule.backwards

    def spy(self, ours):
        tensor = original(self, ours)
        made.append(weakref.ref(tensor))
        most[0] = max(most[0], sum(t().nbytes for t in made if t() is not None))
        return tensor

    monkeypatch.setattr(Rule, "backwards", spy)
    reexport(llama, tmp_path / "out", max_shard_size="70KB")
    assert len(made) > 20
    assert most[0] <= 70_000


def test_config_in_both_spellings(llama, tmp_path):
    written = reexport(llama, tmp_path / "out", "bfloat16")
    assert written["torch_dtype"] == written["dtype"] == "bfloat16"
    assert written["architectures"] == ["LlamaForCausalLM"]
    assert written["vocab_size"] == 320
    _, config = hf.load_config(llama)
    old = {key: value for key, value in written.items() if key not in ("rope_parameters", "dtype")}
    new = {
        key: value
        for key, value in written.items()
        if key not in ("rope_theta", "rope_scaling", "torch_dtype")
    }
    assert "rope_theta" not in old["rope_scaling"]
    assert read_config(old) == read_config(new) == read_config(written) == config


def test_eos_of_the_source_is_kept_and_extended(spoilt, tmp_path):
    edit(spoilt, "generation_config.json", eos_token_id=[7, 2], temperature=0.6, do_sample=True)
    edit(spoilt, eos_token_id=7)
    out = tmp_path / "out"
    written = reexport(spoilt, out, eos_ids=[2, 5])
    assert written["eos_token_id"] == [7, 2, 5]
    assert hf.eos_token_ids(out) == [7, 2, 5]
    generation = GenerationConfig.from_pretrained(out)
    assert generation.eos_token_id == [7, 2, 5]
    assert (generation.bos_token_id, generation.pad_token_id) == (1, 0)
    assert generation.temperature == 0.6


def test_eos_token_ids(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    assert hf.eos_token_ids(tmp_path) == [3]
    (tmp_path / "generation_config.json").write_text('{"temperature": 1.0}')
    assert hf.eos_token_ids(tmp_path) == [3]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    assert hf.eos_token_ids(tmp_path) == [4, 5]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(InputError, match=r"eos_token_id='</s>'; expected a token id or a list"):
        hf.eos_token_ids(tmp_path)


def test_export_of_random_parameters_from_config_and_another_tokenizer(llama, tmp_path):
    """The source may hold config.json only; the tokenizer comes over byte for byte."""
    source, tokenizer, out = tmp_path / "source", tmp_path / "tokenizer", tmp_path / "out"
    source.mkdir()
    shutil.copy(llama / "config.json", source)
    tiny_tokenizer(tokenizer, "think")
    (tokenizer / "additional_chat_templates").mkdir()
    (tokenizer / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    raw, config = hf.load_config(source)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(Decoder(config).fresh_params, 0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    hf.export(
        params,
        config,
        raw,
        out,
        dtype="float32",
        source_dir=source,
        tokenizer_dir=tokenizer,
        eos_ids=[9],
    )
    copied = [path.relative_to(tokenizer) for path in tokenizer.rglob("*") if path.is_file()]
    assert len(copied) == 4
    for path in copied:
        assert (tokenizer / path).read_bytes() == (out / path).read_bytes()
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert json.loads((out / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": [EOS, 9],
        "pad_token_id": 0,
    }
    model = AutoModelForCausalLM.from_pretrained(out)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy().T, params["head_DxV"])


def test_tokenizer_saved_by_transformers_5_gets_a_name_that_4_knows(llama, tmp_path):
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    loaded = AutoTokenizer.from_pretrained(llama, extra_special_tokens=["<|head|>"])
    loaded.save_pretrained(tokenizer)
    saved = json.loads((tokenizer / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "TokenizersBackend"
    reexport(llama, out, tokenizer_dir=tokenizer)
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|head|>"]
    assert "extra_special_tokens" not in written
    again = AutoTokenizer.from_pretrained(out)
    assert again.all_special_tokens == loaded.all_special_tokens
    assert again.get_vocab() == loaded.get_vocab()


def test_no_parameter_is_left_out_of_an_export(llama, tmp_path):
    raw, config = hf.load_config(llama)
    params = hf.load_params(llama, config, jnp.float32)
    params["layers"]["q_lora_DxR"] = jnp.zeros((3, 48, 2))
    with pytest.raises(ValueError, match="q_lora_DxR"):
        hf.export(
            params,
            config,
            raw,
            tmp_path / "out",
            dtype="float32",
            source_dir=llama,
            tokenizer_dir=llama,
            eos_ids=[],
        )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "size, expected",
    [("5GB", 5_000_000_000), ("1.5 MB", 1_500_000), ("2GiB", 2 << 30), (77, 77), ("10b", 10)],
)
def test_parse_size(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", ["five", "5 PB", "0GB", "-1", "0.5", "7" * 400, "99999999999TB"], ids=lambda x: x[:20]
)
def test_parse_size_errors(size):
    with pytest.raises(InputError, match="expected a size such as 5GB"):
        parse_size(size)


def test_export_dtype_error(llama, tmp_path):
    with pytest.raises(InputError, match=r"export.dtype='int8': expected one of float32, bfloat16"):
        reexport(llama, tmp_path / "out", "int8")


# ---------------------------------------------------------------------------------- errors


def load(directory):
    _, config = hf.load_config(directory)
    return hf.load_params(directory, config, jnp.float32)


def change_tensors(directory, change) -> None:
    """Pack all tensors into one file, after `change` has been at them."""
    tensors = tensors_of(directory)
    for path in directory.glob("model*"):
        path.unlink()
    change(tensors)
    save_file(
        {name: x.contiguous() for name, x in tensors.items()}, directory / "model.safetensors"
    )


def test_missing_shard(spoilt):
    (spoilt / "model-00002-of-00007.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of the 7 files .* are missing: model-00002-of-00007"):
        load(spoilt)


def test_missing_tensors(spoilt):
    def change(tensors):
        del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]

    change_tensors(spoilt, change)
    with pytest.raises(
        InputError,
        match=r"2 of 30 tensors are missing: model.layers.1.mlp.up_proj.weight, model.norm.weight.",
    ):
        load(spoilt)


def test_missing_head_suggests_tied_embeddings(spoilt):
    change_tensors(spoilt, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(InputError, match=r'lm_head.weight.*needs "tie_word_embeddings": true'):
        load(spoilt)


def test_unexpected_tensors(spoilt):
    def change(tensors):
        tensors["model.layers.0.self_attn.q_proj.lora_A"] = torch.zeros(2, 2)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)

    change_tensors(spoilt, change)
    with pytest.raises(InputError, match=r"1 tensors that .* does not have: .*lora_A. They would"):
        load(spoilt)


def test_more_layers_than_config_says(spoilt):
    edit(spoilt, num_hidden_layers=2)
    with pytest.raises(InputError, match=r"9 tensors that .* \(2 layers\) does not have: .*1 more"):
        load(spoilt)


def test_leftovers_that_mean_nothing_are_ignored(tmp_path):
    tiny_model(tmp_path, "qwen3", tied=True)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)

    change_tensors(tmp_path, change)
    assert "head_DxV" not in load(tmp_path)


def test_wrong_shape(spoilt):
    edit(spoilt, intermediate_size=65)
    with pytest.raises(
        InputError,
        match=r"model-0000\d-of-00007.safetensors: tensor model.layers.0.mlp.down_proj.weight has "
        r"shape \[48, 64\]; expected \[48, 65\] \(D x F\)",
    ):
        load(spoilt)


def test_quantised_weights(spoilt):
    def change(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    change_tensors(spoilt, change)
    with pytest.raises(InputError, match=r"model.norm.weight is stored as I8; .* F32, BF16, F16"):
        load(spoilt)
    edit(spoilt, quantization_config={"quant_method": "gptq"})
    with pytest.raises(InputError, match=r"quantization_config=.* is not supported for llama"):
        load(spoilt)


@pytest.mark.parametrize("keep", [-10, 50, 3, 0])
def test_truncated_file(spoilt, keep):
    path = spoilt / "model-00003-of-00007.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        InputError, match=r"model-00003-of-00007.safetensors: damaged or incomplete"
    ):
        load(spoilt)


def test_git_lfs_pointer(spoilt):
    path = spoilt / "model-00003-of-00007.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(InputError, match="a Git LFS pointer and not the weights"):
        load(spoilt)


def test_index_of_another_download(spoilt):
    index = spoilt / "model.safetensors.index.json"
    settings = json.loads(index.read_text())
    settings["weight_map"]["model.norm.weight"] = "model-00001-of-00007.safetensors"
    index.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"model-00001-of.* lacks tensors .*: model.norm.weight"):
        load(spoilt)
    index.write_text("{}")
    with pytest.raises(InputError, match=r"index.json: not an index of safetensors files"):
        load(spoilt)


def test_only_pytorch_weights(spoilt):
    for path in spoilt.glob("model*"):
        path.unlink()
    with pytest.raises(InputError, match=r"no weights. Expected model.safetensors, or"):
        load(spoilt)
    (spoilt / "pytorch_model-00001-of-00002.bin").touch()
    with pytest.raises(InputError, match=r"only PyTorch weights .* Convert them once to safetens"):
        load(spoilt)


def test_config_errors(spoilt):
    for model_type in ("gemma3_text", "qwen3_moe", None):
        edit(spoilt, model_type=model_type)
        with pytest.raises(
            InputError, match=r"config.json: model_type .* qwen3, qwen2, llama, mis"
        ):
            hf.load_config(spoilt)
    path = spoilt / "config.json"
    path.write_text('{\n  "model_type": llama\n}')
    with pytest.raises(InputError, match=r"config.json:2:17: broken JSON: Expecting value"):
        hf.load_config(spoilt)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"config.json: expected a JSON object, found list"):
        hf.load_config(spoilt)
    path.unlink()
    with pytest.raises(InputError, match=r"config.json: no such file; .* There is chat_template"):
        hf.load_config(spoilt)


def test_resolve(llama, tmp_path):
    assert hf.resolve(str(llama)) == llama
    with pytest.raises(InputError, match=r"config.json: a file; expected the directory"):
        hf.resolve(str(llama / "config.json"))
    for path in ("./nowhere", "runs/quickstart/exprt", "two words"):
        with pytest.raises(InputError, match="no such directory, and no Hugging Face hub id"):
            hf.resolve(path)
    with pytest.raises(
        InputError, match=r"nobody/nothing: no such directory \(/.*\), and the Hugging Face hub did"
    ):
        hf.resolve("nobody/nothing")  # offline, as conftest sets it


def test_resolve_finds_what_was_downloaded_before(llama, tmp_path, monkeypatch):
    """A snapshot in the hub's cache serves without network."""
    snapshot = tmp_path / "models--somebody--tiny" / "snapshots" / "abc"
    shutil.copytree(llama, snapshot)
    refs = tmp_path / "models--somebody--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hf.load_config(hf.resolve("somebody/tiny")) == hf.load_config(llama)


def test_resolve_downloads_weights_only_where_wanted(tmp_path, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hf.resolve("somebody/tiny") == hf.resolve("somebody/tiny", weights=False) == tmp_path
    assert set(asked[0]) - set(asked[1]) == {"model*.safetensors"}
