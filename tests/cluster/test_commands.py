"""What a supervisor starts."""

import pytest

from interact_jax.cluster.supervisor import commands
from interact_jax.schema import InputError
from tests.runs import ROOT

pytestmark = pytest.mark.one_device
TRAIN = ROOT / "launch/train.py"


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (f"{TRAIN} --config a", f"python {TRAIN} --config a"),
        ("train --config a", "python -m interact_jax train --config a"),
        ("bash run.sh", "bash run.sh"),
    ],
)
def test_a_program_is_a_file_or_a_name(given, command):
    assert commands(given.split(), "python") == command.split()


@pytest.mark.parametrize("program", ["trian", "launch/trian.py", "evaluate"])
def test_a_program_that_is_not_there_is_named(program):
    with pytest.raises(InputError, match=f"{program}: there is no such program"):
        commands([program], "python")
