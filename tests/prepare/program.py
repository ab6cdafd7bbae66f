"""The program with the filters of `little`: python -m tests.prepare.program --data ..."""

from interact_jax import cli, startup
from launch import prepare_data
from tests.prepare.little import parse_filter

prepare_data.parse_filter_of = lambda: parse_filter

if __name__ == "__main__":
    startup.begin()
    cli.run(prepare_data.main)
