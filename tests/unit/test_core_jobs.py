"""Progress, cancelling, and commands that leave no child behind."""

import os
import sys
import time

import pytest

from mlworkbench.core.errors import Cancelled, MissingPart, WorkbenchError
from mlworkbench.core.jobs import Job, report, run_command


def wait_until(holds, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_cancelling_a_job_ends_its_command_and_the_commands_children(tmp_path):
    child = tmp_path / "child"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
open({str(child)!r}, "w").write(str(child.pid))
time.sleep(120)
"""
    job = Job(lambda: run_command([sys.executable, "-c", code], where="test")).start()
    assert wait_until(lambda: child.exists() and child.read_text())
    job.cancel()
    assert job.wait(15) and job.state == "cancelled" and isinstance(job.error, Cancelled)

    def gone() -> bool:
        try:
            os.kill(int(child.read_text()), 0)
        except ProcessLookupError:
            return True
        return open(f"/proc/{child.read_text()}/stat").read().split()[2] == "Z"

    assert wait_until(gone)


def test_a_command_that_takes_too_long_is_ended_with_its_last_lines():
    code = "print('still here', flush=True); import time; time.sleep(60)"
    with pytest.raises(WorkbenchError, match="(?s)within 1 s.*still here"):
        run_command([sys.executable, "-c", code], where="test", timeout_s=1)


def test_a_missing_program_is_a_missing_part():
    with pytest.raises(MissingPart, match="no-such-program"):
        run_command(["no-such-program"], where="test")


def test_two_jobs_do_not_hear_each_other():
    def work(word):
        for i in range(20):
            report(f"{word} {i}", i / 20)
            time.sleep(0.001)

    jobs = [Job(work, word=w).start() for w in ("a", "b")]
    assert all(j.wait(10) for j in jobs)
    assert [{line.split()[0] for _, line in j.lines} for j in jobs] == [{"a"}, {"b"}]


def test_a_failed_job_keeps_its_error():
    job = Job(lambda: 1 / 0).start()
    assert job.wait(10)
    assert job.state == "failed" and isinstance(job.error, ZeroDivisionError)
