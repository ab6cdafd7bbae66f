"""config.json says that the head is the embedding, and the weights hold a head besides."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interact_jax.models.decoder import head_DxV
from interact_jax.opening import open_model
from interact_jax.schema import InputError, TokenStream
from launch import export, train
from tests.runs import FLOAT32, records, tiny, train_arguments, write_lines

pytestmark = pytest.mark.compiled_quickly

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TOKENS = np.arange(3, 30)[None]


@pytest.fixture
def tied(tmp_path):
    directory = tmp_path / "model"
    tiny(directory, tie_word_embeddings=True)
    return directory


def add_head(directory, change) -> torch.Tensor:
    """Give the weights a head that is the embedding after `change` was at it."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[HEAD] = change(tensors[EMBEDDING].clone())
    save_file(tensors, file, metadata={"format": "pt"})
    return tensors[HEAD]


def shuffled(embedding):
    return embedding[torch.randperm(len(embedding), generator=torch.Generator().manual_seed(0))]


def last_row(embedding):
    embedding[-1, -1] += 1e-3
    return embedding


def their_logits(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32").eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()[0]


def our_logits(model, params):
    zeros = jnp.zeros_like(TOKENS)
    stream = TokenStream(jnp.asarray(TOKENS), jnp.arange(TOKENS.size)[None], zeros + 1, zeros)
    hidden_BxLxD, _ = model.decoder.apply({"params": params}, stream)
    return hidden_BxLxD[0] @ head_DxV(params)


@pytest.mark.parametrize("change", [shuffled, last_row])
def test_a_head_of_its_own_is_loaded_and_exported(tied, change, tmp_path, caplog):
    head = add_head(tied, change)
    expected = their_logits(tied)  # transformers takes it, too
    model = open_model(tied, attention="xla")
    assert "it is loaded, and an export says tie_word_embeddings: false" in caplog.text
    params = model.load()
    np.testing.assert_array_equal(params["head_DxV"].T, head.numpy())
    np.testing.assert_allclose(our_logits(model, params), expected, atol=1e-4)
    model.export(params, tmp_path / "out", "float32")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(their_logits(tmp_path / "out"), expected)


def test_the_head_that_is_the_embedding_stays_tied(tied, tmp_path, caplog):
    add_head(tied, lambda embedding: embedding)
    model = open_model(tied, attention="xla")
    assert "tie_word_embeddings" not in caplog.text
    params = model.load()
    assert "head_DxV" not in params
    model.export(params, tmp_path / "out", "float32")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True
    np.testing.assert_array_equal(their_logits(tmp_path / "out"), their_logits(tied))


def test_a_head_of_another_size_is_refused(tied):
    add_head(tied, lambda embedding: embedding[:-1])
    model = open_model(tied, attention="xla")
    with pytest.raises(InputError, match=r"lm_head.weight has shape \[319, 32\]; expected \[320"):
        model.load()


def test_random_weights_are_tied_as_config_says(tied):
    add_head(tied, shuffled)
    assert open_model(tied, weights=False, attention="xla").config.tied


def test_a_run_keeps_the_head(tied, tmp_path, capsys):
    """Trained, resumed and exported: the run's own config.json knows of the head."""
    add_head(tied, shuffled)
    settings = {
        "model.path": tied,
        "data.path": write_lines(tmp_path / "talks.jsonl", records()),
        "data.max_length": 512,
        **FLOAT32,
        "report.interactions": 0,
        "batch.row_tokens": 64,
        "batch.rows": 1,
        "batch.interactions": 0,
        "batch.conversations": 6,
        "epochs": 0,
        "checkpoint.every": 1,
    }
    train.main(train_arguments(tmp_path / "run", {**settings, "steps": 1}))
    train.main(train_arguments(tmp_path / "run", {**settings, "steps": 2}))
    assert "resuming from step 1" in capsys.readouterr().err
    out = tmp_path / "out"
    export.main(["--checkpoint", str(tmp_path / "run"), "--out", str(out), "--dtype", "float32"])
    for directory in (out, tmp_path / "run/export"):
        assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"] is False
        tensors = load_file(directory / "model.safetensors")
        assert tensors[HEAD].shape == tensors[EMBEDDING].shape
        assert (tensors[HEAD] - tensors[EMBEDDING]).abs().max() > 0.1
