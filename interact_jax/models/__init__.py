"""Decoder-only language models in Flax linen, imported from and exported to Hugging Face."""
