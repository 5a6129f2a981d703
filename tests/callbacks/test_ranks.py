"""Law 5, on two processes: rank 0 draws, the other goes on; what does not fit ends the run on both."""

import os
import subprocess
import sys
from pathlib import Path

from fits import Events

PROGRAM = Path(__file__).with_name("two_ranks.py")


def run(folder: Path, case: str) -> str:
    command = [sys.executable, str(PROGRAM), str(folder), case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    return done.stdout + done.stderr[-2000:]


def test_rank_zero_draws_and_nobody_waits(tmp_path):
    told = run(tmp_path, "fits")
    assert "rank 0: done" in told
    assert "rank 1: done" in told
    assert Events(tmp_path / "version_0").steps("gradcam/probes") == [3, 6]


def test_a_misfit_ends_the_run_on_both_ranks(tmp_path):
    told = run(tmp_path, "misfit")
    for rank in (0, 1):
        assert f"rank {rank}: `probes` has label 7" in told
