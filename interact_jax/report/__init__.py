"""Pictures and tables of the signal and of a run: for the terminal, as PNG, as one HTML file."""

from interact_jax.report.pages import write_run_report, write_signal_report
from interact_jax.report.terminal import before_after_lines, token_table
