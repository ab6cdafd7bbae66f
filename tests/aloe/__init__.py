"""ALOE: personas, calls, roles and conversations."""
