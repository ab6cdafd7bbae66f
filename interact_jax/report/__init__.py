"""Pictures and tables of the signal and of a run: for the terminal, as PNG, as HTML pages.

run_page, signal_page, replies_page     one page each, linked to one another
evaluation_page                         win rates of models, a page by itself
html, style, heat, plots                building blocks of pages
colour, measures, losses, summing       colours of signals, names and formats of numbers, statistics
"""

from interact_jax.report.evaluation_page import write_evaluation_page
from interact_jax.report.replies_page import Row, write_replies_page
from interact_jax.report.run_page import write_run_report
from interact_jax.report.signal_page import write_signal_report
from interact_jax.report.terminal import (
    before_after_lines,
    signal_table,
    signal_text,
    token_table,
    win_rate_lines,
)
