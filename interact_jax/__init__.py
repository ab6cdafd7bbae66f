"""Train a language model on what its users say next: hindsight self-distillation in JAX."""

__version__ = "0.1.0"
