"""Callers who do not stop: what `wrk` was answered while something else went on."""

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST_S = 600


@dataclass
class Traffic:
    """What the callers saw; filled when they have stopped."""

    requests: int = 0
    failed: int = 0  # connections refused, broken or timed out, and answers that are not 2xx
    told: str = ""


def script(folder: Path, rows: Sequence[dict], key: str) -> Path:
    """What each caller sends."""
    body = json.dumps({"rows": list(rows)})
    lines = ['wrk.method = "POST"', f"wrk.body = [[{body}]]", 'wrk.headers["Content-Type"] = "application/json"',
             f'wrk.headers["X-Api-Key"] = "{key}"', ""]
    path = folder / "callers.lua"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(told: str) -> Traffic:
    """wrk's own account of it."""
    requests = int(re.search(r"(\d+) requests in", told)[1])
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    failed = (sum(map(int, errors.groups())) if errors else 0) + (int(refused[1]) if refused else 0)
    return Traffic(requests, failed, told)


@contextlib.contextmanager
def traffic(wrk: str, url: str, rows: Sequence[dict], key: str, folder: Path, connections: int = 8) -> Iterator[Traffic]:
    """Ask a deployment for predictions without a pause within the block, over connections that are kept alive."""
    command = [wrk, "-t", "1", "-c", str(connections), "-d", f"{LONGEST_S}s", "--timeout", "20s", "-s",
               str(script(folder, rows, key)), f"{url}/predict"]
    callers = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = Traffic()
    try:
        time.sleep(0.5)
        assert callers.poll() is None, callers.communicate()[0]
        yield seen
    finally:
        callers.send_signal(signal.SIGINT)
        told, _ = callers.communicate(timeout=60)
        with contextlib.suppress(TypeError):
            seen.__dict__.update(vars(read(told)))
        seen.told = told
