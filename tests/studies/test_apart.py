"""Cases in processes of their own, interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no list of processes")
def test_ctrl_c_while_processes_start_is_that_of_the_caller_alone():
    """A terminal sends it to all of them: those that were importing printed tracebacks, and the pool's own thread another."""
    code = (
        "import time; from criticality.studies.apart import results_apart; list(results_apart(time.sleep, [60] * 4, 2))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 100
    while time.monotonic() < until and len(_group(driver.pid)) < 4:  # itself, two workers, their tracker
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGINT)
    _, error = driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGINT
    assert error.count("Traceback") == error.count("KeyboardInterrupt") == 1, error
    until = time.monotonic() + 10
    while time.monotonic() < until and _group(driver.pid):
        time.sleep(0.05)
    assert not _group(driver.pid)


def _group(leader):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, state, _, group, *_ = path.read_text().rsplit(")", 1)[1].split(" ")
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(path)
    return found
