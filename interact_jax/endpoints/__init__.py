"""Models and engines behind HTTP: one retrying transport, and clients for chat endpoints."""
