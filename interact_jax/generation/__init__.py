"""Sampling replies from a decoder: prompts in, token ids with their log-probabilities out."""

from interact_jax.generation.engine import (
    Completion,
    Engine,
    NotFinite,
    Request,
    SamplingParams,
    requests_for,
)
from interact_jax.generation.prompts import (
    Prompt,
    count_repairs,
    encode_prompt,
    fit_prompt,
    read_prompts,
)
from interact_jax.generation.sampler import Sampler
