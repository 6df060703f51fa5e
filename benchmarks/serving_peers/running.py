"""A service while it runs: started, asked, measured, ended with all its processes."""

import contextlib
import http.client
import json
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from .services import Command

WRK = Path(__file__).resolve().with_name("wrk.lua")


class Running:
    """A started service.

    Parameters
    ----------
    process
        The process that was started; its descendants belong to it.
    port
        Where it listens, on loopback.
    route
        The path that predicts.
    headers
        What every request carries.
    """

    def __init__(self, process: subprocess.Popen, port: int, route: str, headers: Mapping[str, str]):
        self.process, self.port, self.route, self.headers = process, port, route, dict(headers)
        self.family: dict[int, psutil.Process] = {}

    def processes(self) -> list[psutil.Process]:
        """All that belong to it and live; those seen once are remembered, for a child may outlive its parent."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            self.family |= {p.pid: p for p in (top, *top.children(recursive=True))}
        return [p for p in self.family.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def ask(self, body: str, timeout_s: float = 60.0, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """(status, JSON or text) of one request; `headers` instead of the usual ones."""
        shown = self.headers if headers is None else headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("POST", self.route, body.encode(), {"Content-Type": "application/json", **shown})
            answer = connection.getresponse()
            content = answer.read()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, content.decode("utf-8", "replace")

    def wait(self, body: str, started: float, timeout_s: float) -> float:
        """Seconds from `started` to its first answer."""
        told: Any = "nobody listens"
        while time.monotonic() - started < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"it must keep running, ended with code {self.process.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, told = self.ask(body)
                if status == 200:
                    return time.monotonic() - started
            time.sleep(0.02)
        raise RuntimeError(f"it must answer within {timeout_s:g} s, got: {str(told)[:500]}")

    def memory_mb(self) -> float:
        """Proportional set size of all its processes: what is shared counts once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def end(self) -> None:
        """End all its processes: asked first, killed after 5 s."""
        for signal in ("terminate", "kill"):
            living = self.processes()
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    getattr(process, signal)()
            self._wait(living)

    def _wait(self, living: list[psutil.Process]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        psutil.wait_procs(living, 5)


@contextlib.contextmanager
def running(
    command: Command, port: int, route: str, body: str, output: Path, timeout_s: float,
) -> Iterator[tuple[Running, float]]:
    """A service within the block, from its first answer to `body`; with the seconds that took.

    Raises
    ------
    RuntimeError
        It did not answer; with its last lines.
    """
    started = time.monotonic()
    with output.open("wb") as log:
        process = subprocess.Popen(command.argv, cwd=command.cwd, env=dict(command.environ), stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    service = Running(process, port, route, command.headers)
    try:
        yield service, service.wait(body, started, timeout_s)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{output.read_text(errors='replace')[-2000:]}") from None
    finally:
        service.end()


def load(service: Running, bodies: Path, connections: int, seconds: float) -> dict[str, float]:
    """What wrk found: requests, seconds, p50_ms, p99_ms, status, socket, timeout; with cpu_ms, the service's processor time
    a request, and others_cores, the cores that neither the service nor wrk used."""
    url = f"http://127.0.0.1:{service.port}{service.route}"
    headers = [part for pair in service.headers.items() for part in pair]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(WRK), url, "--",
               str(bodies), *headers]
    before, own = _others(service), service.cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"wrk must end well, got:\n{done.stderr[-500:]}{done.stdout[-500:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["cpu_ms"] = (service.cpu_s() - own) * 1000 / max(1, found["requests"])
    return found | {"others_cores": max(0.0, _others(service) - before) / found["seconds"]}


def _others(service: Running) -> float:
    """CPU seconds so far of all that is neither the service nor a child of ours that ended, such as wrk."""
    times, ended = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guests are counted among user
    return busy - service.cpu_s() - ended.ru_utime - ended.ru_stime
