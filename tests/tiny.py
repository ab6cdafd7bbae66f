"""Tiny tokenizers and Hugging Face models for tests, made in well under a second each.

Both know each other: the special tokens of `tiny_tokenizer` are the ids in `tiny_model`'s config.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = 0, 1, 2

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Replies in the history lack the empty block that a generation prompt ends in, as in Qwen3: what
# the model saw when it replied is then no prefix of what it sees one turn later.
THINK = CHATML.replace(
    "{{ '<|im_start|>assistant\\n' }}",
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% endif %}",
)
# It thinks unless it is told not to: reasoning stands beside the text or in it, and is shown of the
# last reply only, as in Qwen3.
REASONS = (
    "{% for m in messages %}"
    "{% set c = m.content %}{% set r = m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set r = r or c.split('</think>')[0].split('<think>')[-1] | trim %}"
    "{% set c = c.split('</think>')[-1].lstrip() %}"
    "{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if r and loop.last %}{{ '<think>\\n' + r + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ c + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% endif %}{% endif %}"
)
# Its generation prompt opens the block, and nothing turns that off, as in DeepSeek-R1.
OPENS = (
    "{% for m in messages %}"
    "{% set c = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip() %}"
    "{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + c + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{{ '<|head|>' + m.role + '<|/head|>\\n\\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
# template, special tokens (the first three: PAD, BOS, EOS), tokens that are whole but not special
TEMPLATES: dict[str, tuple[str, list[str], list[str]]] = {
    "chatml": (CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], []),
    "think": (THINK, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"]),
    "reasons": (REASONS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"]),
    "opens": (OPENS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"]),
    "llama": (LLAMA, ["<|pad|>", "<|begin|>", "<|eot|>", "<|head|>", "<|/head|>"], []),
}
TEXT = (
    "user assistant system. What is the capital of France? The capital of France is Paris. "
    "Please answer in one word, thank you. How do I sort a list in Python? Use sorted(list). "
    "That is wrong; the answer should be shorter and more polite."
)


def tiny_tokenizer(directory: Path | str, template: str = "chatml") -> Path:
    """Write a byte-level BPE of about 300 tokens with a chat template of TEMPLATES."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    chat_template, special, whole = TEMPLATES[template]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in whole])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the name that transformers 4 and 5 know
        "pad_token": special[PAD],
        "eos_token": special[EOS],
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    if template == "llama":
        config["bos_token"] = special[BOS]
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (directory / "chat_template.jinja").write_text(chat_template)
    return directory


FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "qwen2": {},
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "mistral": {"sliding_window": 6, "head_dim": 16},
}


def tiny_model(
    directory: Path | str,
    family: str = "qwen3",
    tied: bool = False,
    *,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    seed: int = 0,
    **sizes: Any,
) -> Any:
    """Write a random Hugging Face model (and return it, in torch); `sizes` are keys of its config.

    Every parameter is random, biases and norms too: a fresh model has zeros and ones there, which
    would hide a mistake.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 320,  # more than the tokenizer has, as in many released models
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **FAMILY_SIZES[family],
        **sizes,
    }
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            noise = 1 + 0.2 * noise if "norm" in name else 0.15 * noise
            parameter.data = noise.to(getattr(torch, dtype))  # not model.to(): RoPE stays float32
    model.tie_weights()
    model.config.dtype = getattr(torch, dtype)
    model.eval()
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model
