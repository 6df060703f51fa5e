"""Several requests at once: each gets its own answer, none pays for another's fault, and the log has each once."""

import asyncio
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from handmade_bundle import census, census_bundle, json_rows

from mlworkbench.serving.answers import Job
from mlworkbench.serving.application import Application
from mlworkbench.serving.log import read_records
from mlworkbench.serving.predictor import Cost
from mlworkbench.serving.service import Front

SLOW, QUICK = Cost(1.0), Cost(0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census", max_rows=500, timeout_s=20, queue=30)


@pytest.fixture
def application(bundle, tmp_path):
    application = Application(bundle, {"MLW_LOG_DIR": str(tmp_path / "log"), "MLW_AUTH": "off"}).start()
    assert application.refusal is None
    yield application
    application.log.close()


@pytest.fixture(scope="module")
def rows():
    return json_rows(census()[0].head(60))


def crowd(application: Application, bodies: list[dict]) -> list[httpx.Response]:
    """All bodies sent at once."""
    async def nothing(scope, receive, send):
        raise AssertionError("the front must answer by itself")

    async def together() -> list[httpx.Response]:
        transport = httpx.ASGITransport(Front(nothing, application))
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
            return await asyncio.gather(*(client.post("/predict", json=body) for body in bodies))

    return asyncio.run(together())


class Counting:
    """The model, with a note of how many rows it was asked each time."""

    def __init__(self, application: Application, pause_s: float = 0.0):
        self.calls, self._real, self._pause_s = [], application.predictor.ask, pause_s
        application.predictor._ask_rows = self

    def __call__(self, checked):
        self.calls.append(checked.rows)
        time.sleep(self._pause_s)
        return self._real(checked)


@pytest.mark.parametrize("cost", [SLOW, QUICK], ids=["in a thread", "in place"])
def test_callers_at_once_get_their_own_answers_and_ids(application, rows, cost):
    application.cost = cost
    model = Counting(application, 0.05 if cost is SLOW else 0.0)
    bodies = [{"rows": rows[i : i + 1 + i % 3]} for i in range(24)]
    replies = crowd(application, bodies)
    assert [r.status_code for r in replies] == [200] * 24
    estimator = application.predictor.estimator
    X = census()[0]
    for i, reply in enumerate(replies):
        part = X.iloc[i : i + 1 + i % 3]
        assert reply.json()["predictions"] == estimator.predict(part).tolist()
        np.testing.assert_allclose(reply.json()["probabilities"], estimator.predict_proba(part), rtol=0, atol=1e-12)
    assert len(model.calls) < 24 and sum(model.calls) == sum(len(b["rows"]) for b in bodies)
    told = [i for reply in replies for i in reply.json()["prediction_ids"]]
    logged = {r["prediction_id"]: r for r in read_records(application.log.folder)}
    assert len(logged) == len(told) == len(set(told)) and set(logged) == set(told)
    for body, reply in zip(bodies, replies, strict=True):
        records = [logged[i] for i in reply.json()["prediction_ids"]]
        assert [r["inputs"] for r in records] == body["rows"]
        assert {r["request_id"] for r in records} == {reply.headers["x-request-id"]}


@pytest.mark.parametrize("cost", [SLOW, QUICK], ids=["in a thread", "in place"])
def test_one_caller_s_bad_row_costs_the_others_nothing(application, rows, cost):
    application.cost = cost
    real = application.predictor.ask

    def squeamish(checked):
        if 17 in checked.columns["age"]:
            raise ValueError("not 17")
        return real(checked)

    application.predictor._ask_rows = squeamish
    good = [row for row in rows if row["age"] != 17]
    bodies = [{"rows": [good[0]]}, {"rows": [good[1], good[2] | {"age": 17.0}]}, {"rows": [good[3]]},
              {"rows": [good[4] | {"age": 17.0}, good[5]], "on_error": "skip"}, {"rows": [{}]}, {"rows": [good[6]]}]
    replies = crowd(application, bodies)
    assert [r.status_code for r in replies] == [200, 400, 200, 200, 400, 200]
    assert replies[1].json()["errors"][0]["row"] == 1 and "not 17" in replies[1].json()["errors"][0]["problem"]
    skipped = replies[3].json()
    assert skipped["predictions"][0] is None and skipped["predictions"][1] is not None and skipped["prediction_ids"][0] is None
    assert len(list(read_records(application.log.folder))) == 4


def test_a_fault_of_ours_in_a_batch_is_one_caller_s_500(application, rows, monkeypatch):
    application.cost = SLOW
    real, marked = application.answers.predictor.answer, rows[5]["age"]

    def fragile(questions):
        if any(marked in q.checked.columns["age"] for q in questions):
            raise RuntimeError("secret")
        return real(questions)

    monkeypatch.setattr(application.predictor, "answer", fragile)
    others = [row for row in rows if row["age"] != marked][:7]
    replies = crowd(application, [{"rows": [row]} for row in [*others, rows[5]]])
    assert [r.status_code for r in replies] == [200] * 7 + [500] and "secret" not in replies[-1].text


def test_what_stands_in_the_log_is_not_settled_a_second_time(application, rows):
    jobs = [Job(application.predictor.read([row]), f"r{i}", time.perf_counter(), dict) for i, row in enumerate(rows[:3])]

    def broken(body):
        raise TypeError("cannot be written")

    jobs[1].encode = broken
    application.answers.settle(jobs)
    assert isinstance(jobs[1].refusal, TypeError) and jobs[0].reply["predictions"] and jobs[2].reply["predictions"]
    assert sorted(r["request_id"] for r in read_records(application.log.folder)) == ["r0", "r1", "r2"]


def test_a_crowd_beyond_the_queue_is_told_to_come_back_and_the_rest_is_answered(application, rows):
    application.cost = SLOW
    Counting(application, 0.2)
    replies = crowd(application, [{"rows": [row]} for row in rows[:50]])
    refused = [r for r in replies if r.status_code == 503]
    assert 10 <= len(refused) < 50 and all(r.headers["retry-after"] == "1" for r in refused)
    answered = [r for r in replies if r.status_code == 200]
    assert len(answered) + len(refused) == 50
    assert len(list(read_records(application.log.folder))) == len(answered)


def test_a_kept_answer_has_its_own_id_and_record(application, rows):
    application.cost = QUICK
    cache = application.predictor.remember(10)
    first, again = (crowd(application, [{"rows": rows[:3]}])[0].json() for _ in range(2))
    assert first["predictions"] == again["predictions"] and first["probabilities"] == again["probabilities"]
    assert not set(first["prediction_ids"]) & set(again["prediction_ids"])
    assert (cache.hits, cache.misses) == (3, 3) and len(list(read_records(application.log.folder))) == 6


def test_with_batches_of_one_row_each_request_is_asked_alone(bundle, rows):
    application = Application(bundle, {"MLW_AUTH": "off"})
    application.settings["batch_rows"] = 1
    application.start()
    application.cost = SLOW
    model = Counting(application, 0.02)
    assert [r.status_code for r in crowd(application, [{"rows": [row]} for row in rows[:9]])] == [200] * 9
    assert model.calls == [1] * 9
