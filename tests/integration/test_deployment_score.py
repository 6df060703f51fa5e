"""Batch scoring of real bundles: the service's answers, from every form of input, and all of them once whatever happens."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from handmade_bundle import census, fitted_pipeline, json_rows

import mlworkbench as mlw
from mlworkbench.core.errors import GateFailed, InputError, MissingPart, NotFound
from mlworkbench.core.jobs import Job, check_cancelled
from mlworkbench.deployment import journal, score
from mlworkbench.serving.application import Application

MLWORKBENCH = str(Path(sys.executable).with_name("mlworkbench"))
COLUMNS = ["age", "education", "sex"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace and a store for this module."""
    folder = tmp_path_factory.mktemp("scoring").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def bundle(home):
    """A bundle that flags ages, reads them with good will, and refuses an unknown sex."""
    X, y = census(600)
    policy = {"age": "coerce", "sex": "reject"}
    model = fitted_pipeline(X[COLUMNS], y)
    return mlw.build_bundle(model, name="people", examples=X[COLUMNS], environment="current", golden_rows=16, policy=policy)


@pytest.fixture(scope="module")
def people(home) -> pd.DataFrame:
    """Rows with an id; some are strange, some are bad."""
    frame = census(2000)[0][COLUMNS].reset_index(drop=True)
    frame.insert(0, "id", [f"p{i:05d}" for i in range(len(frame))])
    frame.loc[7, "age"], frame.loc[1234, "age"] = 200.0, -3.5
    frame.loc[[20, 1999], "sex"] = "none of these"
    frame.loc[[33], "age"] = None
    return frame


@pytest.fixture(scope="module")
def inputs(people, home) -> dict[str, Path]:
    """The same rows in each format, and as a folder of all of them."""
    folder = home / "inputs"
    (folder / "mixed" / "deep").mkdir(parents=True)
    people.to_parquet(folder / "people.parquet", row_group_size=300)
    people.to_csv(folder / "people.csv", index=False)
    rows = people.to_dict("records")
    text = "\n".join(json.dumps({k: None if pd.isna(v) else v for k, v in row.items()}) for row in rows)
    (folder / "people.jsonl").write_text(text, encoding="utf-8")
    people[:700].to_parquet(folder / "mixed" / "a.parquet")
    people[700:1500].to_csv(folder / "mixed" / "b.csv", index=False)
    (folder / "mixed" / "deep" / "c.jsonl").write_text("\n".join(text.split("\n")[1500:]), encoding="utf-8")
    (folder / "mixed" / "_passed_over.csv").write_text("nothing")
    return {name: folder / name for name in ("people.parquet", "people.csv", "people.jsonl", "mixed")}


def service_says(bundle, rows: list[dict]) -> dict:
    application = Application(Path(bundle.path) / "src", {"MLW_AUTH": "off"}).start()
    assert application.refusal is None
    return application.answers.predict(rows, "skip", "request", time.perf_counter())


def tree(folder: Path) -> dict[str, str]:
    """Every file of an output and its hash."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.mark.parametrize("name", ["people.parquet", "people.csv", "people.jsonl"])
def test_the_answers_are_the_services_to_the_last_bit(bundle, people, inputs, tmp_path, name):
    found = mlw.score(bundle, inputs[name], tmp_path / "out", ids=["id"])
    told = service_says(bundle, json_rows(people[COLUMNS]))
    table, good = found.to_frame(), [i for i, p in enumerate(told["predictions"]) if p is not None]
    assert table["row"].tolist() == good and set(table["file"]) == {name}
    assert table["id"].tolist() == people["id"][good].tolist()
    assert table["prediction"].tolist() == [told["predictions"][i] for i in good]
    shares = table[["probability_no", "probability_yes"]].to_numpy()
    assert np.array_equal(shares, np.array([told["probabilities"][i] for i in good]))
    refused = found.quarantine().drop(columns="file").to_dict("records")
    assert refused == told["errors"] and {r["row"] for r in refused} == {20, 33, 1999}
    assert table["flags"][table["row"] == 7].tolist()[0] == ["out_of_range:age"]
    assert (found.rows, found.refused, found.flagged) == (2000, len(told["errors"]), 2)


def test_every_form_of_input_gives_the_same(bundle, inputs, tmp_path):
    columns = ["id", "prediction", "probability_no", "probability_yes"]
    found = {name: mlw.score(bundle, path, tmp_path / name, ids=["id"]) for name, path in inputs.items()}
    frames = {name: each.to_frame() for name, each in found.items()}
    for name, frame in frames.items():
        exact = name != "mixed"  # other batches: a matrix product may differ in the last bit
        pd.testing.assert_frame_equal(frame[columns], frames["people.parquet"][columns], check_exact=exact, rtol=1e-15)
        assert list(map(list, frame["flags"])) == list(map(list, frames["people.parquet"]["flags"]))
        told = found[name].quarantine()[["column", "problem", "got"]]
        pd.testing.assert_frame_equal(told, found["people.parquet"].quarantine()[["column", "problem", "got"]])
    assert frames["mixed"]["file"].unique().tolist() == ["a.parquet", "b.csv", "deep/c.jsonl"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_every_form_of_output_holds_the_same(bundle, inputs, tmp_path, form):
    frame = mlw.score(bundle, inputs["people.parquet"], tmp_path / "out", ids=["id"]).to_frame()
    other = mlw.score(bundle, inputs["people.parquet"], tmp_path / form, ids=["id"], format=form).to_frame()
    pd.testing.assert_frame_equal(other.drop(columns="flags"), frame.drop(columns="flags"), check_dtype=False, check_exact=True)


def command(*arguments: object, **options) -> subprocess.Popen:
    argv = [MLWORKBENCH, "score", *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def call(*arguments: object, **options) -> tuple[int, str, str]:
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def children(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for(what, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def long_input(people, inputs) -> Path:
    """Rows for a hundred small parts."""
    path = inputs["people.csv"].parent / "long.csv"
    pd.concat([people] * 5, ignore_index=True).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def undisturbed(bundle, long_input, home) -> dict[str, str]:
    code, _, err = call(bundle.path, long_input, home / "undisturbed", "--ids", "id", "--part-rows", 100)
    assert code == 0, err
    return tree(home / "undisturbed")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_killed_at_any_moment_ends_with_the_same_files(
    bundle, long_input, undisturbed, tmp_path, size, workers
):
    out = tmp_path / "out"
    draw = np.random.default_rng(workers)
    arguments = (bundle.path, long_input, out, "--ids", "id", "--part-rows", 100, "--workers", workers)
    done = 0
    for _ in range(size("score_kills")):
        process = command(*arguments)
        goal = done + int(draw.integers(0, 8))
        wait_for(lambda n=goal, p=process: len(list(out.glob("part-*"))) >= n or p.poll() is not None)
        time.sleep(float(draw.random()) * 0.01)
        hands = children(process)
        process.kill()
        process.communicate()
        psutil.wait_procs(hands, 10)
        assert not any(hand.is_running() and hand.status() != psutil.STATUS_ZOMBIE for hand in hands)
        whole = [p for p in out.glob("part-*") if (p / journal.RECORD).is_file()]
        assert len(whole) == len(list(out.glob("part-*")))
        done = len(whole)
    code, told, err = call(*arguments)
    assert code == 0, err
    assert tree(out) == undisturbed
    assert "of 10,000 rows predicted" in told


def test_a_finished_output_is_not_done_again(bundle, long_input, undisturbed, home):
    before = {p: p.stat().st_mtime_ns for p in (home / "undisturbed").rglob("*")}
    found = mlw.score(bundle, long_input, home / "undisturbed", ids=["id"], part_rows=100)
    assert found.again == found.parts == 100
    assert {p: p.stat().st_mtime_ns for p in (home / "undisturbed").rglob("*")} == before
    assert tree(home / "undisturbed") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_half_built_and_no_process(bundle, long_input, tmp_path, number):
    out = tmp_path / "out"
    process = command(bundle.path, long_input, out, "--ids", "id", "--part-rows", 100, "--workers", 2)
    wait_for(lambda: len(list(out.glob("part-*"))) > 3)
    hands = children(process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    gone, left = psutil.wait_procs(hands, 10)
    assert hands and not left
    assert number == signal.SIGTERM or not (out / journal.WORK).exists()
    assert not (out / journal.DONE).exists()
    assert all((p / journal.RECORD).is_file() for p in out.glob("part-*"))


def test_a_cancelled_job_keeps_what_is_done(bundle, long_input, undisturbed, tmp_path):
    job = Job(mlw.score, model=bundle, input=long_input, output=tmp_path / "out", ids=["id"], part_rows=100).start()
    wait_for(lambda: len(list((tmp_path / "out").glob("part-*"))) > 3)
    job.cancel()
    assert job.wait(20) and job.state == "cancelled"
    assert not (tmp_path / "out" / journal.WORK).exists()
    assert mlw.score(bundle, long_input, tmp_path / "out", ids=["id"], part_rows=100).again > 3
    assert tree(tmp_path / "out") == undisturbed


def test_two_runs_in_one_folder_are_refused(bundle, long_input, tmp_path):
    process = command(bundle.path, long_input, tmp_path / "out", "--ids", "id", "--part-rows", 100)
    wait_for(lambda: any((tmp_path / "out").glob("**/part-*")))
    process.send_signal(signal.SIGSTOP)  # at work, however quick it is
    try:
        with pytest.raises(InputError, match="one run alone must be at work in it"):
            mlw.score(bundle, long_input, tmp_path / "out", ids=["id"], part_rows=100)
    finally:
        process.kill()
        process.communicate()


def test_a_worker_that_is_ended_from_outside_is_told(bundle, long_input, tmp_path):
    process = command(bundle.path, long_input, tmp_path / "out", "--ids", "id", "--part-rows", 100, "--workers", 2)
    wait_for(lambda: any((tmp_path / "out").glob("**/part-*")))
    children(process)[0].kill()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3 and "each worker must live" in err and "signal 9" in err


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 600 kB that is really there."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        how = f"a small file system cannot be mounted: {done.stderr.strip()}. Run as root with CAP_SYS_ADMIN."
        pytest.fail(how) if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip(how)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_full_disk_is_told_and_what_was_done_stays(bundle, inputs, tmp_path, small_disk, form):
    (small_disk / "filler").write_bytes(b"x" * 560_000)
    options = {"ids": ["id"], "format": form, "part_rows": 200}
    with pytest.raises(InputError, match="the disk must have room.*the parts that are done stay"):
        mlw.score(bundle, inputs["people.csv"], small_disk / "out", **options)
    done = list((small_disk / "out").glob("part-*"))
    assert 0 < len(done) < 10 and not (small_disk / "out" / journal.WORK).exists()
    (small_disk / "filler").unlink()
    assert mlw.score(bundle, inputs["people.csv"], small_disk / "out", **options).again == len(done)
    mlw.score(bundle, inputs["people.csv"], tmp_path / "out", **options)
    assert tree(small_disk / "out") == tree(tmp_path / "out")


@pytest.fixture
def slow_hash(monkeypatch):
    """The input is hashed when the test lets it."""
    go, asked = threading.Event(), score.hash_table

    def held(table):
        while not go.wait(0.01):
            check_cancelled()
        return asked(table)

    monkeypatch.setattr(score, "hash_table", held)
    return go


def test_what_is_done_before_the_input_is_hashed_is_held_back(bundle, inputs, tmp_path, slow_hash):
    out, options = tmp_path / "out", {"ids": ["id"], "part_rows": 300}
    job = Job(mlw.score, model=bundle, input=inputs["people.parquet"], output=out, **options).start()
    wait_for(lambda: len(list((out / journal.WORK).glob("part-*/predictions.parquet"))) == 7)
    time.sleep(0.05)
    assert [p.name for p in out.iterdir()] == [journal.WORK] and job.state == "running"
    slow_hash.set()
    assert job.wait(20) and job.state == "done", job.error
    mlw.score(bundle, inputs["people.parquet"], tmp_path / "two", workers=2, **options)
    assert tree(out) == tree(tmp_path / "two") and job.result.parts == 7


def test_stopped_before_the_input_is_hashed_nothing_is_left(bundle, inputs, tmp_path, slow_hash):
    out = tmp_path / "out"
    job = Job(mlw.score, model=bundle, input=inputs["people.parquet"], output=out, ids=["id"], part_rows=300).start()
    wait_for(lambda: len(list((out / journal.WORK).glob("part-*/predictions.parquet"))) > 2)
    job.cancel()
    assert job.wait(20) and job.state == "cancelled" and not out.exists()


@pytest.fixture(scope="module")
def other(home, bundle):
    """A later bundle of the same name, which keeps all columns but one to itself."""
    X, y = census(500)
    model = fitted_pipeline(X[COLUMNS], y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_SERVING_LOG_EXCLUDE", "[sex]")
        patch.setenv("MLWORKBENCH_SERVING_LOG_HASH", "[age]")
        return mlw.build_bundle(model, name="people", examples=X[COLUMNS], environment="current", golden_rows=16)


@pytest.mark.parametrize("workers", [1, 2])
def test_another_model_or_another_input_is_refused(bundle, other, people, inputs, tmp_path, workers):
    source = tmp_path / "people.parquet"
    shutil.copy(inputs["people.parquet"], source)
    options = {"ids": ["id"], "part_rows": 300, "workers": workers}
    mlw.score(bundle, source, tmp_path / "out", **options)
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match="the same model, got .*tag 'people:"):
        mlw.score(other, source, tmp_path / "out", **options)
    with pytest.raises(InputError, match="the same options, got part_rows 300 then and 200 now"):
        mlw.score(bundle, source, tmp_path / "out", ids=["id"], part_rows=200)
    people.assign(age=people["age"] + 1).to_parquet(source)
    with pytest.raises(InputError, match="the same input, got 'people.parquet' changed"):
        mlw.score(bundle, source, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == before


SECRET = "Xq7mine"


def test_values_of_private_columns_are_in_no_file_and_no_message(other, people, tmp_path):
    (tmp_path / "in").mkdir()
    good = people[COLUMNS].iloc[0].to_dict()
    bad = [{**good, "age": SECRET}, {**good, SECRET: 1}, {**good, "education": "none"}, [SECRET], SECRET]
    lines = [json.dumps(row) for row in [good, *bad]] + [f'{{"age": {SECRET}']
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "in" / "b.csv").write_text(f"age,education,sex\n{SECRET},9,Male\n36,9\n40,{SECRET}9,{SECRET},{SECRET}\n")
    code, out, err = call(other.path, tmp_path / "in", tmp_path / "out")
    assert code == 0 and "1 of 10 rows predicted, 9 refused" in out, err
    assert SECRET not in out + err
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    told = [json.loads(line) for path in sorted((tmp_path / "out").glob("*/_quarantine.jsonl")) for line in path.open()]
    assert {(each["file"], each["row"]) for each in told} == {
        *(("a.jsonl", i) for i in range(1, 7)), *(("b.csv", i) for i in range(3))}
    assert told[0] == {"file": "a.jsonl", "row": 1, "column": "age", "problem": "must be a number", "got": None}
    assert [each["got"] for each in told if each["column"] == "education"] == ["none"]


def test_a_table_without_a_header_is_told_without_its_values(bundle, tmp_path):
    (tmp_path / "people.csv").write_text(f"36,{SECRET},9\n40,Male,9\n")
    code, out, err = call(bundle.path, tmp_path / "people.csv", tmp_path / "out")
    assert code == 2 and "its first line must name the columns" in err and "age, education, sex" in err
    assert SECRET not in out + err and not (tmp_path / "out").exists()


def test_a_part_that_was_damaged_is_done_again(bundle, inputs, tmp_path):
    options = {"ids": ["id"], "part_rows": 300}
    mlw.score(bundle, inputs["people.parquet"], tmp_path / "out", **options)
    before = tree(tmp_path / "out")
    (tmp_path / "out/part-000001/predictions.parquet").write_bytes(b"")
    (tmp_path / "out/part-000003/_part.json").unlink()
    assert mlw.score(bundle, inputs["people.parquet"], tmp_path / "out", **options).again == 5
    assert tree(tmp_path / "out") == before


def bad_inputs(people: pd.DataFrame, folder: Path) -> dict[str, tuple[object, str]]:
    """A name for what is wrong, to the input and a part of the message."""
    folder.mkdir()
    people.drop(columns="sex").to_csv(folder / "missing.csv", index=False)
    people.rename(columns={"sex": "sx"}).to_parquet(folder / "misspelt.parquet")
    people.assign(more=1).to_csv(folder / "extra.csv", index=False)
    people.head(0).to_csv(folder / "empty.csv", index=False)
    people.head(0).to_parquet(folder / "empty.parquet")
    (folder / "nothing.jsonl").write_text("\n\n")
    (folder / "broken.parquet").write_text("no parquet")
    (folder / "latin.csv").write_bytes("id,age,education,sex\np1,3,3,M\u00fcsli\n".encode("latin-1"))
    (folder / "quote.csv").write_text('id,age,education,sex\np1,3,"open,x\n')
    people.assign(sex=1).to_parquet(folder / "types.parquet")
    people.to_csv(folder / "semicolons.csv", index=False, sep=";")
    (folder / "notes.txt").write_text("")
    (folder / "folder").mkdir()
    return {
        "missing.csv": ("missing.csv", "no 'sex'"), "misspelt.parquet": ("misspelt.parquet", "Did you mean 'sx'"),
        "extra.csv": ("extra.csv", "the unknown 'more'"), "empty.csv": ("empty.csv", "at least one row"),
        "empty.parquet": ("empty.parquet", "at least one row"), "nothing.jsonl": ("nothing.jsonl", "at least one row"),
        "broken.parquet": ("broken.parquet", "a Parquet table that can be read"), "latin.csv": ("latin.csv", "a CSV in UTF-8"),
        "types.parquet": ("types.parquet", "the column 'sex' must hold texts"),
        "semicolons.csv": ("semicolons.csv", "They must stand between commas"),
        "quote.csv": ("quote.csv", "each quote of a CSV must be closed"), "notes.txt": ("notes.txt", "must end in"),
        "folder": ("folder", "must hold files"), "nowhere.csv": ("nowhere.csv", "must exist"),
    }  # fmt: skip


def test_bad_input_is_told_in_one_sentence_and_nothing_is_built(bundle, people, tmp_path):
    for name, (path, text) in bad_inputs(people, tmp_path / "bad").items():
        with pytest.raises(InputError) as told:
            mlw.score(bundle, tmp_path / "bad" / path, tmp_path / "out", ids=["id"])
        assert text in str(told.value), name
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("part-*")), name
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_command_line_tells_it_with_exit_code_2(bundle, inputs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    code, _, err = call(bundle.path, inputs["people.csv"], tmp_path / "full", "--ids", "id")
    assert code == 2 and "it must be empty, or hold parts of this job, got thesis.txt" in err and "Traceback" not in err
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_places_that_cannot_be_are_refused(bundle, inputs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        mlw.score(bundle, inputs["people.csv"], tmp_path / "file", ids=["id"])
    with pytest.raises(InputError, match="must not be within the input"):
        mlw.score(bundle, inputs["mixed"], inputs["mixed"] / "out", ids=["id"])
    with pytest.raises(NotFound, match="Did you mean 'id'"):
        mlw.score(bundle, inputs["people.csv"], tmp_path / "out", ids=["idd"])
    with pytest.raises(InputError, match="must not have the name"):
        mlw.score(bundle, inputs["people.csv"], tmp_path / "out", ids=["row"])
    with pytest.raises(MissingPart, match="a Dask scheduler must answer"):
        mlw.score(bundle, inputs["people.csv"], tmp_path / "out", ids=["id"], engine="dask", cluster="tcp://127.0.0.1:9")


def test_when_every_row_is_refused_the_command_says_so(bundle, tmp_path):
    (tmp_path / "people.csv").write_text("age,education,sex\n36,9,none\n40,9,none\n")
    code, out, _ = call(bundle.path, tmp_path / "people.csv", tmp_path / "out")
    assert code == 1 and "0 of 2 rows predicted, 2 refused" in out and "_quarantine.jsonl" in out


def test_an_output_that_is_moved_meanwhile_is_told(bundle, inputs, tmp_path, slow_hash):
    out = tmp_path / "out"
    job = Job(mlw.score, model=bundle, input=inputs["people.parquet"], output=out, ids=["id"], part_rows=300).start()
    wait_for(lambda: len(list((out / journal.WORK).glob("part-*/predictions.parquet"))) == 7)
    out.rename(tmp_path / "elsewhere")
    slow_hash.set()
    assert job.wait(20) and job.state == "failed" and isinstance(job.error, InputError)
    assert "the folder must stay where it is" in str(job.error)


def test_a_changed_bundle_is_not_asked(bundle, inputs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    path = copy / "src" / "signature.json"
    path.write_text(path.read_text().replace("education", "educatiom"))
    with pytest.raises(GateFailed, match="every file must be the one that was proved"):
        mlw.score(copy, inputs["people.csv"], tmp_path / "out", ids=["id"])
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_bundle_is_given_the_columns_of_the_input(home, people, inputs, tmp_path):
    X, y = census(600)
    model = fitted_pipeline(X[COLUMNS], y)
    mlw.save_model(model, tmp_path / "model.skops")
    joblib.dump(model, tmp_path / "model.joblib")
    good = people.drop(index=[33])
    good.to_parquet(tmp_path / "good.parquet")
    found = mlw.score(tmp_path / "model.skops", tmp_path / "good.parquet", tmp_path / "out", ids=["id"]).to_frame()
    assert found["prediction"].tolist() == model.predict(good[COLUMNS]).tolist()
    assert np.array_equal(found["probability_yes"], model.predict_proba(good[COLUMNS])[:, 1])
    trusted = mlw.score(tmp_path / "model.joblib", tmp_path / "good.parquet", tmp_path / "joblib", ids=["id"], trust=True)
    assert trusted.to_frame().equals(found)
    with pytest.raises(InputError, match="trust"):
        mlw.score(tmp_path / "model.joblib", tmp_path / "good.parquet", tmp_path / "untrusted", ids=["id"])
    in_memory = mlw.score(model, tmp_path / "good.parquet", tmp_path / "memory", ids=["id"], scores=False).to_frame()
    assert in_memory.equals(found.drop(columns=["probability_no", "probability_yes"]))


def test_a_tag_that_is_not_there_is_told_with_the_closest(bundle, inputs, tmp_path):
    code, _, err = call("peple:latest", inputs["people.csv"], tmp_path / "out")
    assert code == 2 and "Did you mean 'people:" in err and "Traceback" not in err


def test_latest_is_the_newest_bundle(bundle, inputs, tmp_path):
    assert mlw.score("latest:people", inputs["people.csv"], tmp_path / "out", ids=["id"]).name.startswith("people:")
    assert mlw.score(bundle.tag, inputs["people.csv"], tmp_path / "tag", ids=["id"]).name == bundle.tag
    assert mlw.score(f"bentoml:{bundle.tag}", inputs["people.csv"], tmp_path / "bento", ids=["id"]).name == bundle.tag


def test_a_cluster_of_two_gives_the_same_files(bundle, long_input, undisturbed, tmp_path):
    required = os.environ.get("MLWORKBENCH_REQUIRE") == "all"
    distributed = __import__("distributed") if required else pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        options = {"ids": ["id"], "part_rows": 100, "engine": "dask", "cluster": cluster.scheduler_address}
        found = mlw.score(bundle, long_input, tmp_path / "out", **options)
        assert len(cluster.scheduler.workers) == 2
    assert found.parts == 100 and tree(tmp_path / "out") == undisturbed


def test_readers_of_folders_read_the_output(bundle, inputs, tmp_path):
    found = mlw.score(bundle, inputs["people.parquet"], tmp_path / "out", ids=["id"], part_rows=300)
    assert len(pd.read_parquet(tmp_path / "out")) == len(pq.read_table(tmp_path / "out")) == found.predicted
