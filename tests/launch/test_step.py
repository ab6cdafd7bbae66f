"""One step of launch/train.py is the paper's offline step, written plainly in PyTorch: two full
forwards for every interaction, and none of our code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from launch import train
from tests.runs import (
    FLOAT32,
    PLAIN_SGD,
    read_lines,
    records,
    tensors,
    tiny,
    train_arguments,
    write_lines,
)

pytestmark = pytest.mark.compiled_quickly

HINDSIGHT = (
    "\n\n[HINDSIGHT CONTEXT]\nThe following is a user response to your previous, insufficient"
    " attempt. Improve your response to the user prompt.\nFuture User Message: "
)
IGNORE_FIRST = 2
LR = 0.1
TALKS = records(system="Be polite.")


def interactions(tokenizer):
    """(ids of x, ids of x and o, ids of y and EOS) of every reply that is followed up."""

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(messages):
        return ids(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    for talk in TALKS:
        messages = talk["messages"]
        for i in range(1, len(messages) - 1):
            if messages[i]["role"] != "assistant":
                continue
            question = messages[i - 1]["content"] + HINDSIGHT + messages[i + 1]["content"]
            x = messages[:i]
            xo = [*messages[: i - 1], {"role": "user", "content": question}]
            yield prompt(x), prompt(xo), [*ids(messages[i]["content"]), tokenizer.eos_token_id]


def reply_logp(model, context, y):
    logits = model(torch.tensor([context + y])).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(y)[:, None])[:, 0]


def paper_step(model, tokenizer):
    """(mean loss, gradient norm, interactions) of one SGD step, which moves `model`."""
    losses = []
    for x, xo, y in interactions(tokenizer):
        if len(y) <= IGNORE_FIRST:
            continue
        student = reply_logp(model, x, y)
        with torch.no_grad():
            signal = reply_logp(model, xo, y) - student
        losses.append(-(signal * student)[IGNORE_FIRST:].mean())
    loss = torch.stack(losses).mean()
    model.zero_grad()
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p -= LR * g
    return loss.item(), norm.item(), len(losses)


PAPERS = {"think-qwen3": ("think", "qwen3", True), "chatml-llama": ("chatml", "llama", False)}


@pytest.fixture(scope="module")
def paper(request, tmp_path_factory):
    """(directory of model and data, what the step gives, tensors after it)."""
    template, family, tied = PAPERS[request.param]
    directory = tmp_path_factory.mktemp("paper")
    model = tiny(directory, template, family, tied=tied)
    write_lines(directory / "talks.jsonl", TALKS)
    step = paper_step(model, AutoTokenizer.from_pretrained(directory))
    after = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return directory, step, after


@pytest.mark.parametrize(
    "paper, sharing",
    [
        ("think-qwen3", "tree"),
        ("chatml-llama", "none"),
        pytest.param("think-qwen3", "none", marks=pytest.mark.slow),
        pytest.param("chatml-llama", "tree", marks=pytest.mark.slow),
    ],
    indirect=["paper"],
)
def test_step_is_that_of_the_paper(paper, sharing, tmp_path):
    directory, (loss, norm, count), after = paper
    settings = {
        "model.path": directory,
        "data.path": directory / "talks.jsonl",
        "data.max_length": 512,
        "sharing": sharing,
        "batch.row_tokens": 64,
        "batch.rows": 1,
        "batch.interactions": 0,
        "batch.conversations": len(TALKS),
        "epochs": 0,
        "steps": 1,
        **FLOAT32,
        **PLAIN_SGD,
        "optim.lr": LR,
        "objective.ignore_first": IGNORE_FIRST,
        "report.interactions": 0,
    }
    train.main(train_arguments(tmp_path, settings))
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["interactions"] == count < 12  # two replies are too short to count
    assert line["loss"] == pytest.approx(loss, rel=2e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=2e-5)
    found = tensors(tmp_path / "export")
    assert found.keys() == after.keys()
    for name, value in after.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=2e-6, err_msg=name)
