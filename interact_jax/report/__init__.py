"""Pictures and tables of the signal and of a run: for the terminal, as PNG, as HTML pages.

run_page, signal_page, replies_page     a page each, which link one another
html, style, heat, plots                what they are made of
colour, measures, losses, summing       what signals, names and numbers look like and mean
"""

from interact_jax.report.replies_page import replies_page
from interact_jax.report.run_page import write_run_report
from interact_jax.report.signal_page import write_signal_report
from interact_jax.report.terminal import before_after_lines, token_table
