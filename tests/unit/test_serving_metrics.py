"""Metrics: valid for Prometheus, right over workers that come and go, bounded whatever callers send."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlworkbench.serving.counters import Counters, Family, total, write_text
from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.metrics import BUCKETS, FAMILIES, Metrics, reason, share_folder

HOSTILE = 'a"b\\c\nd\x00é\u2028{}=, #HELP'


def parsed(metrics: Metrics) -> dict[tuple, float]:
    """What Prometheus' own parser reads: (name, labels) to value."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def busy(metrics: Metrics, requests: int = 3) -> None:
    for _ in range(requests):
        metrics.began()
        metrics.ended("/predict", 200, 0.003)
    metrics.scored(requests, {0: ["out_of_range:age"], 2: ["out_of_range:age", "unseen_category:city"]})
    metrics.rejected([{"column": "age", "problem": "must be a number"}])


def test_the_text_is_what_prometheus_reads():
    metrics = Metrics(model=HOSTILE, deployment="d", columns=("age", "city", HOSTILE))
    busy(metrics)
    metrics.rejected([{"column": HOSTILE, "problem": "must not be missing"}])
    metrics.batched(3)
    metrics.cached(True)
    metrics.cached(False)
    metrics.denied("unknown")
    metrics.log_failed()
    metrics.queued(2)
    found = parsed(metrics)
    assert found["mlw_requests_total", (("route", "/predict"), ("status", "200"))] == 3
    assert found["mlw_request_seconds_count", (("route", "/predict"),)] == 3
    assert found["mlw_request_seconds_sum", (("route", "/predict"),)] == pytest.approx(0.009)
    assert found["mlw_request_seconds_bucket", (("le", "0.0025"), ("route", "/predict"))] == 0
    assert found["mlw_request_seconds_bucket", (("le", "0.005"), ("route", "/predict"))] == 3
    assert found["mlw_request_seconds_bucket", (("le", "+Inf"), ("route", "/predict"))] == 3
    assert found["mlw_flagged_total", (("column", "age"), ("flag", "out_of_range"))] == 2
    assert found["mlw_rejected_total", (("column", HOSTILE), ("reason", "missing"))] == 1
    assert found["mlw_model_info", (("deployment", "d"), ("model", HOSTILE))] == 1
    assert found["mlw_cache_total", (("outcome", "hit"),)] == found["mlw_cache_total", (("outcome", "miss"),)] == 1
    assert found["mlw_denied_total", (("reason", "unknown"),)] == found["mlw_log_failures_total", ()] == 1
    assert found["mlw_batch_requests_sum", ()] == 3 and found["mlw_batch_requests_count", ()] == 1
    assert found["mlw_queue_length", ()] == 2 and found["mlw_requests_in_progress", ()] == 0
    worker = (("worker", str(os.getpid())),)
    assert found["mlw_process_memory_bytes", worker] > 1e7 and found["mlw_process_cpu_seconds_total", worker] > 0
    assert abs(found["mlw_start_time_seconds", ()] - time.time()) < 60
    assert all(name.startswith("mlw_") for name, _ in found)


def test_every_family_has_its_help_and_its_kind():
    families = {f.name: f for f in text_string_to_metric_families(Metrics(model="m:1").text().decode())}
    assert all(f.documentation and f.type in ("counter", "gauge", "histogram") for f in families.values())
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)


def test_a_value_on_an_edge_is_within_it_and_one_above_all_is_counted():
    metrics = Metrics(model="m:1")
    for seconds in (*BUCKETS, 99.0):
        metrics.began()
        metrics.ended("/predict", 200, seconds)
    found = parsed(metrics)
    for number, edge in enumerate(BUCKETS, 1):
        assert found["mlw_request_seconds_bucket", (("le", str(float(edge))), ("route", "/predict"))] == number
    assert found["mlw_request_seconds_bucket", (("le", "+Inf"), ("route", "/predict"))] == len(BUCKETS) + 1


def test_workers_are_added_up_and_one_that_was_killed_leaves_its_counts_and_takes_its_gauges(tmp_path):
    mine = Metrics(model="m:1", columns=("age", "city"), folder=str(tmp_path))
    busy(mine)
    code = (
        "import sys, time; from mlworkbench.serving.metrics import Metrics\n"
        "m = Metrics(model='m:1', columns=('age', 'city'), folder=sys.argv[1])\n"
        "[(m.began(), m.ended('/predict', 200, 0.003)) for _ in range(7)]; m.scored(7, {}); m.began()\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        found = parsed(mine)
        assert found["mlw_rows_total", ()] == 10 and found["mlw_requests_in_progress", ()] == 1
        assert found["mlw_requests_total", (("route", "/predict"), ("status", "200"))] == 10
        assert found["mlw_process_memory_bytes", (("worker", str(other.pid)),)] > 1e6
    finally:
        other.kill()
        other.wait(10)
        other.stdout.close()
    found = parsed(mine)
    assert found["mlw_rows_total", ()] == 10 and found["mlw_requests_in_progress", ()] == 0
    assert found["mlw_request_seconds_count", (("route", "/predict"),)] == 10
    assert ("mlw_process_memory_bytes", (("worker", str(other.pid)),)) not in found
    busy(mine, 1)
    assert parsed(mine)["mlw_rows_total", ()] == 11


def test_threads_that_count_together_lose_nothing(tmp_path):
    for folder in (None, str(tmp_path)):
        metrics = Metrics(model="m:1", columns=("age",), folder=folder)

        def work(metrics=metrics):
            for number in range(2000):
                metrics.scored(1, {0: [f"out_of_range:{'age' if number % 2 else number}"]})

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = parsed(metrics)
        assert found["mlw_rows_total", ()] == 8000
        assert found["mlw_flagged_total", (("column", "age"), ("flag", "out_of_range"))] == 4000
        assert found["mlw_flagged_total", (("column", ""), ("flag", "out_of_range"))] == 4000


def test_columns_that_callers_invent_make_no_series():
    metrics = Metrics(model="m:1", columns=("age",))
    before = len(parsed(metrics))
    for number in range(500):
        metrics.rejected([{"column": f"x{number}", "problem": f"{number} is wrong"}])
    assert len(parsed(metrics)) == before + 1


def test_of_a_very_wide_signature_only_so_many_columns_are_told_apart():
    metrics = Metrics(model="m:1", columns=tuple(f"c{i}" for i in range(5000)))
    metrics.rejected([{"column": f"c{i}", "problem": "must not be missing"} for i in range(5000)])
    found = {k: v for k, v in parsed(metrics).items() if k[0] == "mlw_rejected_total"}
    assert len(found) == 1001 and sum(found.values()) == 5000


@pytest.mark.parametrize(("problem", "word"), [
    ("unknown column. Did you mean 'x'?", "unknown_column"), ("required column is absent", "absent"),
    ("must not be missing", "missing"), ("must be between 1 and 2", "out_of_range"), ("must be a number", "wrong_type"),
    ("the model cannot take this row", "model"), ("", "other")])
def test_faults_become_short_words(problem, word):
    assert reason(problem) == word


def test_a_full_disk_costs_a_series_and_no_answer(tmp_path, monkeypatch):
    counters = Counters(tmp_path)
    kept = Family("mlw_kept", "counter", "")
    counters.values[counters.place(kept)] += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        lost = counters.place(Family("mlw_lost", "histogram", "", (1.0,)))
        counters.values[lost + 2] += 5
    wide = [counters.place(Family(f"mlw_{i}", "counter", "")) for i in range(1950)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        beyond = counters.place(Family("mlw_beyond", "histogram", "", tuple(map(float, range(60)))))
        counters.values[beyond + 61] += 1
    counters.values[wide[-1]] += 3
    sums = {name: numbers for (name, _), (_, numbers) in total(counters, {}).items()}
    assert sums["mlw_kept"] == [1.0] and sums["mlw_1949"] == [3.0] and "mlw_lost" not in sums and "mlw_beyond" not in sums


def test_a_name_that_was_cut_off_and_a_number_that_is_missing_are_passed_over(tmp_path):
    counters = Counters(tmp_path)
    counters.values[counters.place(Family("mlw_a", "counter", ""))] += 1
    (names,) = tmp_path.glob("*.names")
    with names.open("ab") as file:
        file.write(b'["mlw_torn", {"x": "]')
    counters.values[counters.place(Family("mlw_b", "counter", ""))] += 2
    sums = {name: numbers for (name, _), (_, numbers) in total(counters, {}).items()}
    assert sums == {"mlw_a": [1.0], "mlw_b": [2.0]}


def test_workers_share_a_folder_that_is_their_own_and_left_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "mlw-metrics-999999999-1").mkdir()
    assert share_folder(1) is None
    shared = Path(share_folder(2))
    assert share_folder(2) == str(shared) and shared.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir()] == [shared.name]
    (tmp_path / "strange").mkdir()
    shared.rmdir()
    shared.symlink_to(tmp_path / "strange")
    with pytest.raises(ServiceError, match="this service's own"):
        share_folder(2)


def test_a_family_without_samples_is_not_written():
    assert write_text([Family("mlw_a", "counter", "A")], {}) == b""
