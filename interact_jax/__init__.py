"""Train a language model on what its users say next: hindsight self-distillation in JAX."""

__version__ = "0.1.0"
# Addresses without a slash at the end. Where one is "", nothing refers to it. The notebooks, which
# begin before the package is there, repeat REPOSITORY; a test compares them.
REPOSITORY = ""
DOCUMENTATION = ""
