"""The service under the real `bentoml serve`: all routes, BentoML's client, processes that are killed, refusing."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bentoml
import duckdb
import httpx
import pytest
from bentoml.exceptions import BentoMLException
from handmade_bundle import Served, census, census_bundle, fitted_pipeline, json_rows

from mlworkbench.serving.log import find_record, read_records, records_sql, segments

JSON = {"content-type": "application/json"}
# a host is foreign unless it is the service's own loopback address
FOREIGN = re.compile(rb"(?:https?:)?//(?!127\.0\.0\.1|localhost)[A-Za-z0-9-]+\.[A-Za-z]{2,}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census", max_body_mb=1)


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with Served(bundle, home=home, log=home / "log", MLW_DEPLOYMENT="http") as served:
        served.log = home / "log"
        yield served


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json_rows(census()[0].head(100))


def test_predictions_over_http_are_bit_for_bit_the_notebook_s(served, rows):
    X, y = census()
    model = fitted_pipeline(X, y)
    answer = httpx.post(f"{served.url}/predict", json={"rows": rows}).json()
    assert answer["predictions"] == model.predict(X.head(100)).tolist()
    assert answer["probabilities"] == model.predict_proba(X.head(100)).tolist()
    record = find_record(served.log, answer["prediction_ids"][50])
    assert record["inputs"] == rows[50] and record["deployment"] == "http"


V2 = "/v2/models/census"
VERSION = f"{V2}/versions/0123456789abcdef"
GET = ["/", "/signature", "/model", "/docs.json", "/schema.json", "/metrics", "/healthz", "/livez", "/readyz", "/ping",
       "/v2", "/v2/health/live", "/v2/health/ready", V2, f"{V2}/ready", VERSION, f"{VERSION}/ready"]


@pytest.mark.parametrize("path", GET)
def test_every_get_route_answers_and_names_no_foreign_host(served, path):
    response = httpx.get(served.url + path)
    assert response.status_code == 200
    assert FOREIGN.findall(response.content) == []
    assert b"googletagmanager" not in response.content


def test_the_list_of_get_routes_is_whole():
    from mlworkbench.serving.service import ROUTES

    paths = {path for path, route in ROUTES.items() if route.method == "GET"}
    assert {path.format(model="census", version="0123456789abcdef") for path in paths} == set(GET)


def test_bentoml_s_own_pages_are_not_served(served):
    for path in ("/static_content/swagger-ui.css", "/assets/index.js", "/docs.json/", "/predict/submit"):
        assert httpx.get(served.url + path).status_code == 404


def test_the_page_works_without_any_other_host():
    page = (Path(__file__).parents[2] / "templates/service/page.html").read_bytes()
    assert FOREIGN.findall(page) == [] and b"innerHTML" not in page and b"import(" not in page


def test_bentoml_s_client_predicts_and_reads_the_errors(served, rows):
    with bentoml.SyncHTTPClient(served.url) as client:
        answer = client.predict(rows=rows[:3])
        same = httpx.post(f"{served.url}/predict", json={"rows": rows[:3]}).json()
        assert answer["predictions"] == same["predictions"] and answer["probabilities"] == same["probabilities"]
        assert client.predict(rows=[rows[0], {}], on_error="skip")["predictions"][1] is None
        with pytest.raises(BentoMLException, match="required column is absent"):
            client.predict(rows=[{}])


def test_curl_predicts_and_feeds_back(served, rows, need):
    curl = need("curl", "Install curl.")
    body = json.dumps({"rows": rows[:1]})
    common = [curl, "-sS", "-H", "content-type: application/json"]
    done = subprocess.run([*common, "--data", body, f"{served.url}/predict"], capture_output=True, text=True, timeout=30)
    (made,) = json.loads(done.stdout)["prediction_ids"]
    labels = json.dumps({"labels": [{"prediction_id": made, "label": "yes"}]})
    done = subprocess.run([*common, "--data", labels, f"{served.url}/feedback"], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["recorded"] == 1
    assert [r["label"] for r in read_records(served.log, "labels") if r["prediction_id"] == made] == ["yes"]


@pytest.mark.parametrize(("method", "path", "content", "kind", "status"), [
    ("POST", "/predict", b'{"rows": [', "application/json", 400), ("POST", "/predict", b'{"rows": [{}]}', "text/csv", 415),
    ("POST", "/predict", b" " * 2**21, "application/json", 413), ("GET", "/predict", b"", "application/json", 405),
    ("GET", "/v1/health/ready", b"", "application/json", 404), ("DELETE", "/model", b"", "application/json", 405),
])
def test_refusals_over_the_wire_have_one_form(served, method, path, content, kind, status):
    response = httpx.request(method, served.url + path, content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert set(response.json()) == {"errors", "request_id"} and "x-request-id" in response.headers


def test_a_body_in_chunks_is_stopped_at_the_limit(served):
    sent = []

    def parts():
        for _ in range(200):
            sent.append(1)
            yield b" " * 2**16

    try:
        assert httpx.post(f"{served.url}/predict", content=parts(), headers=JSON).status_code == 413
    except (httpx.WriteError, httpx.ReadError):  # the answer came, and the connection was closed while we still sent
        pass
    assert httpx.get(f"{served.url}/readyz").status_code == 200


def test_health_is_answered_while_the_model_works(served, rows):
    """A request of many rows keeps the model busy; health is asked meanwhile."""
    many = {"rows": rows[:1] * 2000}
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(
        httpx.post(f"{served.url}/predict", json=many, timeout=60).status_code))
    thread.start()
    asked = [httpx.get(f"{served.url}/livez", timeout=5).status_code for _ in range(20)]
    thread.join()
    assert set(asked) == {200} and answers in ([200], [413])


def test_the_bundle_needs_nothing_of_mlworkbench(bundle):
    code = (
        "import sys, json, serving.service, serving.application as a, serving.log\n"
        "print(json.dumps(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('mlworkbench', 'IPython', 'papermill', 'ipywidgets', 'nbdev', 'fastcore', 'matplotlib'))))"
    )
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, timeout=60, env=environ)
    assert json.loads(done.stdout or "null") == [], done.stderr


def test_several_workers_answer_log_and_count_together(bundle, tmp_path, rows):
    with Served(bundle, home=tmp_path, log=tmp_path / "log", MLW_WORKERS="2") as served:
        wait_until(lambda: len(served.workers()) == 2)
        ids = []
        for i in range(40):  # a new connection each, so that both workers get some
            ids += httpx.post(f"{served.url}/predict", json={"rows": rows[i:i + 2]}).json()["prediction_ids"]
        labels = [{"prediction_id": i, "label": "no"} for i in ids]
        assert httpx.post(f"{served.url}/feedback", json={"labels": labels}).json()["unknown"] == []
        assert {r["prediction_id"] for r in read_records(served.environ["MLW_LOG_DIR"])} == set(ids)
        assert "mlw_rows_total 80.0" in httpx.get(f"{served.url}/metrics").text


def wait_until(holds, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


class Load:
    """Callers that predict until told to stop, and remember what was acknowledged."""

    def __init__(self, url: str, rows: list[dict], callers: int = 4):
        self.url, self.rows, self.acknowledged, self.stop = url, rows, [], threading.Event()
        self.threads = [threading.Thread(target=self.call, args=(n,)) for n in range(callers)]

    def call(self, caller: int) -> None:
        n = 0
        while not self.stop.is_set():
            n += 1
            request_id = f"caller-{caller}-{n}-{id(self)}"
            try:
                with httpx.Client(timeout=10) as client:
                    answer = client.post(f"{self.url}/predict", json={"rows": self.rows[:2]},
                                         headers={"x-request-id": request_id})
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                self.acknowledged += [(request_id, i) for i in answer.json()["prediction_ids"]]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def check_log(folder: Path, acknowledged: list[tuple[str, str]]) -> None:
    """Every acknowledged prediction is in the log, once, where its id says; for Python and for DuckDB."""
    logged = [(r["request_id"], r["prediction_id"]) for r in read_records(folder)]
    assert len(logged) == len(set(logged)) and set(acknowledged) <= set(logged)
    assert all(find_record(folder, i)["request_id"] == request for request, i in acknowledged[-200:])
    counted = duckdb.sql(f"SELECT count(*), count(DISTINCT prediction_id) FROM {records_sql(folder)}").fetchall()[0]
    assert counted == (len(logged), len(logged))


def tear(folder: Path) -> None:
    """Leave half a line at the end of the newest segment, as a machine that lost its power would."""
    newest = max(segments(folder, "predictions"), key=lambda path: path.stat().st_mtime_ns)
    line = newest.read_bytes().splitlines()[-1]
    with newest.open("ab") as file:
        file.write(line[: len(line) // 2])


def test_no_acknowledged_prediction_is_lost_when_workers_are_killed_under_load(bundle, tmp_path, rows, size, measured):
    log, rng = tmp_path / "log", random.Random(3)
    with Served(bundle, home=tmp_path, log=log, MLW_WORKERS="2") as served, Load(served.url, rows) as load:
        for _ in range(size("serving_kills")):
            wait_until(lambda: len(served.workers()) == 2)
            before, workers = len(load.acknowledged), served.workers()
            wait_until(lambda before=before: len(load.acknowledged) > before + 10)
            os.kill(killed := rng.choice(workers), signal.SIGKILL)
            wait_until(lambda killed=killed: killed not in served.workers())
        before = len(load.acknowledged)
        wait_until(lambda: len(load.acknowledged) > before + 10)
    assert len(load.acknowledged) > 20
    check_log(log, load.acknowledged)
    measured(kills=size("serving_kills"), acknowledged=len(load.acknowledged), lost=0)


def test_no_acknowledged_prediction_is_lost_when_the_whole_service_is_killed_under_load(bundle, tmp_path, rows, size, measured):
    acknowledged, log = [], tmp_path / "log"
    for _ in range(size("serving_kills")):
        with Served(bundle, home=tmp_path, log=log) as served, Load(served.url, rows) as load:
            wait_until(lambda load=load: len(load.acknowledged) > 20)
            served.kill()
        acknowledged += load.acknowledged
        tear(log)
    check_log(log, acknowledged)
    measured(kills=size("serving_kills"), acknowledged=len(acknowledged), lost=0, torn_lines=size("serving_kills"))
    with Served(bundle, home=tmp_path, log=log) as served:  # labels of all lives are taken afterwards
        labels = [{"prediction_id": i, "label": "no"} for _, i in acknowledged]
        assert httpx.post(f"{served.url}/feedback", json={"labels": labels}).json()["unknown"] == []


def test_a_service_whose_file_was_changed_refuses_and_is_not_respawned(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    path = copy / "golden.json"
    path.write_text(path.read_text().replace("0.9", "0.8", 1))
    with Served(copy, home=tmp_path, wait="livez") as served:
        workers = served.workers()
        for path in ("/readyz", "/predict", "/model", "/", "/schema.json", "/metrics"):
            response = httpx.request("POST" if path == "/predict" else "GET", served.url + path)
            assert response.status_code == 503 and response.headers["retry-after"]
            assert "golden.json was changed" in response.json()["errors"][0]["problem"]
        time.sleep(2)
        assert served.workers() == workers and httpx.get(f"{served.url}/livez").status_code == 200
        assert served.output.read_text().count("refusing to serve") == 1
