"""The group in which the real runs are made: it counts, it limits, and it tells who was killed."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.parts.processes import MIB
from tests.memory.limited import group

TAKE = "import subprocess, sys; len(bytearray(int(sys.argv[1]) << 20)); sys.exit(subprocess.call(sys.argv[2:]) != 0)"


def test_what_a_group_holds_is_counted_with_its_children_and_a_kill_is_told() -> None:
    take = (sys.executable, "-c", TAKE)
    with group(200 * MIB) as limited:
        ended = subprocess.run(limited.command(*take, "20", *take, "100", "true"), check=False)
        assert (ended.returncode, limited.kills) == (0, 0)
        assert 100 * MIB < limited.peak_bytes < 200 * MIB
        killed = subprocess.run(limited.command(*take, "20", *take, "300", "true"), check=False)
        assert (killed.returncode, limited.kills) == (1, 1)
        path = limited.path
    assert not path.exists()
