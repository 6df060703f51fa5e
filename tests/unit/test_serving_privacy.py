"""What the prediction log keeps of people: columns left out or hashed, predictions forgotten, old segments deleted."""

import json
import os
import threading
import time

import duckdb
import pytest

from mlworkbench.serving.errors import ServiceError, fault
from mlworkbench.serving.log import PredictionLog, find_record, has_record, read_records, records_sql, segments, utc_now
from mlworkbench.serving.privacy import (
    ColumnVeil,
    Keeper,
    drop_old,
    forget,
    hashed,
    make_veil,
    read_salt,
    segment_age,
)

SHARED = {"time": utc_now(), "request_id": "r1", "latency_ms": 0.4, "status": 200}


def records(n: int, **inputs) -> list[dict]:
    return [{"row": i, "inputs": {"name": f"Ann {i}", **inputs}, "outputs": {"prediction": i}, "flags": []} for i in range(n)]


@pytest.fixture
def log(tmp_path):
    log = PredictionLog(tmp_path / "log", model="m:1")
    yield log
    log.close()


def everything(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*.jsonl"))


def veil(exclude=(), hash_=(), known=("name", "city", "age")) -> ColumnVeil:
    return ColumnVeil(exclude=exclude, hash_=hash_, salt=b"salt", known=known)


def test_an_excluded_column_is_nowhere_in_the_log(tmp_path):
    log = PredictionLog(tmp_path, model="m:1", veil=veil(exclude=["name"]))
    log.predictions(records(3, age=40), SHARED)
    log.rejected([{"row": 0, "column": "name", "problem": "must be one of these (Ann, Bob)", "got": "Ann Marie"},
                  {"row": 1, "column": None, "problem": "the model cannot take this row (ValueError: 'Ann Marie')", "got": None},
                  {"row": None, "column": None, "problem": "the body must be JSON", "got": '{"rows": [{"name": "Ann'}], SHARED)
    log.close()
    assert b"Ann" not in everything(tmp_path)
    assert [r["inputs"] for r in read_records(tmp_path)] == [{"age": 40}] * 3


def test_a_fault_of_a_column_that_is_not_private_is_kept_whole(tmp_path):
    told = {"row": 0, "column": "age", "problem": "must be a number (or null)", "got": "old"}
    assert veil(exclude=["name"]).errors([told]) == [told]


def test_a_private_value_under_a_misspelt_name_is_kept_nowhere(tmp_path):
    veil = ColumnVeil(exclude=["ssn"], hash_=[], salt=b"", known=["ssn", "age"])
    (told,) = veil.errors([fault("unknown column. Did you mean 'ssn'?", row=0, column="SSN", got="123-45-6789")])
    assert told == {"row": 0, "column": None, "problem": "unknown column", "got": None}
    (told,) = veil.errors([fault("unknown column", row=0, column="123-45-6789", got=1)])  # a line of data, taken for names
    assert "6789" not in json.dumps(told)
    own = fault("must be a number", row=0, column="age", got="x")
    assert veil.errors([own]) == [own]


def test_hashes_are_equal_for_equal_values_over_processes_and_restarts_and_differ_by_deployment(tmp_path):
    one, again, other = (read_salt(tmp_path / d / "log", {}) for d in ("a", "a", "b"))
    assert one == again != other
    assert hashed("York", one) == hashed("York", again) != hashed("York", other)


def test_values_of_other_kinds_hash_apart_and_equal_numbers_together():
    values = [True, False, 1, "1", "true", 0, "", [1], "[1]", {"a": 1}, 1.5, -1]
    assert len({hashed(v, b"s") for v in values}) == len(values)
    assert hashed(1, b"s") == hashed(1.0, b"s") and hashed(None, b"s") is None and hashed(2.0**70, b"s")


def test_a_missing_value_and_an_absent_column_stay_what_they_are():
    assert veil(hash_=["name", "city"]).inputs({"name": None, "age": 1}) == {"name": None, "age": 1}


@pytest.mark.parametrize("settings", [{"log_exclude": ["agee"], "log_hash": []}, {"log_exclude": [], "log_hash": ["Age"]}])
def test_a_private_column_that_the_signature_does_not_have_is_refused_with_the_closest(settings):
    with pytest.raises(ServiceError, match="Did you mean 'age'"):
        make_veil(settings, ["age", "city"], None)


def test_without_private_columns_there_is_no_veil_and_no_salt(tmp_path):
    assert make_veil({"log_exclude": [], "log_hash": []}, ["age"], tmp_path / "log") is None
    assert make_veil({"log_exclude": ["age"], "log_hash": []}, ["age"], tmp_path / "log") is not None
    assert list(tmp_path.iterdir()) == []


def test_many_workers_that_start_at_once_agree_on_one_salt_that_only_the_owner_reads(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_salt(tmp_path / "log", {}))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found[0]) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["log.salt"] and (tmp_path / "log.salt").stat().st_mode & 0o777 == 0o600


def test_a_salt_may_come_from_the_environment_and_one_that_cannot_be_kept_means_refusing(tmp_path):
    assert read_salt(tmp_path / "log", {"MLW_LOG_SALT": "given"}) == b"given"
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="MLW_LOG_SALT"):
        read_salt(tmp_path / "file" / "log", {})


def test_a_forgotten_prediction_is_gone_with_its_labels_and_all_others_keep_their_places(log):
    ids = log.predictions(records(50), SHARED)
    log.labels([{"prediction_id": i, "label": 1} for i in ids + ids[:1]])
    before = {i: find_record(log.folder, i) for i in ids}
    sizes = [path.stat().st_size for path in log.folder.iterdir()]
    assert forget(log.folder, ids[10:20]) == []
    assert [path.stat().st_size for path in log.folder.iterdir()] == sizes
    for number, one in enumerate(ids):
        assert find_record(log.folder, one) == (None if 10 <= number < 20 else before[one])
        assert has_record(log.folder, one) != (10 <= number < 20)
    kept = [*ids[:10], *ids[20:]]
    assert [r["prediction_id"] for r in read_records(log.folder)] == kept
    assert [r["prediction_id"] for r in read_records(log.folder, "labels")] == [*kept, ids[0]]
    for n in range(10, 20):
        assert b'"Ann %d"' % n not in everything(log.folder)
    for kind, count in (("predictions", 40), ("labels", 41)):
        assert duckdb.execute(f"select count(*) from {records_sql(log.folder, kind)}").fetchone() == (count,)
    assert log.labels([{"prediction_id": ids[10], "label": 0}]) == [ids[10]]  # it cannot be labelled again


def test_forgetting_while_the_log_is_written_loses_nothing_else(log):
    ids, stop = log.predictions(records(20), SHARED), threading.Event()
    written = []

    def write():
        while not stop.is_set():
            written.extend(log.predictions(records(3), SHARED))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for one in ids:
            assert forget(log.folder, [one]) == []
    finally:
        stop.set()
        thread.join()
    assert [r["prediction_id"] for r in read_records(log.folder)] == written and written


HOSTILE = ["", "x", "../../etc/passwd-0", "20260131T080000-1a2b3c4d-0", "20260131T080000-1a2b3c4d-ffffffffffff", None, 7, "é"]


@pytest.mark.parametrize("one", HOSTILE)
def test_an_id_that_names_no_record_is_told_and_nothing_is_touched(log, one):
    log.predictions(records(2), SHARED)
    before = everything(log.folder)
    assert forget(log.folder, [one]) == [one] and everything(log.folder) == before


def test_an_id_that_points_into_the_middle_of_a_record_touches_nothing(log):
    (one,) = log.predictions(records(1), SHARED)
    place = one.rsplit("-", 1)[0]
    before = everything(log.folder)
    assert all(forget(log.folder, [f"{place}-{offset:x}"]) for offset in range(1, 200))
    assert everything(log.folder) == before


def test_a_label_that_quotes_an_id_is_not_taken_for_its_own(log):
    ids = log.predictions(records(2), SHARED)
    log.labels([{"prediction_id": ids[0], "label": f'","prediction_id":"{ids[1]}"'}])
    forget(log.folder, [ids[1]])
    assert [r["prediction_id"] for r in read_records(log.folder, "labels")] == [ids[0]]


def test_forgetting_keeps_the_time_by_which_a_segment_grows_old(log):
    ids = log.predictions(records(2), SHARED)
    (path,) = segments(log.folder, "predictions")
    os.utime(path, (1000, 1000))
    forget(log.folder, ids[:1])
    assert path.stat().st_mtime == 1000


def test_retention_deletes_whole_old_segments_that_nobody_writes(tmp_path):
    old = PredictionLog(tmp_path, model="m:1")
    ids = old.predictions(records(2), SHARED)
    old.labels([{"prediction_id": ids[0], "label": 1}])
    old.rejected([], SHARED)
    young = PredictionLog(tmp_path, model="m:1")
    kept = young.predictions(records(2), SHARED)
    for path in tmp_path.iterdir():
        if path.stem.split("-", 1)[1] not in kept[0]:
            os.utime(path, (time.time() - 8 * 86400,) * 2)
    assert drop_old(tmp_path, 7) == []  # the process that made them still holds them
    old.close()
    assert len(drop_old(tmp_path, 9)) == 0 and len(drop_old(tmp_path, 7)) == 3
    assert [r["prediction_id"] for r in read_records(tmp_path)] == kept
    assert drop_old(tmp_path, 0) == []  # no retention at all
    young.close()


def test_a_segment_ends_by_its_age_so_that_retention_can_reach_it(tmp_path, monkeypatch):
    assert segment_age(0) is None and segment_age(1) == 8640 and segment_age(365) == 86400
    log = PredictionLog(tmp_path, model="m:1", rotate_s=60)
    now = time.monotonic()
    first = log.predictions(records(1), SHARED)
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    second = log.predictions(records(1), SHARED)
    assert len(segments(tmp_path, "predictions")) == 2
    assert all(has_record(tmp_path, i) for i in first + second)
    monkeypatch.setattr(time, "monotonic", lambda: now + 300)
    log.rest()
    for path in segments(tmp_path, "predictions"):
        os.utime(path, (0, 0))
    assert len(drop_old(tmp_path, 1)) == 2  # an idle service holds none of them any more
    log.close()


def test_the_keeper_deletes_in_an_idle_service_and_ends_when_told(tmp_path):
    log = PredictionLog(tmp_path / "log", model="m:1", rotate_s=0.01)
    log.predictions(records(1), SHARED)
    for path in (tmp_path / "log").iterdir():
        os.utime(path, (0, 0))
    time.sleep(0.02)
    keeper = Keeper(log, days=1, every_s=0.02)
    end = time.monotonic() + 10
    while list((tmp_path / "log").iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    keeper.close()
    assert list((tmp_path / "log").iterdir()) == [] and not keeper._thread.is_alive()
    assert has_record(tmp_path / "log", log.predictions(records(1), SHARED)[0])
    log.close()


def test_a_segment_that_somebody_deleted_is_not_written_on(log, monkeypatch):
    log.predictions(records(1), SHARED)
    (path,) = segments(log.folder, "predictions")
    path.unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    (one,) = log.predictions(records(1), SHARED)
    assert has_record(log.folder, one)


def test_the_salt_lies_beside_the_log_and_never_in_it(tmp_path):
    log_folder = tmp_path / "log"
    made = make_veil({"log_exclude": [], "log_hash": ["city"]}, ["city"], log_folder, {})
    log = PredictionLog(log_folder, model="m:1", veil=made)
    log.predictions(records(1, city="York"), SHARED)
    log.close()
    salt = (tmp_path / "log.salt").read_text().strip()
    assert salt not in everything(log_folder).decode() and b"York" not in everything(log_folder)
    assert json.loads(everything(log_folder))["inputs"]["city"] == hashed("York", salt.encode())
