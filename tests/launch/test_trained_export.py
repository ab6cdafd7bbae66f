"""Hugging Face loads what training exports, and computes the log-probabilities that we compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interact_jax import config, signal, train
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from tests.runs import (
    FLOAT32,
    ONE_ROW_SHARD,
    PLAIN_SGD,
    ROOT,
    overrides,
    records,
    tensors,
    tiny,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

TRAINED = {
    **FLOAT32,
    **PLAIN_SGD,
    **ONE_ROW_SHARD,
    "optim.lr": 0.05,
    "data.max_length": 512,
    "batch.interactions": 0,
    "batch.conversations": 3,
    "batch.rows": 1,
    "epochs": 0,
    "steps": 2,
    "report.interactions": 0,
}


@pytest.mark.parametrize(
    "family, tied",
    [
        pytest.param(family, tied, id=f"{family}-{'tied' if tied else 'untied'}", marks=marks)
        for family, tied, marks in (
            ("qwen3", False, ()),
            ("mistral", True, ()),
            *((name, True, pytest.mark.slow) for name in ("qwen3", "qwen2", "llama")),
            *((name, False, pytest.mark.slow) for name in ("qwen2", "llama", "mistral")),
        )
    ],
)
def test_pytorch_computes_the_same_with_the_trained_model(family, tied, tmp_path, monkeypatch):
    source = tmp_path / "model"
    tiny(source, "llama" if family == "llama" else "chatml", family, tied=tied)
    data = write_lines(tmp_path / "talks.jsonl", records())
    settings = {**TRAINED, "model.path": source, "data.path": data}
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides(settings))
    run = train.start(cfg, tmp_path / "run")
    train.loop(run)
    train.finish(run)
    export = tmp_path / "run" / "export"

    before, after = tensors(source), tensors(export)
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in after) != tied
    moved = [name for name, value in after.items() if np.abs(value - before[name]).max() > 1e-6]
    assert len(moved) > len(after) / 2

    trees = [tree for trees in run.dataset.trees for tree in trees]
    monkeypatch.setattr(signal, "PORTION", 4)  # of trees, so that there are several
    assert len(trees) > 4
    model, params = run.model, run.state.params
    ours = {s.id: s for s in signal.score_trees(model.decoder, params, trees, model.mesh)}
    model = AutoModelForCausalLM.from_pretrained(export).eval()
    assert model.dtype == torch.float32
    for example in (e for tree in trees for unit in tree.units() for e in unit):
        y, scored = example.target.y.tolist(), ours[example.target.id]
        for view, found in ((PLAIN, scored.logp_student), (HINDSIGHT, scored.logp_teacher)):
            context = example.contexts[view].tolist()
            ids = torch.tensor([context + y])
            with torch.no_grad():
                logp = model(ids).logits[0, len(context) - 1 : -1].log_softmax(-1)
            theirs = logp.gather(1, torch.tensor(y)[:, None])[:, 0]
            np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-4)

    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = AutoTokenizer.from_pretrained(export).apply_chat_template(
        chat, add_generation_prompt=True
    )
    expected = AutoTokenizer.from_pretrained(source).apply_chat_template(
        chat, add_generation_prompt=True
    )
    assert ids == expected
