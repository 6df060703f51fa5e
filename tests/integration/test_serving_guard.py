"""What guards a service, under the real `bentoml serve`: keys, limits on the wire, full disks, its log, privacy."""

import asyncio
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from handmade_bundle import Served, census, census_bundle, json_rows

from mlworkbench.serving.application import Application
from mlworkbench.serving.keys import make_key
from mlworkbench.serving.log import find_record, read_records
from mlworkbench.serving.privacy import forget
from mlworkbench.serving.service import Front

PROTECTED = ["/", "/signature", "/model", "/docs.json", "/schema.json", "/metrics"]
OPEN = ["/healthz", "/livez", "/readyz"]


def write_keys(path: Path, *entries: dict) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"schema": 1, "keys": list(entries)}))
    os.replace(temporary, path)


class Guarded(Served):
    """A service that asks for keys, with one that may do all and one that may predict."""

    def __init__(self, folder: Path, home: Path, log: Path | None = None, **environ: str):
        (self.all, self._entry), (self.shop, more) = make_key(["predict", "feedback", "admin"]), make_key(["predict"])
        self.keys = home / "keys.json"
        self.entries = [self._entry, more]
        write_keys(self.keys, *self.entries)
        self.log = log or home / "logs" / "log"
        super().__init__(folder, home=home, log=self.log, MLW_KEYS_FILE=str(self.keys), **environ)

    def ask(self, method: str, path: str, key: str | None = None, **rest) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **rest)

    def predict(self, rows: list[dict], key: str | None = "", **rest) -> httpx.Response:
        return self.ask("POST", "/predict", self.all if key == "" else key, json={"rows": rows}, **rest)

    def metric(self, line: str) -> float:
        text = self.ask("GET", "/metrics", self.all).text
        return sum(float(found) for found in re.findall(rf"^{re.escape(line)} ([0-9.e+]+)$", text, re.M))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    columns = {"log_exclude": ["ancestry"], "log_hash": ["sex", "age"]}
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census", auth="on", timeout_s=2, max_body_mb=0.5, **columns)


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory) -> Iterator[Guarded]:
    with Guarded(bundle, tmp_path_factory.mktemp("home"), MLW_DEPLOYMENT="guarded") as served:
        yield served


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json_rows(census()[0].head(20))


def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("path", PROTECTED)
def test_every_document_needs_a_key_and_any_will_do(served, path):
    refused = served.ask("GET", path)
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
    assert set(refused.json()) == {"errors", "request_id"} and "API key" in refused.json()["errors"][0]["problem"]
    assert served.ask("GET", path, "mlw_abcd_wrong").status_code == 401
    assert served.ask("GET", path, served.shop).status_code == 200
    assert httpx.get(served.url + path, headers={"X-Api-Key": served.shop}).status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open(served, path):
    assert served.ask("GET", path).status_code == 200


def test_a_key_is_good_for_its_scopes_alone(served, rows):
    (made,) = served.predict(rows[:1], served.shop).json()["prediction_ids"]
    label = {"labels": [{"prediction_id": made, "label": "yes"}]}
    assert served.ask("POST", "/feedback", served.shop, json=label).status_code == 403
    assert served.ask("POST", "/feedback", served.all, json=label).json()["recorded"] == 1


def test_a_stranger_leaves_nothing_in_the_prediction_log_but_is_counted(served, rows):
    before = sum(path.stat().st_size for path in served.log.iterdir())
    counted = served.metric('mlw_denied_total{reason="absent"}')
    for _ in range(5):
        assert served.predict(rows, None).status_code == 401
    assert sum(path.stat().st_size for path in served.log.iterdir()) == before
    assert served.metric('mlw_denied_total{reason="absent"}') == counted + 5


def test_a_stranger_is_refused_before_the_body_is_read(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_unknown_paths_and_bentoml_s_own_are_no_way_around(served):
    for path in ("/Predict", "/predict/", "//predict", "/%70redict/x", "/static_content/index.html", "/predict/submit"):
        assert served.ask("POST", path, json={}).status_code in (401, 404)
    assert served.ask("POST", "/%70redict", json={"rows": [{}]}).status_code == 401


def test_no_websocket_is_opened(served):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert httpx.get(served.url + "/predict", headers=upgrade).status_code in (400, 403, 405)


def test_keys_are_changed_without_a_restart_in_all_workers_and_the_good_ones_never_stop_working(bundle, tmp_path, rows):
    with Guarded(bundle, tmp_path, MLW_WORKERS="2") as served:
        until(lambda: len(served.workers()) == 2)
        workers = sorted(served.workers())
        for _ in range(3):
            token, entry = make_key(["predict"])
            write_keys(served.keys, served.entries[0], entry)
            until(lambda token=token: all(served.predict(rows[:1], token).status_code == 200 for _ in range(8)))
            assert {served.predict(rows[:1]).status_code for _ in range(8)} == {200}
        assert served.predict(rows[:1], served.shop).status_code == 401
        write_keys(served.keys, served.entries[0])
        until(lambda: all(served.predict(rows[:1], token).status_code == 401 for _ in range(8)))
        assert sorted(served.workers()) == workers and served.predict(rows[:1]).status_code == 200


def test_a_key_file_that_is_half_written_changes_nothing_and_is_said_once(served, rows):
    good = served.keys.read_text()
    served.keys.write_text(good[:40])
    time.sleep(1.2)
    assert {served.predict(rows[:1], key).status_code for key in (served.all, served.shop) for _ in range(4)} == {200}
    time.sleep(1.2)
    assert served.predict(rows[:1]).status_code == 200
    assert served.output.read_text().count("the key file cannot be used") == 1
    served.keys.write_text(good)


def test_without_any_key_the_service_starts_lets_nobody_in_and_says_what_to_set(bundle, tmp_path, rows):
    with Served(bundle, home=tmp_path, MLW_PROBE_TOKEN="t" * 32) as served:
        assert httpx.get(served.url + "/readyz").status_code == 200
        refused = httpx.post(served.url + "/predict", json={"rows": rows[:1]})
        assert refused.status_code == 401 and "MLW_KEYS_FILE" in refused.json()["errors"][0]["problem"]
        probe = {"x-probe-token": "t" * 32}
        assert httpx.post(served.url + "/predict", json={"rows": rows[:1]}, headers=probe).status_code == 200


@pytest.mark.parametrize(("environment", "settings", "reason"), [
    ({"MLW_API_KEY": "short"}, {}, "at least 16 characters"), ({"MLW_AUTH": "no"}, {}, "on or off"),
    ({}, {"auth": "of"}, "auth must be one of on, off"), ({}, {"log_exclude": ["agee"]}, "Did you mean 'age'"),
    ({}, {"log_hash": "age"}, "log_hash must be a list"), ({}, {"access_log": "some"}, "access_log must be one of")])
def test_a_guard_that_is_misspelt_means_refusing_and_not_an_open_door(tmp_path, environment, settings, reason):
    application = Application(census_bundle(tmp_path / "census", **settings), environment).start()
    assert reason in application.refusal and application.permanent


# --- the wire -------------------------------------------------------------------------------------------------------


def say(served: Guarded, *pieces: bytes, pause_s: float = 0.0, timeout_s: float = 10.0) -> bytes:
    """What a connection answers to these pieces, until it is closed or still."""
    told = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=timeout_s) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_s)
            while got := connection.recv(65_536):
                told += got
        except (TimeoutError, ConnectionError):
            pass
    return told


def head(served: Guarded, more: bytes = b"", method: bytes = b"POST", path: bytes = b"/predict") -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-api-key: %b\r\n%b\r\n" % (
        method, path, served.all.encode(), more)


def body_of(rows: list[dict]) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_a_body_that_stops_coming_is_given_up_in_time_and_the_connection_closed(served, rows):
    began = time.monotonic()
    told = say(served, head(served, b"content-length: 1000\r\n") + b'{"rows": [')
    assert told.startswith(b"HTTP/1.1 408") and b"connection: close" in told and 1.9 < time.monotonic() - began < 9
    told = say(served, head(served, b"transfer-encoding: chunked\r\n"), *[b"1\r\n \r\n"] * 5, pause_s=0.3)
    assert told.startswith(b"HTTP/1.1 408")
    assert served.predict(rows[:1]).status_code == 200


def test_a_caller_who_hangs_up_half_way_leaves_the_service_as_it_was(served, rows):
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head(served, b"content-length: 1000\r\n") + b'{"rows": [')
    until(lambda: served.metric("mlw_requests_in_progress") == 1)  # the one that asks
    assert served.predict(rows[:1]).status_code == 200


def test_a_body_without_a_length_is_stopped_at_the_limit(served):
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    told = say(served, head(served, b"transfer-encoding: chunked\r\n"), *[piece] * 12, b"0\r\n\r\n")
    assert told == b"" or told.startswith(b"HTTP/1.1 413")  # closed while we still sent: the answer may be lost
    assert served.ask("POST", "/predict", served.all, content=b" " * 600_000).status_code == 413


def test_requests_on_one_connection_without_waiting_are_answered_in_their_order(served, rows):
    bodies = [body_of(rows[i:i + 1]) for i in range(5)]
    requests = [head(served, b"content-length: %d\r\nx-request-id: n-%d\r\n" % (len(b), i)) + b for i, b in enumerate(bodies)]
    told = say(served, b"".join(requests), timeout_s=3)
    assert re.findall(rb"x-request-id: (n-\d)", told) == [b"n-%d" % i for i in range(5)]
    assert told.count(b"HTTP/1.1 200") == 5


def test_head_has_the_headers_of_get_and_no_body(served):
    for path in PROTECTED[:4]:
        asked, got = served.ask("HEAD", path, served.all), served.ask("GET", path, served.all)
        assert asked.status_code == 200 and asked.content == b""
        assert asked.headers["content-length"] == got.headers["content-length"]


def test_headers_without_end_and_silent_connections_are_closed(served, rows):
    begun = b"GET /readyz HTTP/1.1\r\nhost: x\r\nx-big: "
    told = say(served, begun, *[b"a" * 60_000] * 20, pause_s=0.01)
    assert told == b"" or told.startswith(b"HTTP/1.1 431")
    with socket.create_connection(("127.0.0.1", served.port), timeout=15) as connection:
        assert connection.recv(1) == b""  # closed by the service, not by our patience
    assert served.predict(rows[:1]).status_code == 200


GARBAGE = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 5000 + b"\r\n\r\n",
           b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
           b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
           b"POST /predict HTTP/9.9\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n"]


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_http_is_refused_and_harms_nothing(served, text):
    told = say(served, text, timeout_s=3)
    assert told == b"" or told.split()[1] in (b"400", b"401", b"404")
    assert served.ask("GET", "/readyz").status_code == 200


# --- privacy and the service's own log --------------------------------------------------------------------------------


def test_private_columns_are_not_in_the_log_and_a_prediction_is_forgotten_while_the_service_runs(served, rows):
    answer = served.predict(rows[:3]).json()
    one, two, three = answer["prediction_ids"]
    inputs = find_record(served.log, one)["inputs"]
    assert "ancestry" not in inputs and re.fullmatch("[0-9a-f]{24}", inputs["sex"])
    assert inputs["education"] == rows[0]["education"]
    assert served.predict([rows[0] | {"age": "Ann Marie"}]).status_code == 400
    assert b"Ann Marie" not in b"".join(path.read_bytes() for path in served.log.iterdir())
    assert (served.log.parent / "log.salt").stat().st_mode & 0o777 == 0o600
    assert forget(served.log, [two]) == []
    (four,) = served.predict(rows[3:4]).json()["prediction_ids"]
    assert find_record(served.log, two) is None and all(find_record(served.log, i) for i in (one, three, four))
    label = [{"prediction_id": i, "label": "no"} for i in (two, three)]
    assert served.ask("POST", "/feedback", served.all, json={"labels": label}).json()["unknown"] == [two]


def test_predictions_are_forgotten_over_the_wire_with_a_key_of_that_scope_alone(served, rows):
    one, two = served.predict(rows[:2]).json()["prediction_ids"]
    ids = {"prediction_ids": [one, "20260131T080000-1a2b3c4d-0"]}
    assert served.ask("POST", "/admin/forget", served.shop, json=ids).status_code == 403 and find_record(served.log, one)
    told = served.ask("POST", "/admin/forget", served.all, json=ids).json()
    assert (told["forgotten"], told["unknown"]) == (1, ids["prediction_ids"][1:])
    assert find_record(served.log, one) is None and find_record(served.log, two)
    for wrong in ({"prediction_ids": [1]}, {"prediction_ids": []}, {"ids": [one]}, [one]):
        assert served.ask("POST", "/admin/forget", served.all, json=wrong).status_code == 400


def test_the_model_says_what_of_the_log_is_private(served):
    about = served.ask("GET", "/model", served.shop).json()
    assert about["auth"] == "on" and about["log_exclude"] == ["ancestry"] and about["log_hash"] == ["sex", "age"]


def test_every_line_of_the_service_is_json_and_no_line_holds_a_key_or_a_row(served, rows):
    hostile = "/x%0A%7B%22log.level%22%3A%22info%22%7D%E2%80%A8" + served.shop[-12:]
    assert httpx.get(served.url + hostile, headers={"X-Request-Id": "find-me"}).status_code == 404
    served.predict([rows[0] | {"education": "Ann Marie"}])
    assert served.ask("POST", "/feedback", served.shop, json={"labels": []}).status_code == 403
    text = served.output.read_text()
    lines = [line for line in text.splitlines() if "Loading service from default location" not in line]
    told = [json.loads(line) for line in lines]
    (found,) = [line for line in told if line.get("http.request.id") == "find-me"]
    assert found["http.response.status_code"] == 404 and found["service.name"] == "census" and found["event.duration"] > 0
    assert found["url.path"].startswith('/x\n{"log.level"') and found["labels.deployment"] == "guarded"
    assert all({"@timestamp", "log.level", "message", "ecs.version"} <= set(line) for line in told)
    assert "Ann Marie" not in text and served.all not in text and served.shop not in text
    refused = [line for line in told if line.get("url.path") == "/feedback" and line["http.response.status_code"] == 403]
    assert refused and {line["user.id"] for line in refused} == {served.shop.split("_")[1]}


# --- disks that are full or read-only -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 200 kB that is really there."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        how = f"a small file system cannot be mounted: {done.stderr.strip()}. Run as root with CAP_SYS_ADMIN."
        pytest.fail(how) if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip(how)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_means_honest_503s_nothing_lost_and_recovery(bundle, tmp_path, small_disk, rows):
    (small_disk / "filler").write_bytes(b"x" * 80_000)
    with Guarded(bundle, tmp_path, small_disk / "log") as served:
        acknowledged, refused = [], []
        while len(refused) < 5:
            answer = served.predict(rows[:10])
            (acknowledged if answer.status_code == 200 else refused).append(answer)
            assert len(acknowledged) < 500
        assert {r.status_code for r in refused} == {503} and all(r.headers["retry-after"] for r in refused)
        assert "prediction log cannot be written" in refused[0].json()["errors"][0]["problem"]
        assert served.metric("mlw_log_failures_total") >= 5 and served.ask("GET", "/readyz").status_code == 200
        assert served.output.read_text().count("the prediction log cannot be written") == 1
        (small_disk / "filler").unlink()
        acknowledged.append(served.predict(rows[:10]))
        assert acknowledged[-1].status_code == 200
        ids = [i for answer in acknowledged for i in answer.json()["prediction_ids"]]
        assert [record["prediction_id"] for record in read_records(small_disk / "log")] == ids


@pytest.mark.parametrize(("log_failure", "status"), [("refuse", 503), ("serve", 200)])
def test_a_read_only_disk_means_what_the_setting_says(tmp_path, small_disk, rows, log_failure, status):
    (small_disk / "log").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    bundle = census_bundle(tmp_path / "census", log_failure=log_failure)
    application = Application(bundle, {"MLW_LOG_DIR": str(small_disk / "log")}).start()

    async def predict() -> httpx.Response:
        transport = httpx.ASGITransport(Front(None, application))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/predict", json={"rows": rows[:2]})

    answer = asyncio.run(predict())
    assert answer.status_code == status
    assert status == 503 or answer.json()["prediction_ids"] == [None, None]
    assert b"\nmlw_log_failures_total 0.0\n" not in application.metrics.text()


LIMITED = """
import resource, sys
from mlworkbench.serving.log import PredictionLog, read_records
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
log = PredictionLog(sys.argv[1], model="m:1", rotate_mb=1)
record = {"row": 0, "inputs": {"text": "x" * 400}, "outputs": {"prediction": 1}, "flags": []}
shared = {"time": "2026-01-31T08:00:00.000000Z", "request_id": "r", "latency_ms": 1.0, "status": 200}
ids, failures = [], 0
while failures < 3:
    try:
        ids += log.predictions([record] * 7, shared)
    except OSError:
        failures += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ids += log.predictions([record], shared)
print(len(ids), [r["prediction_id"] for r in read_records(sys.argv[1])] == ids)
"""


def test_a_limit_of_the_kernel_on_a_file_s_size_leaves_whole_records_only(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    count, whole = done.stdout.split()
    assert int(count) > 20 and whole == "True", done.stderr
