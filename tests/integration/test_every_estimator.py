"""Every scikit-learn estimator: fitted, kept, described, evaluated, bundled, served; the table in docs/compatibility.md.

`MLW_WRITE=1` runs all of them and writes the table; without, each cell that is run must be what the table says.
"""

import importlib.metadata
import json
import os
import pydoc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from sklearn import __version__ as sklearn_version
from sklearn.utils import all_estimators
from threadpoolctl import threadpool_limits

import mlworkbench as mlw
from mlworkbench.bundling import content
from mlworkbench.bundling.content import make_parts, write_content
from mlworkbench.bundling.lock import make_lock
from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.evaluate import ANALYSES
from mlworkbench.model.contract import read_signature, render_signature
from mlworkbench.model.families import Told
from mlworkbench.model.inputs import count_rows, request_rows
from mlworkbench.model.loading import load_model, save_model
from mlworkbench.model.scikit_learn import open_skops, save_skops, skops_types
from mlworkbench.model.signature import infer_signature
from mlworkbench.model.task import task_of
from mlworkbench.model.trusted import trusted_types
from mlworkbench.serving.predictor import Predictor, proves
from mlworkbench.serving.signature import Signature

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
WRITE = bool(os.environ.get("MLW_WRITE"))
NAMES = [name for name, _ in all_estimators()]
COLUMNS = ("task", "saved and loaded", "same outputs", "signature", "evaluated", "bundled and replayed")
CANNOT = "cannot score new rows"
FOUND: dict[str, dict[str, str]] = {}
FOUND_MORE: dict[str, dict[str, str]] = {}
FIRST_BUILT = ("MultiOutputClassifier", "TfidfVectorizer", "IsolationForest", "DictVectorizer")  # each of another form

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small data: threads would only wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module", autouse=True)
def one_lock_for_equal_modules() -> Iterator[None]:
    """The service's code and the packages are the same for all, so models of the same modules have the same lock."""
    known: dict[Any, Any] = {}

    def once(code: Path, modules: Any, also: Any = ()) -> Any:
        key = (frozenset(modules), tuple(also))
        if key not in known:
            known[key] = make_lock(code, modules, also=also)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "make_lock", once)
        patch.setattr(importlib.metadata, "packages_distributions", cache(importlib.metadata.packages_distributions))
        yield


def fitted(name: str) -> tuple[Any, Any, Any]:
    """The estimator of that name, fitted, with its X and y."""
    estimator = zoo.build(name, dict(all_estimators())[name])
    X, y = zoo.data_for(name, estimator)
    return zoo.fit(estimator, X, y), X, y


def plain(values: Any) -> Any:
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def learned(estimator: Any) -> dict[str, Any]:
    """What fitting left behind: all that an estimator which cannot score new rows has to say."""
    return {k: v for k, v in vars(estimator).items() if k.endswith("_") and isinstance(v, (int, float, np.ndarray, np.number))}


def keeps_what_it_learned(estimator: Any, path: Path) -> None:
    """An estimator that only describes its own rows comes back with the same description."""
    save_skops(estimator, path)
    again = learned(open_skops(path, Told())[0])
    known = learned(estimator)
    assert known and set(known) == set(again)
    for key, value in known.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)


def answers_as_the_estimator(estimator: Any, signature: Signature, X: Any, body: dict[str, Any]) -> None:
    """What came back for the rows as JSON is what the estimator itself says to them, to the last bit but one."""
    found = estimator.transform(X) if signature.task == "transform" else estimator.predict(X)
    told = body["predictions"]
    assert len(told) == count_rows(X)
    if signature.answer == "object":
        assert [len(row) for row in told] == np.diff(found.tocsr().indptr).tolist()
        np.testing.assert_allclose([sum(row.values()) for row in told], np.ravel(found.sum(axis=1)), rtol=1e-9, atol=1e-9)
        return
    told, found = np.concatenate(told) if signature.answer == "nested" else np.array(told), plain(found)
    found = found.reshape(told.shape)
    if found.dtype.kind in "fiub":
        np.testing.assert_allclose(told.astype(float), found.astype(float), rtol=1e-12, atol=1e-12)
    else:
        assert told.tolist() == found.tolist()
    if "probabilities" in body and signature.task in ("binary", "multiclass"):
        np.testing.assert_allclose(np.array(body["probabilities"], dtype=float), estimator.predict_proba(X), rtol=1e-12)
    if "decision" in body:
        np.testing.assert_allclose(body["decision"], estimator.decision_function(X), rtol=1e-12, atol=1e-12)


def check_bundle(model: Any, X: Any, folder: Path) -> None:
    """The bundle's content is written, and the bundle's own predictor proves its golden rows."""
    folder.mkdir()
    write_content(folder, make_parts(model, name="zoo", examples=X, rows=16), "current")
    outcome = Predictor.load(folder).replay()
    assert outcome["rows"] >= 8 and proves(outcome), outcome


def told(found: dict[str, str], column: str, check: Any) -> Any:
    """Run one check and note its outcome; a miss is noted with its reason."""
    try:
        result = check()
    except Exception as error:  # a miss: its reason goes into the table, and fails the test
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        found[column] = f"no: {reason[:200]}"
        return None
    found[column] = "yes"
    return result


def load_naming_functions(estimator: Any, path: Path) -> tuple[Any, list[str]]:
    """Save and load; functions in it are nobody's to trust beforehand, so they are named, and the table says which."""
    save_model(estimator, path)
    functions = sorted(set(skops_types(path)) - trusted_types())
    if functions:
        with pytest.raises(InputError, match=re.escape(functions[0])):
            load_model(path)
    named = set(functions) - {"functools.partial"}  # a class, but one that calls whatever it holds
    assert not any(isinstance(pydoc.locate(function), type) for function in named)
    return load_model(path, trusted=functions), functions


def page_rows() -> dict[str, dict[str, str]]:
    """The table as it stands in the docs."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): dict(zip(COLUMNS, row[1:], strict=True)) for row in cells}


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_can_do_what_the_table_says(name, tmp_path, place, size):
    found = FOUND[name] = {}
    estimator, X, y = fitted(name)
    try:
        found["task"] = task_of(estimator)
    except InputError as error:
        assert f"a {name}, which {CANNOT}" in str(error)
        with pytest.raises(InputError, match=CANNOT):
            load_model(estimator)
        found |= {"task": CANNOT, **dict.fromkeys(COLUMNS[3:], "-")}
        told(found, "saved and loaded", lambda: save_skops(estimator, tmp_path / "m.skops"))
        told(found, "same outputs", lambda: keeps_what_it_learned(estimator, tmp_path / "m.skops"))
    else:
        step = max(1, len(NAMES) // size("estimators_evaluated"))
        check_scoring(found, estimator, X, y, tmp_path, evaluated=NAMES.index(name) % step == 0)
    assert [f"{column}: {cell}" for column, cell in found.items() if cell.startswith("no: ")] == []
    if not WRITE:
        said = page_rows()[name]
        assert found == {column: said[column] for column in found}


def check_scoring(found: dict[str, str], estimator: Any, X: Any, y: Any, folder: Path, evaluated: bool) -> None:
    """Everything that an estimator which scores new rows must be able to do."""
    path = folder / "model.skops"
    loaded, functions = told(found, "saved and loaded", lambda: load_naming_functions(estimator, path)) or (None, [])
    if functions:
        found["saved and loaded"] = f"yes, naming {', '.join(f'`{function}`' for function in functions)}"
    signature = infer_signature(estimator, X, y)
    rows = json.loads(json.dumps(request_rows(signature, X)))
    body = Predictor(estimator, signature).predict(rows)

    def same() -> None:
        assert Predictor(loaded.estimator, signature).predict(rows) == body

    def described() -> None:
        again = Signature.from_dict(json.loads(json.dumps(signature.to_dict())))
        assert again == signature
        checked = again.check(rows)
        assert checked.errors == [] and checked.flags == {}
        answers_as_the_estimator(estimator, again, X, body)

    told(found, "same outputs", same)
    told(found, "signature", described)
    if evaluated or WRITE:
        told(found, "evaluated", lambda: mlw.evaluate(estimator, X, y, resamples=10, skip=list(ANALYSES)).to_dict())
    told(found, "bundled and replayed", lambda: check_bundle(load_model(estimator), X, folder / "bundle"))


@pytest.mark.parametrize("name", list(zoo.more()))
def test_what_people_bring_goes_all_the_way(name, tmp_path, place):
    estimator, X, y = zoo.more()[name]
    zoo.fit(estimator, X, y)
    found = FOUND_MORE[name] = {"task": task_of(estimator)}
    check_scoring(found, estimator, X, y, tmp_path, evaluated=WRITE)
    assert [f"{column}: {cell}" for column, cell in found.items() if cell.startswith("no: ")] == []
    assert read_signature(render_signature(infer_signature(estimator, X, y))) == infer_signature(estimator, X, y)


def test_bundles_are_built_and_proved_for_every_form(place, size, measured):
    scoring = [n for n, row in page_rows().items() if row["task"] != CANNOT and n not in FIRST_BUILT]
    line = [*FIRST_BUILT, *scoring][: size("estimators_bundled")]
    for name in line:
        estimator, X, _ = fitted(name)
        bundle = mlw.build_bundle(estimator, name="zoo", examples=X, environment="current")
        assert bundle.status == "passed" and bundle.certificate["passed"], name
    measured(built_and_proved=len(line))


def test_the_table_names_every_estimator_and_counts_right():
    if WRITE:
        PAGE.write_text(page(FOUND), encoding="utf-8")
    said = page_rows()
    assert sorted(said) == sorted(NAMES)
    assert PAGE.read_text(encoding="utf-8") == page(said)


HEAD = """# Compatibility

Every estimator of scikit-learn {version} (`sklearn.utils.all_estimators()`, {count} of them): built with its defaults, or
with sensible arguments where it needs some (`tests/zoo.py`), fitted, and taken all the way. This page is written by
`tests/integration/test_every_estimator.py` (`MLW_WRITE=1`). Each run of the tests holds every line for all of them, but
*evaluated* for a sample; `make soak` evaluates all, and builds and proves a real bundle of each.

| capability | estimators | misses |
|---|---|---|
| fitted | {count} of {count} | none |
{summary}

*Saved and loaded*: as skops, which runs no code; functions inside of an estimator are never trusted beforehand, so whoever
loads it names them. *Same outputs*: all answers to all rows are equal to the last bit; of an
estimator that cannot score new rows, all that it learned. *Signature*: inferred from all rows, through JSON and back, and
the rows sent as JSON give the estimator's own predictions, probabilities and decision scores. *Evaluated*: metrics or
figures of its task, with intervals. *Bundled and replayed*: the bundle's content is written, and the service's own
predictor opens it and proves its golden rows.

{cannot} estimators only describe the rows that they were fitted on; they can be kept, and everything else refuses them as
"{phrase}", by name. They count for the first three lines.

| estimator | {columns} |
|---|{rules}|
{rows}
"""


def page(found: dict[str, dict[str, str]]) -> str:
    """The table as Markdown."""
    summary = []
    for column in COLUMNS[1:]:
        cells = {name: row[column] for name, row in found.items() if row[column] != "-"}
        missed = [f"`{name}` ({cell.removeprefix('no: ')})" for name, cell in cells.items() if not cell.startswith("yes")]
        summary.append(f"| {column} | {len(cells) - len(missed)} of {len(cells)} | {'; '.join(missed) or 'none'} |")
    rows = [f"| `{name}` | {' | '.join(found[name][c].replace('|', '/') for c in COLUMNS)} |" for name in sorted(found)]
    cannot = sum(row["task"] == CANNOT for row in found.values())
    return HEAD.format(
        version=".".join(sklearn_version.split(".")[:2]), count=len(found), summary="\n".join(summary), cannot=cannot,
        phrase=CANNOT, columns=" | ".join(COLUMNS), rules="---|" * len(COLUMNS), rows="\n".join(rows),
    ).replace("|---||", "|---|")
