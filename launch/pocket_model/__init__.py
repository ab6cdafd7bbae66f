"""What makes the pocket model and measures what it can do; for `launch/make_pocket.py`."""
