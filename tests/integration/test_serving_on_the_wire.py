"""What reaches a socket before it is a request: broken HTTP, callers that never finish, crowds that only sit there; and
schemathesis, which reads the service's own documentation and tries to catch it out."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from handmade_bundle import Served, census, census_bundle, json_rows
from load import call, request

KEY = "a-key-for-tests-only"
SHOWN = {"authorization": f"Bearer {KEY}"}
TIMEOUT_S = 3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("wire")
    bundle = census_bundle(home / "census", max_body_mb=0.25, max_rows=60, auth="on", timeout_s=TIMEOUT_S,
                           explain_rows=4, explain_evaluations=32)
    with Served(bundle, home=home, log=home / "log", MLW_API_KEY=KEY) as served:
        yield served


@pytest.fixture(scope="module")
def good() -> bytes:
    """A body that is answered with 200."""
    return json.dumps({"rows": json_rows(census()[0].head(1))}).encode()


@pytest.fixture(autouse=True)
def alive(served, good):
    """After each test the same worker answers, and has not grown."""
    (worker,) = served.workers()
    before = psutil.Process(worker).memory_info().rss
    yield
    assert httpx.post(f"{served.url}/predict", content=good, headers=SHOWN).status_code == 200
    assert served.workers() == [worker] and psutil.Process(worker).memory_info().rss - before < 48 * 2**20
    assert "Traceback" not in served.output.read_text()


def say(served: Served, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """What a socket is answered to these bytes, until the service closes it or has answered."""
    answer = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait_s) as wire:
        with contextlib.suppress(OSError):  # refused before all was sent
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := wire.recv(65536):
                answer += part
    return answer


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
BROKEN = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "noise": bytes(range(256)) * 40,
    "nothing": b"",
    "a version that is none": b"GET /livez HTTP/9.9\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "no method": b" /predict HTTP/1.1\r\n\r\n",
    "a path of a megabyte": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n",
    "a header of a megabyte": b"GET /livez HTTP/1.1\r\nx: " + b"a" * 2**20 + b"\r\n\r\n",
    "ten thousand headers": b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
    "a header without a name": b"GET /livez HTTP/1.1\r\n: x\r\n\r\n",
    "a header with a line feed": b"GET /livez HTTP/1.1\r\nx: a\nb: c\r\n\r\n",
    "a header with a zero": b"GET /livez HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    "a negative length": HEAD + b"content-length: -5\r\n\r\n{}",
    "a length that is none": HEAD + b"content-length: five\r\n\r\n{}",
    "a length beyond all": HEAD + b"content-length: " + b"9" * 30 + b"\r\n\r\n{}",
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "a length, and chunks": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /model HTTP/1.1\r\n\r\n",
    "a chunk of no size": HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "a chunk of every size": HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
    "an encoding that is none": HEAD + b"transfer-encoding: sideways\r\n\r\n{}",
    "a body that stops": HEAD + b"content-length: 500\r\n\r\n{\"rows\": [",
    "a path that climbs": b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path that is encoded": b"GET /%2e%2e/%00%ff HTTP/1.1\r\nhost: x\r\n\r\n",
    "another host's path": b"GET http://elsewhere.example/livez HTTP/1.1\r\nhost: x\r\n\r\n",
    "CONNECT": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a websocket": b"GET /predict HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                   b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_http_is_refused_or_answered_and_nothing_else_happens(served, kind):
    answer = say(served, BROKEN[kind])
    statuses = [int(line.split()[1]) for line in answer.splitlines() if line.startswith(b"HTTP/1.1 ")]
    assert all(status < 500 for status in statuses) and len(answer) < 10 * 2**20, answer[:300]
    assert b"root:" not in answer and b'"predictions"' not in answer and b"Traceback" not in answer


def test_a_thousand_requests_in_one_go_are_all_answered(served):
    answer = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        while answer.count(b"HTTP/1.1 200 OK") < 1000:
            part = wire.recv(65536)
            assert part, answer[-300:]
            answer += part


def test_what_is_smuggled_behind_a_request_is_not_answered_as_a_second_one_with_the_first_s_key(served):
    answer = say(served, BROKEN["a length, and chunks"])
    assert b'"manifest_sha256"' not in answer and answer.count(b"HTTP/1.1 200") == 0


def test_callers_that_never_finish_are_told_so_and_others_are_answered_meanwhile(served, good, size):
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(size("serving_slow_callers")):
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))
            wire.sendall(HEAD + b"content-length: 500\r\n\r\n{\"rows\": [")
            slow.append(wire)
        for _ in range(20):
            assert httpx.post(f"{served.url}/predict", content=good, headers=SHOWN, timeout=10).status_code == 200
        end = time.monotonic() + TIMEOUT_S + 25
        for wire in slow:  # each is given up, with a word of why
            wire.settimeout(max(0.1, end - time.monotonic()))
            assert wire.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_crowd_that_sits_on_open_connections_keeps_nobody_out(served, good, size):
    with contextlib.ExitStack() as stack:
        for _ in range(size("serving_slow_callers")):
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))
        for _ in range(20):
            assert httpx.post(f"{served.url}/predict", content=good, headers=SHOWN, timeout=10).status_code == 200


def test_callers_that_hang_up_at_once_leave_nothing_behind(served, good):
    (worker,) = served.workers()
    files = psutil.Process(worker).num_fds()
    for cut in range(0, 400, 2):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # closed by a reset
            wire.sendall((HEAD + b"content-length: %d\r\n\r\n" % len(good) + good)[: cut + 40])
    end = time.monotonic() + 20
    while psutil.Process(worker).num_fds() > files + 3:
        assert time.monotonic() < end, "connections stay open"
        time.sleep(0.1)


def test_nothing_is_kept_of_a_request_that_was_answered(served, good, size, measured):
    (worker,) = served.workers()
    asked, process, seconds = request("/predict", good, SHOWN), psutil.Process(worker), size("serving_steady_s")
    call(served.port, asked, 1, callers=8)
    before = process.memory_info().rss
    heard = call(served.port, asked, seconds, callers=8)
    grown_mb = (process.memory_info().rss - before) / 2**20
    measured(seconds=seconds, answered=heard.statuses[200], grown_mb=round(grown_mb, 1))
    assert set(heard.statuses) == {200} and grown_mb < 16


def test_a_caller_that_speaks_tls_to_a_plain_port_is_turned_away(served):
    context = ssl.create_default_context()
    with pytest.raises((ssl.SSLError, OSError)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as plain:
            context.wrap_socket(plain, server_hostname="localhost")


# --- schemathesis ---------------------------------------------------------------------------------------------------

CONFIGURATION = """
hooks = "hooks"

[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 408, 413, 415]

# how names, shapes and data of tensors belong together, or columns and data, is more than a JSON schema can tell
[[operations]]
include-path-regex = "/infer$|/invocations$"
checks.positive_data_acceptance.enabled = false
"""
# Lines of JSON are text to whoever sends them. A bad row under `skip` is answered, and that is no fault: asked for `fail`.
HOOKS = """
import schemathesis


@schemathesis.serializer("application/jsonlines")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict) and case.body.get("on_error") == "skip" and case.meta.generation.mode.is_negative:
        case.body["on_error"] = "fail"
"""


def test_schemathesis_finds_no_answer_that_the_documentation_does_not_tell(served, size, measured, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    (tmp_path / "hooks.py").write_text(HOOKS)
    examples = size("schemathesis_examples")
    phases = "examples,coverage,fuzzing" if examples >= 100 else "examples,fuzzing"  # coverage alone is a thousand requests
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "--config-file", "schemathesis.toml", "run", f"{served.url}/docs.json", "--no-color", "--seed", "1",
               "-H", f"Authorization: Bearer {KEY}", "--max-examples", str(examples), "--phases", phases,
               "--report", "json", "--report-json-path", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=3600)
    told = done.stdout[done.stdout.find("FAILURES"):][:20_000]
    assert done.returncode == 0, told + done.stderr
    measured(examples_a_route=examples, told=next(line.strip() for line in done.stdout.splitlines() if " generated" in line))
