"""Training and evaluation of the pocket model, for `launch/make_pocket.py`."""
