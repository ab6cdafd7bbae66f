"""`python -m interact_jax train ...`, for when the command `interact` is not on the path."""

import sys

from interact_jax.commands import main

sys.exit(main())
