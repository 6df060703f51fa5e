"""Reading the prediction log: what is counted, what is left out, what comes back unchanged."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from handmade_log import NOON, view, write_log

from mlworkbench.core.errors import InputError
from mlworkbench.monitoring import logs
from mlworkbench.serving.log import PROBE_PREFIX, PredictionLog
from mlworkbench.serving.signature import Column, Signature
from mlworkbench.statistics.profiles import profile_frame

ODD = ['a"b', "it's", "a/b", "a~b", "a.b", "größe µ", "$.x", "select *"]


def numbers(*names: str) -> Signature:
    return Signature([Column(name, "number", "float64", nullable=True) for name in names])


def answered(count: int) -> list[dict]:
    return [{"prediction": float(i)} for i in range(count)]


def test_columns_of_any_name_come_back(tmp_path):
    row = {name: float(i) for i, name in enumerate(ODD)}
    write_log(tmp_path, [row], answered(1))
    frame = next(logs.input_frames(view(tmp_path), numbers(*ODD)))
    assert frame.iloc[0].to_dict() == row


def test_a_folder_and_a_model_with_quotes_are_no_sql(tmp_path):
    folder = tmp_path / "it's; drop"
    write_log(folder, [{"x": 1.0}], answered(1), model="o'model:1")
    assert logs.volume(view(folder, "o'model:1")).rows == 1


def test_types_come_back_as_the_signature_has_them(tmp_path):
    kinds = {"whole": "integer", "share": "number", "word": "string", "flag": "boolean", "seen": "datetime"}
    row = {"whole": 2**53, "share": 0.1 + 0.2, "word": "ja", "flag": True, "seen": "2026-01-31T08:00:00"}
    write_log(tmp_path, [row, dict.fromkeys(row)], answered(2))
    signature = Signature([Column(name, kind, "object", nullable=True) for name, kind in kinds.items()])
    frame = next(logs.input_frames(view(tmp_path), signature))
    assert (int(frame["whole"][0]), frame["share"][0], frame["word"][0]) == (2**53, 0.1 + 0.2, "ja")
    assert bool(frame["flag"][0]) and frame["seen"][0].isoformat() == "2026-01-31T08:00:00"
    assert frame.iloc[1].isna().all()


def test_a_value_of_another_type_is_missing_and_not_a_crash(tmp_path):
    write_log(tmp_path, [{"x": "many"}, {"x": {"deep": 1}}, {}], answered(3))
    assert next(logs.input_frames(view(tmp_path), numbers("x")))["x"].isna().all()


def test_proofs_of_parity_other_models_and_earlier_times_are_left_out(tmp_path):
    writer = PredictionLog(tmp_path, model="census:1")
    record = {"row": 0, "inputs": {"x": 1.0}, "outputs": {"prediction": 1.0}, "flags": []}
    for request, time in ((f"{PROBE_PREFIX}0", NOON), ("early", "2026-01-30T12:00:00.000000Z"), ("late", NOON)):
        writer.predictions([record], {"time": time, "request_id": request, "latency_ms": 1.0, "status": 200})
    write_log(tmp_path, [{"x": 1.0}], answered(1), model="census:2")
    assert logs.volume(view(tmp_path)).rows == 2
    assert logs.volume(logs.LogView(tmp_path)).rows == 3
    since = logs.parse_since("2026-01-31T00:00")
    assert logs.volume(logs.LogView(tmp_path, "census:1", since)).rows == 1


def test_a_torn_last_line_is_left_out(tmp_path):
    write_log(tmp_path, [{"x": 1.0}] * 3, answered(3))
    segment = next(tmp_path.glob("predictions-*"))
    segment.write_bytes(segment.read_bytes()[:-20])
    assert logs.volume(view(tmp_path)).rows == 2


def test_the_last_label_wins_also_within_one_request(tmp_path):
    first, second = write_log(tmp_path, [{"x": 1.0}] * 2, answered(2))
    writer = PredictionLog(tmp_path, model="census:1")
    writer.labels([{"prediction_id": first, "label": value} for value in (1.0, 2.0, 3.0)])
    writer.labels([{"prediction_id": first, "label": 4.0}, {"prediction_id": second, "label": None}])
    found = logs.labelled(view(tmp_path), numbers("x"))
    assert found["label"].tolist() == [4.0]


def test_labels_of_no_prediction_join_nothing_and_are_counted(tmp_path):
    write_log(tmp_path, [{"x": 1.0}], answered(1), labels=[1.0])
    with open(next(tmp_path.glob("labels-*")), "a") as file:
        stray = {"schema": 1, "time": NOON, "prediction_id": "20260131T120000-00000000-0", "label": 9}
        file.write(json.dumps(stray) + "\n")
    log = view(tmp_path)
    assert (len(logs.labelled(log, numbers("x"))), logs.stray_labels(log)) == (1, 1)


def test_parts_of_a_long_log_add_up_to_the_whole(tmp_path):
    rows = [{"x": float(i % 97)} for i in range(5000)]
    write_log(tmp_path, rows, answered(5000), at_once=5000)
    log = view(tmp_path)
    query = f"SELECT {logs.column_sql(numbers('x').columns[0])} FROM predictions"
    parts = list(log.frames(query, rows=2048))
    whole = profile_frame(next(log.frames(query)))
    added = profile_frame(parts[0], like=whole)
    for part in parts[1:]:
        added = added.merge(profile_frame(part, like=whole))
    assert len(parts) == 3 and added["x"].bins == whole["x"].bins


def test_a_request_is_counted_once_whatever_its_rows(tmp_path):
    write_log(tmp_path, [{"x": 1.0}] * 1000, answered(1000), at_once=300)
    found = logs.volume(view(tmp_path))
    assert (found.rows, found.requests, list(found.latency_ms)) == (1000, 4, ["p50", "p95", "p99"])


def test_a_request_answered_in_part_is_no_refused_one_and_its_rows_are_counted(tmp_path):
    write_log(tmp_path, [{"x": 1.0}] * 3, answered(3))
    writer, bad = PredictionLog(tmp_path, model="census:1"), {"row": 1, "column": "x", "problem": "must be a number"}
    record = {"row": 0, "inputs": {"x": 1.0}, "outputs": {"prediction": 1.0}, "flags": []}
    for request, status, good in (("part", 200, 2), ("none", 200, 0), ("refused", 400, 0)):
        shared = {"time": NOON, "request_id": request, "latency_ms": 1.0, "status": status}
        writer.predictions([record] * good, shared)
        writer.rejected([bad | {"row": row} for row in range(3 - good)] + [bad | {"problem": "and more"}], shared, rows=3)
    log = view(tmp_path)
    assert (logs.volume(log).rows, logs.volume(log).requests) == (5, 3)
    assert logs.rejected(log) == (1, [("x", "must be a number", 3), ("x", "and more", 1)])
    assert logs.skipped(log) == (4, [("x", "must be a number", 4), ("x", "and more", 2)])


def test_an_empty_folder_is_an_empty_log(tmp_path: Path):
    log = view(tmp_path / "not made yet")
    assert logs.volume(log).rows == 0 and logs.rejected(log) == (0, []) and logs.flags(log) == []


@pytest.mark.parametrize(("text", "expected"), [
    ("2026-01-31", datetime(2026, 1, 31)), ("2026-01-31T08:00:00+02:00", datetime(2026, 1, 31, 6)),
    ("90m", datetime(2026, 1, 31, 10, 30)), ("1w", datetime(2026, 1, 24, 12)), ("", None), (None, None),
])  # fmt: skip
def test_since_is_a_moment_or_a_duration(text, expected):
    assert logs.parse_since(text, datetime(2026, 1, 31, 12, tzinfo=UTC)) == expected


@pytest.mark.parametrize("text", ["yesterday", "7", "d", "2026-13-01", "7y"])
def test_since_refuses_what_is_neither(text):
    with pytest.raises(InputError, match="since=7d"):
        logs.parse_since(text)
