"""How much a template may do, and what is raised where it does more."""

import jinja2

UNITS = 5_000_000  # of work; a node of a template, some 50 ns, is one
UNITS_A_CHARACTER = 4  # more of them for each character of the messages
CALL = 40  # units of a call, a filter or a test, whatever else it costs
LONGEST = 1_000_000  # characters of a text, parts of a list
LONGEST_A_CHARACTER = 16  # more of them for each character of the messages
SOURCE = 100_000  # characters of a template; the longest of well-known models have 20,000
BITS = 4096  # of a whole number
DEPTH = 100  # of lists in lists
WIDTH = 10_000  # characters that a number may pad a text to
NEEDLE = 100  # characters that a search compares at one place at most


class TooMuch(Exception):
    """A template asks for more work, or larger values, than any that is meant well."""


class Declined(jinja2.TemplateError):
    """What `raise_exception` raises: the template does not take these messages."""
