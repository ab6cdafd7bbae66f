"""Servers that clients are tested against: processes on the loopback address, told when to fail."""
