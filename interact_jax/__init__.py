"""Train a language model on what its users say next: hindsight self-distillation in JAX."""

__version__ = "0.1.0"
# Addresses without a trailing slash. Where one is "", nothing refers to it. The notebooks start
# before the package is installed and repeat REPOSITORY; a test compares them.
REPOSITORY = ""
DOCUMENTATION = ""
