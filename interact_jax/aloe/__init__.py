"""ALOE: learning to infer a user's preferences while talking (arXiv 2410.03642)."""
