"""Run by several processes: one bit is flipped in every file of a checkpoint in turn, and all of
them have to notice it.

    python launch/supervise.py --local 2 tests/cluster/flip_bits.py RUN/checkpoints/4
"""

import os
import sys
from pathlib import Path

from interact_jax import saved
from interact_jax.cluster import place, processes
from interact_jax.digests import Damaged


def noticed(checkpoint: Path, file: Path) -> bool:
    """Whether the check names the file."""
    try:
        saved.check(checkpoint)
    except Damaged as error:
        return str(file.relative_to(checkpoint)) in str(error)
    return False


def main(checkpoint: Path) -> None:
    processes.join(place.find(place.Flags(), os.environ))
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
    missed = []
    for n, file in enumerate(files):
        sound = file.read_bytes()
        processes.meet("read")
        if processes.is_first() and sound:
            at = n % len(sound)
            file.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << n % 8]) + sound[at + 1 :])
        processes.meet("flipped")
        if sound and not noticed(checkpoint, file):
            missed.append(str(file))
        processes.meet("looked")
        if processes.is_first() and sound:
            file.write_bytes(sound)
    processes.meet("mended")
    saved.check(checkpoint)  # raises nothing
    assert not missed, missed
    print(f"process {place.find(place.Flags(), os.environ).process}: {len(files)} files")
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
