"""The prediction log's edges: ids, torn lines, rotation, disks that fail, several writers."""

import errno
import os
import threading

import duckdb
import pytest

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.log import (
    NoLog,
    PredictionLog,
    find_record,
    has_record,
    read_records,
    records_sql,
    segments,
    utc_now,
)


def shared(request_id: str = "r") -> dict:
    return {"time": utc_now(), "request_id": request_id, "latency_ms": 1.0, "status": 200}


def rows(n: int, text: str = "a") -> list[dict]:
    return [{"row": i, "inputs": {"x": i, "t": text}, "outputs": {"prediction": i}, "flags": []} for i in range(n)]


@pytest.fixture
def log(tmp_path):
    log = PredictionLog(tmp_path / "deep" / "log", model="m:1", deployment="d")
    yield log
    log.close()


def test_each_id_finds_its_own_record(log):
    ids = [i for n in (1, 3, 2) for i in log.predictions(rows(n, 'ü"\n'), shared(f"r{n}"))]
    assert len(set(ids)) == 6
    assert [find_record(log.folder, i)["prediction_id"] for i in ids] == ids
    assert [record["prediction_id"] for record in read_records(log.folder)] == ids
    assert find_record(log.folder, ids[3]) | {"time": 0} == {
        "schema": 1, "prediction_id": ids[3], "model": "m:1", "deployment": "d", "time": 0, "request_id": "r3",
        "latency_ms": 1.0, "status": 200, "row": 2, "inputs": {"x": 2, "t": 'ü"\n'}, "outputs": {"prediction": 2},
        "flags": [],
    }


@pytest.mark.parametrize("wrong", ["", "x", "../../etc/passwd-0", "20260131T080000-1a2b3c4d-", None, 7, "é" * 40, "0" * 9999])
def test_what_is_no_id_is_unknown(log, wrong):
    log.predictions(rows(1), shared())
    assert not has_record(log.folder, wrong)


def test_an_id_between_records_is_unknown(log):
    first, second = log.predictions(rows(2), shared())
    segment, offset = second.rsplit("-", 1)
    for shift in (-1, 1, 10**6):
        assert not has_record(log.folder, f"{segment}-{int(offset, 16) + shift:x}")
    assert has_record(log.folder, first) and has_record(log.folder, second)


def test_labels_go_to_known_ids_only_and_repeats_are_kept_in_order(log):
    (known,) = log.predictions(rows(1), shared())
    labels = [{"prediction_id": i, "label": v} for i, v in ((known, 1), ("nobody", 2), (known, 3))]
    assert log.labels(labels) == ["nobody"]
    assert [(r["prediction_id"], r["label"]) for r in read_records(log.folder, "labels")] == [(known, 1), (known, 3)]


def test_another_process_s_record_takes_a_label_after_a_restart(log):
    (known,) = log.predictions(rows(1), shared())
    log.close()
    again = PredictionLog(log.folder, model="m:2")
    assert again.labels([{"prediction_id": known, "label": 1}]) == []
    assert len(segments(log.folder, "labels")) == 1


def test_segments_rotate_by_size_and_are_read_in_order(tmp_path):
    log = PredictionLog(tmp_path, model="m:1", rotate_mb=0.001)
    ids = [i for _ in range(20) for i in log.predictions(rows(1), shared())]
    assert len(segments(tmp_path, "predictions")) > 3
    assert {record["prediction_id"] for record in read_records(tmp_path)} == set(ids)
    assert all(has_record(tmp_path, i) for i in ids)


def test_a_torn_last_line_is_left_out_by_python_and_duckdb(log):
    ids = log.predictions(rows(3), shared())
    path = segments(log.folder, "predictions")[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-25])
    assert [r["prediction_id"] for r in read_records(log.folder)] == ids[:2]
    found = duckdb.execute(f"select prediction_id from {records_sql(log.folder)}").fetchall()
    assert [row[0] for row in found] == ids[:2]


def test_duckdb_reads_every_kind_with_its_types(log):
    (known, _) = log.predictions(rows(2), shared())
    log.rejected([{"row": 0, "column": "x", "problem": "must be a number", "got": "a"}], shared(), rows=1)
    log.labels([{"prediction_id": known, "label": "yes"}])
    query = "select inputs->>'t', (outputs->>'prediction')::double, flags, year(time) > 2000 from {}"
    assert duckdb.execute(query.format(records_sql(log.folder))).fetchall()[1] == ("a", 1.0, [], True)
    query = 'select status, rows, errors[1]."column" from {}'
    assert duckdb.execute(query.format(records_sql(log.folder, "rejected"))).fetchall() == [(200, 1, "x")]
    query = "select prediction_id, label->>'$' from {}"
    assert duckdb.execute(query.format(records_sql(log.folder, "labels"))).fetchall() == [(known, "yes")]


def test_an_idle_log_is_an_empty_relation(tmp_path):
    assert duckdb.execute(f"select count(*), max(latency_ms) from {records_sql(tmp_path)}").fetchone() == (0, None)


def test_a_write_that_fails_half_way_leaves_no_half_line(log, monkeypatch):
    before = log.predictions(rows(2), shared())
    real = os.write

    def half(file, data):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        log.predictions(rows(5), shared())
    monkeypatch.undo()
    after = log.predictions(rows(2), shared())
    assert [r["prediction_id"] for r in read_records(log.folder)] == before + after


def test_short_writes_are_continued(log, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data[:7])))
    ids = log.predictions(rows(4), shared())
    assert [r["prediction_id"] for r in read_records(log.folder)] == ids


def test_threads_and_processes_do_not_tear_each_other_s_lines(tmp_path):
    logs = [PredictionLog(tmp_path, model="m:1") for _ in range(2)]
    ids, lock = [], threading.Lock()

    def work(log):
        for _ in range(100):
            mine = log.predictions(rows(3), shared())
            with lock:
                ids.extend(mine)

    threads = [threading.Thread(target=work, args=(log,)) for log in logs * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(set(ids)) == 1800
    assert {r["prediction_id"] for r in read_records(tmp_path)} == set(ids)
    assert all(has_record(tmp_path, i) for i in ids)


def test_without_a_log_ids_are_still_distinct_and_labels_are_refused():
    none = NoLog()
    assert len(set(none.predictions(rows(3), shared()) + none.predictions(rows(2), shared()))) == 5
    with pytest.raises(ServiceError, match="keeps no prediction log"):
        none.labels([{"prediction_id": "x", "label": 1}])


def test_only_twenty_errors_of_a_request_are_logged(log):
    log.rejected([{"row": i, "column": None, "problem": "p", "got": None} for i in range(500)], shared(), rows=500)
    (record,) = read_records(log.folder, "rejected")
    assert len(record["errors"]) == 20 and record["rows"] == 500
