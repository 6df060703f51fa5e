"""Tables are cut into the same parts each time, and no row is lost, torn or told twice."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlworkbench.core.errors import InputError
from mlworkbench.deployment.journal import JOB, Output, Places
from mlworkbench.deployment.tables import (
    Part,
    cut_parts,
    find_files,
    hash_table,
    open_table,
    open_tables,
    read_batches,
    scan_lines,
)


def rows_of(path: Path, part_rows: int, columns: list[str]) -> list[dict]:
    """All rows, read part by part, with what each batch says of itself checked."""
    (table,) = open_tables(path, part_rows)
    parts, found = cut_parts([table], part_rows), []
    for part in parts:
        assert part.first == len(found)
        for batch in read_batches(table, part, columns):
            assert batch.first == len(found)
            rows = batch.table.to_pylist() if batch.table is not None else batch.records
            assert len(rows) == batch.rows
            found += rows
        assert part.first + part.rows == len(found)
    return found


@pytest.mark.parametrize("part_rows", [1, 7, 40, 100, 1000])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_row_is_read_once_and_in_order_whatever_the_size_of_a_part(tmp_path, kind, part_rows):
    frame = pd.DataFrame({"n": np.arange(231), "text": ['a "b"', "c\nd", "é,", "", "e"] * 46 + ["x"]})
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\r\n")
    else:
        frame.to_parquet(path, row_group_size=50)
    found = rows_of(path, part_rows, ["n", "text"])
    assert [str(row["n"]) for row in found] == [str(n) for n in range(231)]
    assert [row["text"] or "" for row in found] == frame["text"].tolist()


def test_rows_of_another_width_are_told_and_the_others_read(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n4,5,6\n7,8\n")
    table = open_table("a.csv", tmp_path / "a.csv")
    (batch,) = read_batches(table, Part(0, 0, 0, 4), ["x", "y"])
    assert batch.broken == {1: ("must hold 2 cells, one a column", 1), 2: ("must hold 2 cells, one a column", 3)}
    assert [batch.records[i] for i in (0, 3)] == [{"x": "1", "y": "2"}, {"x": "7", "y": "8"}]


def test_lines_that_are_no_json_are_told_and_the_others_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": \n[1]\n{"x": 1e999}\n{"x": NaN}\n')
    table = open_table("a.jsonl", tmp_path / "a.jsonl")
    (batch,) = read_batches(table, Part(0, 0, 0, 5), ["x"])
    assert set(batch.broken) == {1, 3, 4} and all(text.startswith("must be JSON") for text, _ in batch.broken.values())
    assert [batch.records[i] for i in (0, 2)] == [{"x": 1}, [1]]


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"x": 2}\n')
    table = open_table("a.jsonl", path)
    for text in ('{"x": 1}\n', '{"x": 1}\n{"x": 3}\n'):
        path.write_text(text)
        with pytest.raises(InputError, match="a.jsonl: (it must be lines of JSON|it must stay as it was)"):
            list(read_batches(table, Part(0, 0, 0, 2), ["x"]))


def test_lines_are_found_across_the_edges_of_chunks(tmp_path, monkeypatch):
    text = '\ufeffa,b\r\n"1\n,""2",3\r\n\r\n4,"5\r\n"\n6,7\r\n\n"",\n8,9'.encode()
    path = tmp_path / "rows.csv"
    path.write_bytes(text)
    expected = scan_lines(path, 1, quoted=True, skip=1)
    assert expected.rows == 5
    for chunk in range(1, len(text) + 1):
        monkeypatch.setattr("mlworkbench.deployment.tables.CHUNK", chunk)
        assert scan_lines(path, 1, quoted=True, skip=1) == expected
        assert scan_lines(path, 2, quoted=True, skip=1).starts == expected.starts[::2]


def test_hidden_files_are_passed_over(tmp_path):
    for name in ("a.csv", ".b.csv", "_c/d.csv", "e/f.PARQUET", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name for name, _ in find_files(tmp_path)] == ["a.csv", "e/f.PARQUET"]


def job(**changes) -> dict:
    return {"schema": 1, "model": {"tag": "a:1"}, "input": [], "options": {}, "versions": {}, **changes}


def test_a_part_that_two_did_is_there_once(tmp_path):
    output, part = Output(tmp_path / "out"), Part(0, 0, 0, 1)
    with output.opened():
        places = Places(output.folder, output.begin(job()))
        for text in ("first", "other"):
            with places.placing(part) as (folder, record):
                (folder / "predictions.csv").write_text(text)
        assert (output.folder / part.name / "predictions.csv").read_text() == "first"
        assert output.record(part)["part"] == 0


def test_a_part_of_another_job_does_not_count(tmp_path):
    output, part = Output(tmp_path / "out"), Part(0, 0, 0, 1)
    with output.opened():
        output.begin(job())
        with Places(output.folder, "another").placing(part) as (folder, record):
            (folder / "predictions.csv").write_text("")
        assert output.record(part) is None and not (output.folder / part.name).exists()


def test_a_folder_that_was_not_begun_is_left_as_it_was(tmp_path):
    output = Output(tmp_path / "new" / "out")
    with pytest.raises(KeyboardInterrupt), output.opened():
        with Places(output.folder, None).placing(Part(0, 0, 0, 1)) as (folder, record):
            (folder / "predictions.csv").write_text("whole, but of no job")
        raise KeyboardInterrupt
    assert not output.folder.exists()


def test_a_job_of_another_version_of_a_library_is_refused(tmp_path):
    output = Output(tmp_path / "out")
    with output.opened():
        output.begin(job(versions={"numpy": "2.0"}))
    with output.opened(), pytest.raises(InputError, match="the same versions, got numpy '2.0' then and '2.1' now"):
        output.begin(job(versions={"numpy": "2.1"}))
    assert (output.folder / JOB).exists()


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": [1.0]}).to_parquet(path)
    table = open_table("a.parquet", path)
    assert hash_table(table).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    pd.DataFrame({"x": [2.0, 3.0]}).to_parquet(path)
    with pytest.raises(InputError, match="it must stay as it was"):
        hash_table(table)
    path.unlink()
    with pytest.raises(InputError, match="a Parquet table that can be read, got No such file"):
        hash_table(table)


def test_a_header_without_names_is_not_repeated(tmp_path):
    (tmp_path / "a.csv").write_text("Ada,36,36\nBob,7,8\n")
    with pytest.raises(InputError, match="one name for the columns 2 and 3") as told:
        open_table("a.csv", tmp_path / "a.csv")
    assert "36" not in str(told.value) and "Ada" not in str(told.value)
