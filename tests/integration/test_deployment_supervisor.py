"""The supervisor with real processes: what it survives, what it restarts, what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlworkbench.deployment import supervisor

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; print('here', flush=True); time.sleep(120)"
WITH_WORKER = (
    "import subprocess, sys, time\n"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'], start_new_session=True)\n"
    "print('worker', worker.pid, flush=True)\n"
    "time.sleep(120)\n"
)


def until(condition: Callable[[], object], seconds: float = 15.0) -> object:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def running(folder: Path) -> bool:
    state = supervisor.read_state(folder)
    return state is not None and state.phase == "running" and bool(supervisor.tail(folder / "service.log"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path.resolve() / "revision"
    path.mkdir()
    yield path
    supervisor.stop(path)
    assert supervisor.supervisor_process(path) is None
    assert supervisor.service_processes(path) == []


def spec(folder: Path, code: str, **changes: object) -> supervisor.Spec:
    return supervisor.Spec((sys.executable, "-c", code), str(folder), **({"wait_s": 0.1} | changes))


def test_a_killed_service_is_started_again(folder: Path) -> None:
    supervisor.launch(folder, spec(folder, SLEEPER))
    assert until(lambda: running(folder))
    first = supervisor.read_state(folder).service
    os.kill(first, signal.SIGKILL)
    assert until(lambda: supervisor.read_state(folder).restarts == 1 and running(folder))
    assert supervisor.read_state(folder).service != first
    assert supervisor.read_state(folder).reason == "ended with code -9"


def test_workers_in_sessions_of_their_own_end_before_the_restart_and_at_the_stop(folder: Path) -> None:
    supervisor.launch(folder, spec(folder, WITH_WORKER))
    assert until(lambda: running(folder))
    worker = int(supervisor.tail(folder / "service.log")[-1].split()[1])
    os.kill(supervisor.read_state(folder).service, signal.SIGKILL)
    assert until(lambda: not psutil.pid_exists(worker))
    assert until(lambda: len(supervisor.tail(folder / "service.log")) == 2)
    second = int(supervisor.tail(folder / "service.log")[-1].split()[1])
    assert supervisor.stop(folder) == 3
    assert not psutil.pid_exists(second)


def test_the_service_survives_the_process_that_started_it(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mlworkbench.deployment import supervisor as s\n"
        f"s.launch(Path({str(folder)!r}), s.Spec((sys.executable, '-c', {SLEEPER!r}), {str(folder)!r}))\n"
        "print('launched', flush=True); time.sleep(120)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    try:
        assert starter.stdout.readline() == "launched\n"
        assert until(lambda: running(folder))
    finally:
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait(10)
    assert supervisor.supervisor_process(folder) is not None
    os.kill(supervisor.read_state(folder).service, signal.SIGKILL)
    assert until(lambda: supervisor.read_state(folder).restarts == 1)


def test_a_service_whose_supervisor_was_killed_goes_on_and_can_still_be_stopped(folder: Path) -> None:
    supervisor.launch(folder, spec(folder, SLEEPER))
    assert until(lambda: running(folder))
    supervisor.supervisor_process(folder).kill()
    assert until(lambda: supervisor.supervisor_process(folder) is None)
    assert len(supervisor.service_processes(folder)) == 1
    assert supervisor.stop(folder) == 1
    assert supervisor.read_state(folder).phase == "stopped"


def test_a_service_that_cannot_live_is_given_up_after_the_last_attempt(folder: Path) -> None:
    supervisor.launch(folder, spec(folder, "raise SystemExit('no model here')", attempts=3))
    assert until(lambda: supervisor.read_state(folder).phase == "gave up")
    state = supervisor.read_state(folder)
    assert (state.restarts, state.reason) == (2, "ended with code 1, 3 times in a row")
    assert supervisor.tail(folder / "service.log") == ["no model here"] * 3
    assert until(lambda: supervisor.supervisor_process(folder) is None)


def test_a_program_that_is_not_there_is_given_up_with_the_reason(folder: Path) -> None:
    supervisor.launch(folder, supervisor.Spec(("/no/such/program",), str(folder), wait_s=0.05, attempts=2))
    assert until(lambda: supervisor.read_state(folder).phase == "gave up")
    assert "could not be started (No such file or directory)" in supervisor.read_state(folder).reason


def test_a_service_that_ignores_the_polite_signal_is_ended_all_the_same(folder: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(99)"
    supervisor.launch(folder, spec(folder, stubborn))
    assert until(lambda: running(folder))
    assert supervisor.end_service(folder, grace_s=0.5) == 1
    assert until(lambda: supervisor.read_state(folder).reason == "ended with code -9")


def test_no_variable_of_the_starter_reaches_the_service_or_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary-7f3a9c")
    shown = "import os, time; print(sorted(os.environ), flush=True); time.sleep(60)"
    supervisor.launch(folder, spec(folder, shown, environment={"MLW_DEPLOYMENT": "lesson"}))
    assert until(lambda: running(folder))
    seen = supervisor.tail(folder / "service.log")[-1]
    assert "MLW_DEPLOYMENT" in seen and "CANARY" not in seen
    assert not any(b"canary-7f3a9c" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_stopping_what_never_ran_does_nothing(tmp_path: Path) -> None:
    assert supervisor.stop(tmp_path) == 0
    assert supervisor.read_state(tmp_path) is None


def test_the_log_is_rotated_while_the_service_writes(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    with open(log, "ab", buffering=0) as service:
        for number in range(5):
            service.write(b"x" * 200)
            assert supervisor.rotate_log(log, limit=150, kept=3)
            service.write(f"line {number}\n".encode())
            assert supervisor.tail(log) == [f"line {number}"]
            os.truncate(log, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["service.log", *(f"service.log.{n}" for n in (1, 2, 3))]
