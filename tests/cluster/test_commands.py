"""What a supervisor starts."""

import pytest

from interact_jax.cluster.supervisor import commands

pytestmark = pytest.mark.one_device


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("launch/train.py --config a", "python launch/train.py --config a"),
        ("train --config a", "python -m interact_jax train --config a"),
        ("prepare-data --data a", "python -m interact_jax prepare-data --data a"),
        ("bash run.sh", "bash run.sh"),
    ],
)
def test_a_program_is_a_file_or_a_name(given, command):
    assert commands(given.split(), "python") == command.split()
