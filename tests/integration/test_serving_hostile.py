"""Hard to hurt: malformed and huge requests, overload, changed files, planted pickles. Never a crash, never a dishonest 5xx."""

import asyncio
import csv
import gc
import io
import json
import random
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from handmade_bundle import census, census_bundle, census_signature, json_rows
from hostile_bodies import Sent, spoil

from mlworkbench.serving.application import Application
from mlworkbench.serving.infer_v2 import v2_answer, v2_request
from mlworkbench.serving.log import read_records
from mlworkbench.serving.service import ROUTES, Front

KEY = "a-key-for-tests-only"
SHOWN = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
POST = sorted(path for path, route in ROUTES.items() if route.method == "POST")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census", max_body_mb=0.25, max_rows=60, auth="on",
                         explain_rows=4, explain_evaluations=64)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return json_rows(census()[0].head(20))


# --- bodies, in this process ----------------------------------------------------------------------------------------


@pytest.fixture
def application(bundle, tmp_path):
    application = Application(bundle, {"MLW_LOG_DIR": str(tmp_path / "log"), "MLW_API_KEY": KEY}).start()
    assert application.refusal is None
    yield application
    application.log.close()


async def ask(front: Front, sent: Sent, parts: int = 1) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to a request whose body comes in so many parts."""
    size = max(1, -(-len(sent.body) // parts))
    pieces = [sent.body[i : i + size] for i in range(0, len(sent.body), size)] or [b""]
    answer: list[dict] = []

    async def receive() -> dict:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "POST", "path": sent.path, "headers": sent.pairs(), "query_string": b""}
    await front(scope, receive, send)
    start, *rest = answer
    return start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in rest)


def tensors(rows: list[dict], binary: bool, path: str) -> Sent:
    """The rows as the Open Inference Protocol sends them."""
    body, headers = v2_request(census_signature(census()[0]), rows, binary)
    return Sent(path, body, SHOWN | {name.lower(): value for name, value in headers.items()})


def lines(rows: list[dict], kind: str) -> Sent:
    """The rows as SageMaker sends them: a line each."""
    text = "\n".join(json.dumps(row) for row in rows)
    if kind == "text/csv":
        text = pd.DataFrame(rows).to_csv(index=False)
    return Sent("/invocations", text.encode(), SHOWN | {"content-type": kind, "accept": kind})


def good_requests(rows: list[dict], ids: list[str]) -> dict[str, list[Sent]]:
    """Requests that are answered with 200, by their route: what is spoilt begins well."""
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows[:2]]}
    bodies = {
        "/predict": [{"rows": rows[:1]}, {"rows": rows[:3], "on_error": "skip"}, {"rows": rows[:2], "on_error": "fail"}],
        "/feedback": [{"labels": [{"prediction_id": i, "label": "no"} for i in ids]}],
        "/admin/forget": [{"prediction_ids": ids or ["none"]}],
        "/explain": [{"rows": rows[:1], "evaluations": 32}, {"rows": rows[:2], "evaluations": 32, "on_error": "skip"}],
        "/invocations": [{"instances": rows[:2]}, rows[:1], split],
    }
    found = {path: [Sent(path, json.dumps(body).encode(), SHOWN) for body in several] for path, several in bodies.items()}
    found["/invocations"] += [lines(rows[:3], "text/csv"), lines(rows[:2], "application/jsonlines")]
    for path in (path for path in POST if path.endswith("/infer")):
        own = path.format(model="census", version="0123456789abcdef")
        found[path] = [tensors(rows[:2], False, own), tensors(rows[:3], True, own)]
    return found


def ids_in(sent: Sent, headers: dict[bytes, bytes], body: bytes) -> list[str]:
    """The prediction ids of an answer, in whatever form it came."""
    if sent.path.startswith("/v2"):
        told = v2_answer(body, {name.decode(): value.decode() for name, value in headers.items()})
        return [i for i in told.get("prediction_ids", []) if i]
    kind = headers[b"content-type"]
    if kind.startswith(b"text/csv"):
        found = [line[-1] for line in csv.reader(io.StringIO(body.decode()))]
        return [i for i in found if i not in ("", "prediction_id")]
    if kind.startswith(b"application/jsonlines"):
        return [i for line in body.splitlines() if (i := json.loads(line)["prediction_id"])]
    return [i for i in json.loads(body).get("prediction_ids", []) if i]


def check_answer(sent: Sent, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    """An answer, or a refusal in the form of its route; no trace of our code; a 503 says when to come back."""
    told = (sent.path, status, sent.headers, sent.body[:300], body[:300])
    assert status in (200, 400, 401, 403, 413, 415) or (status == 503 and b"retry-after" in headers), told
    assert b"Traceback" not in body and b'File "' not in body and KEY.encode() not in body, told
    if status != 200:
        error = json.loads(body)
        assert error.get("error") or error["errors"], told


def test_every_route_that_takes_a_body_is_among_the_hostile_ones(rows):
    assert sorted(good_requests(rows, [])) == POST


class Siege:
    """Hostile requests to one route of an application, one after another; what came of them."""

    def __init__(self, application: Application, path: str, rows: list[dict]):
        self.front, self.path, self.rng, self.rows = Front(None, application), path, random.Random(path), rows
        self.statuses: Counter[int] = Counter()
        self.acknowledged: list[str] = []
        self.memory_mb: list[float] = []

    async def ask(self, sent: Sent) -> int:
        status, headers, body = await ask(self.front, sent, parts=self.rng.choice([1, 1, 1, 2, 7]))
        check_answer(sent, status, headers, body)
        if status == 200:
            self.acknowledged += ids_in(sent, headers, body)
        return status

    async def run(self, count: int) -> None:
        """`count` spoilt requests after some good ones; memory is looked at after a quarter and at the end."""
        await self.ask(Sent("/predict", json.dumps({"rows": self.rows[:4]}).encode(), SHOWN))
        good = good_requests(self.rows, self.acknowledged[:4])[self.path]
        assert [await self.ask(sent) for sent in good] == [200] * len(good)
        for number in range(count):
            self.statuses[await self.ask(spoil(self.rng, self.rng.choice(good)))] += 1
            if number in (count // 4, count - 1):
                gc.collect()
                self.memory_mb.append(psutil.Process().memory_info().rss / 2**20)
        assert [await self.ask(sent) for sent in good] == [200] * len(good)


@pytest.mark.parametrize("path", POST)
def test_no_hostile_request_brings_the_service_down_or_makes_it_grow(path, application, rows, size, measured):
    siege, count = Siege(application, path, rows), size("serving_hostile_bodies")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn remarks on unseen categories
        asyncio.run(siege.run(count))
    grown_mb = siege.memory_mb[1] - siege.memory_mb[0]
    measured(route=path, requests=count, answered=siege.statuses[200], refused=count - siege.statuses[200],
             grown_mb=round(grown_mb, 1))
    assert siege.statuses[400] > count / 4 and grown_mb < 32
    kept = [] if path == "/admin/forget" else siege.acknowledged  # which were forgotten again
    assert [r["prediction_id"] for r in read_records(application.log.folder)] == kept
