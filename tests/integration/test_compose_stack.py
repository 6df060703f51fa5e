"""The stack around a service, with its real parts: every expression is asked, every alert fires and ends, the door holds."""

import http.server
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from handmade_bundle import Served, census, census_bundle, json_rows
from load import call, request

from mlworkbench.bundling.parity import free_port
from mlworkbench.containers.compose import Addresses, Slot, Stack, Watch, render_stack, tls_name, write_secrets, write_stack
from mlworkbench.serving.keys import make_key

HOW = "On Debian: apt-get install {}"
SERVICE = {"max_body_mb": 1, "timeout_s": 30, "queue": 2, "metrics_access": "key", "auth": "on"}
SECONDS = Watch(scrape_s=0.5, window_s=4, hold_s=0, latency_s=0.01, denied_per_minute=5, quiet_minutes=0.1)


def until(holds: Callable[[], object], timeout_s: float = 60.0) -> object:
    end = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, f"waited {timeout_s} s in vain"
        time.sleep(0.1)
    return found


class Hook(http.server.BaseHTTPRequestHandler):
    """What alerts are posted to."""

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.heard += [(alert["labels"]["alertname"], alert["status"], alert) for alert in told["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hook() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.heard = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def programs(need) -> dict[str, str]:
    packages = {"prometheus": "prometheus", "promtool": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager",
                "amtool": "prometheus-alertmanager", "haproxy": "haproxy", "openssl": "openssl"}
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    return {program: need(program, HOW.format(package)) for program, package in packages.items()}


@pytest.fixture(scope="module")
def certificate(programs, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "tls.crt", folder / "tls.key"
    subprocess.run([programs["openssl"], "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-out", made[0],
                    "-keyout", made[1]], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory) -> Iterator[Path]:
    """A file system of 2 MB that is really there: what fills it is a full disk."""
    place = tmp_path_factory.mktemp("disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        how = f"a small file system cannot be mounted: {done.stderr.strip()}. Run as root with CAP_SYS_ADMIN."
        pytest.fail(how) if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip(how)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Parts:
    """The stack's parts as processes of this machine, from the files that a person gets."""

    def __init__(self, programs: dict[str, str], home: Path, disk: Path, hook: str, certificate: tuple[Path, Path]):
        self.programs, self.home, self.disk, self.processes = programs, home, disk, {}
        self.key, entry = make_key(["predict", "feedback"])
        watcher, its = make_key(["predict"])
        keys = home / "keys.json"
        keys.write_text(json.dumps({"schema": 1, "keys": [entry, its]}))
        folder = census_bundle(home / "bundle", trees=100, queue=SERVICE["queue"], auth="on", metrics_access="key")
        self.served = Served(folder, home=home, log=disk / "log", MLW_KEYS_FILE=str(keys), MLW_DEPLOYMENT="census")
        names = ("service", "front", "proxy", "prometheus", "alertmanager")
        self.ports = {"service": self.served.port, **{name: free_port() for name in names[1:]}}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        self.folder = home / "stack"
        addresses = Addresses(at["service"], at["proxy"], at["prometheus"], at["alertmanager"], bind=at["front"],
                              metrics_bind=at["proxy"], tls=str(self.folder / "secrets/proxy"),
                              metrics_key=str(self.folder / "secrets/prometheus/metrics_key"), named=False)
        slot = Slot("blue", "census:1", "census:1", memory_mb=50)
        self.stack = Stack("census", (slot,), "blue", SERVICE, watch=replace(SECONDS, webhook=hook), rate_limit=100,
                           tls=tls_name(certificate), addresses=addresses)
        write_stack(self.folder, render_stack(self.stack))
        write_secrets(self.folder, tls=certificate, key=watcher)
        self.verify = ssl.create_default_context(cafile=str(certificate[0]))

    def start(self, part: str) -> None:
        folder, at = self.folder, f"--web.listen-address=127.0.0.1:{self.ports[part]}"
        command = {
            "proxy": ["haproxy", "-W", "-db", "-f", folder / "proxy/haproxy.cfg"],
            "prometheus": ["prometheus", f"--config.file={folder}/prometheus/prometheus.yml",
                           f"--storage.tsdb.path={self.home}/prometheus", at],
            "alertmanager": ["prometheus-alertmanager", f"--config.file={folder}/alertmanager/alertmanager.yml",
                             f"--storage.path={self.home}/alertmanager", "--cluster.listen-address=", at],
        }[part]
        with open(self.home / f"{part}.log", "ab") as log:
            self.processes[part] = subprocess.Popen([self.programs[command[0]], *map(str, command[1:])], stdout=log, stderr=log)

    def stop(self, part: str) -> None:
        process = self.processes.pop(part)
        process.terminate()
        process.wait(20)

    def ask(self, method: str, path: str, key: bool = True, **rest) -> httpx.Response:
        """Through the door."""
        headers = {"Authorization": f"Bearer {self.key}"} | rest.pop("headers", {}) if key else rest.pop("headers", {})
        url = f"https://127.0.0.1:{self.ports['front']}{path}"
        return httpx.request(method, url, headers=headers, verify=self.verify, timeout=30, trust_env=False, **rest)

    def query(self, expr: str) -> list[dict]:
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query"
        told = httpx.get(url, params={"query": expr}, timeout=10, trust_env=False).json()
        assert told["status"] == "success", (expr, told)
        return told["data"]["result"]


@pytest.fixture(scope="module")
def parts(programs, tmp_path_factory, small_disk, hook, certificate) -> Iterator[Parts]:
    """One service with all that stands around it, for all tests of this file; nothing of it is left at the end."""
    made = Parts(programs, tmp_path_factory.mktemp("parts"), small_disk, f"http://127.0.0.1:{hook.server_port}/", certificate)
    try:
        for part in ("alertmanager", "prometheus", "proxy"):
            made.start(part)
        made.served.start()
        until(lambda: made.ask("GET", "/readyz").status_code == 200)
        yield made
    finally:
        for part in list(made.processes):
            made.stop(part)
        if made.served.process.poll() is None:
            made.served.kill()
    assert all(socket.socket().connect_ex(("127.0.0.1", port)) for port in made.ports.values()), "somebody still listens"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json_rows(census()[0].head(100))


def rules(parts: Parts) -> dict[str, str]:
    found = yaml.safe_load((parts.folder / "prometheus/rules.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in found["groups"] for rule in group["rules"]}


def lines(parts: Parts) -> dict[str, str]:
    board = json.loads((parts.folder / "grafana/dashboards/service.json").read_text())
    pairs = [(panel["title"], target) for panel in board["panels"] for target in panel["targets"]]
    return {f"{title}: {target['legendFormat']}": target["expr"] for title, target in pairs}


def test_each_part_s_own_checker_accepts_its_files(parts):
    folder, programs = parts.folder, parts.programs
    for command in (["promtool", "check", "config", folder / "prometheus/prometheus.yml"],
                    ["promtool", "check", "rules", folder / "prometheus/rules.yml"],
                    ["amtool", "check-config", folder / "alertmanager/alertmanager.yml"],
                    ["haproxy", "-c", "-f", folder / "proxy/haproxy.cfg"]):
        done = subprocess.run([programs[command[0]], *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0 and "WARN" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_door_speaks_tls_and_lets_answers_and_refusals_of_the_service_through(parts, rows):
    answer = parts.ask("POST", "/predict", json={"rows": rows[:3]}, headers={"X-Request-Id": "asked-1"})
    assert (answer.status_code, len(answer.json()["predictions"]), answer.headers["x-request-id"]) == (200, 3, "asked-1")
    assert parts.ask("GET", "/signature", key=False).status_code == 401
    told = parts.ask("POST", "/predict", json={"rows": [{**rows[0], "age": "old"}]})
    assert told.status_code == 400 and told.json()["errors"][0]["column"] == "age"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{parts.ports['front']}/readyz", trust_env=False)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/census/infer"])
def test_a_body_over_the_bundle_s_limit_ends_at_the_door(parts, path):
    told = parts.ask("POST", path, content=b"x" * (2**20 + 1), headers={"X-Request-Id": "big 1"})
    problem = told.json()["error"] if path.startswith("/v2") else told.json()["errors"][0]["problem"]
    assert (told.status_code, problem) == (413, "the body must hold at most 1048576 bytes")
    assert re.fullmatch(r"[0-9a-f-]{36}", told.headers["x-request-id"])  # an id that could break a line is not taken over


def small(alert: str, hook) -> list[str]:
    return [status for name, status, _ in hook.heard if name == alert]


class Trouble:
    """Traffic of every kind, until it is enough."""

    def __init__(self, parts: Parts, rows: list[dict]):
        self.parts, self.stop, self.rows, self.refused = parts, threading.Event(), rows, {}
        self.threads = [threading.Thread(target=self.again, args=(work,)) for work in (self.crowd, self.faults, self.doors)]

    def again(self, work: Callable[[], None]) -> None:
        while not self.stop.wait(0.02):
            work()

    def crowd(self) -> None:
        body = json.dumps({"rows": self.rows}).encode()
        call(self.parts.served.port, request("/predict", body, {"X-Api-Key": self.parts.key}), 1, callers=8)

    def faults(self) -> None:
        url, key = self.parts.served.url, {"X-Api-Key": self.parts.key}
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            for row in ({"age": "old"}, {"age": 400.0}):
                client.post("/predict", json={"rows": [{**self.rows[0], **row}]}, headers=key)
            client.post("/predict", json={"rows": self.rows[:1]}, headers={"X-Api-Key": "mlw_nobody_nothing"})

    def doors(self) -> None:
        for path in ["/livez"] * 100 + ["/v2/health/live"]:
            if not self.stop.is_set():
                told = self.parts.ask("GET", path, key=False)
                if told.status_code != 200:
                    self.refused.setdefault(path, told)

    def __enter__(self) -> "Trouble":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def check_patience(told: httpx.Response, v2: httpx.Response) -> None:
    """A client over the limit is told so, and for how long, in the form of its protocol."""
    limit = "this client has sent more than 100 requests in 10 seconds"
    for answer in (told, v2):
        heads = answer.headers
        assert (answer.status_code, heads["retry-after"], heads["content-type"]) == (429, "10", "application/json")
    fault = {"row": None, "column": None, "got": None, "problem": limit}
    assert told.json() == {"errors": [fault], "request_id": told.headers["x-request-id"]}
    assert v2.json() == {"error": limit}


UNDER_TRAFFIC = {"Errors", "Slow", "BadInput", "TurnedAway", "QueueLong", "PredictionLogFails", "KeysDenied", "MemoryShort",
                 "ClientsLimited"}


def test_every_expression_finds_data_under_traffic_and_every_alert_reaches_the_hook(parts, rows, hook):
    asked = lines(parts) | rules(parts)
    later = {"ServiceDown", "ServiceNotReady", "ProxyDown", "NoTraffic"}  # in what follows
    assert set(rules(parts)) == UNDER_TRAFFIC | later
    found: dict[str, list] = {}

    def full() -> bool:
        for name, expr in asked.items():
            values = [float(sample["value"][1]) for sample in parts.query(expr)]
            if values and all(value == value for value in values):
                found.setdefault(name, values)
        fired = {name for name, status, _ in hook.heard if status == "firing"}
        return set(asked) - later <= set(found) and fired >= UNDER_TRAFFIC

    with Trouble(parts, rows) as trouble:
        filler = parts.disk / "filler"
        until(lambda: parts.query("mlw_rows_total > 0"))
        filler.write_bytes(b"x" * (os.statvfs(parts.disk).f_bavail * os.statvfs(parts.disk).f_frsize))
        try:
            until(lambda: parts.query("mlw_log_failures_total > 0"))
        finally:
            filler.unlink()
        until(full)
        until(lambda: len(trouble.refused) == 2)
    check_patience(trouble.refused["/livez"], trouble.refused["/v2/health/live"])
    assert found["Model: {{model}}"] == [1.0] and found["Ready behind the proxy: ready"] == [1.0]
    for name, _, alert in hook.heard:
        assert alert["labels"]["deployment"] == "census" and alert["labels"]["severity"] in ("critical", "warning", "info")
        texts = alert["annotations"]
        assert set(texts) == {"summary", "description", "runbook"} and "no value" not in json.dumps(texts), name


def test_after_the_traffic_alerts_are_resolved_and_silence_alarms(parts, hook):
    until(lambda: all("resolved" in small(name, hook) for name in UNDER_TRAFFIC - {"MemoryShort"}))
    until(lambda: "firing" in small("NoTraffic", hook))


def test_a_service_that_refuses_or_is_gone_and_a_door_that_is_gone_are_told_and_resolved(parts, hook):
    served = parts.served
    served.kill()
    until(lambda: "firing" in small("ServiceDown", hook))
    gone = parts.ask("GET", "/readyz")
    assert gone.status_code in (429, 503) and gone.headers["retry-after"]
    golden = served.folder / "golden.json"
    honest = golden.read_text()
    golden.write_text(honest + " ")  # its hash is another now
    served.wait = "livez"
    served.start()
    until(lambda: "firing" in small("ServiceNotReady", hook))
    served.kill()
    golden.write_text(honest)
    served.launch()
    parts.stop("proxy")
    until(lambda: "firing" in small("ProxyDown", hook))
    parts.start("proxy")
    served.wait_for("readyz")
    until(lambda: all("resolved" in small(name, hook) for name in ("ServiceDown", "ServiceNotReady", "ProxyDown")))


def test_a_reload_of_the_door_loses_no_request(parts, rows):
    plain = replace(parts.stack, rate_limit=0, tls="", watch=SECONDS)
    write_stack(parts.folder, render_stack(plain))
    parts.processes["proxy"].send_signal(signal.SIGUSR2)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", parts.ports["front"])) == 0)
    body = request("/signature", b"", {"X-Api-Key": parts.key}).replace(b"POST", b"GET", 1)
    heard = []
    thread = threading.Thread(target=lambda: heard.append(call(parts.ports["front"], body, 3, callers=4, rate=400)))
    time.sleep(1)
    thread.start()
    for _ in range(3):
        time.sleep(0.7)
        parts.processes["proxy"].send_signal(signal.SIGUSR2)
    thread.join()
    assert set(heard[0].statuses) == {200} and heard[0].statuses[200] > 300, heard[0].statuses
