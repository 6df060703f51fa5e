"""Golden rows: made up, at the edges, the same for the same seed."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier

from mlworkbench.bundling import golden
from mlworkbench.bundling.content import drawn_rows, without_rare
from mlworkbench.bundling.golden import edge_values, golden_frame, golden_rows, make_golden
from mlworkbench.core.errors import InputError
from mlworkbench.model.loading import wrap
from mlworkbench.model.signature import infer_signature
from mlworkbench.serving.signature import Column, Signature
from mlworkbench.statistics.profiles import profile_frame

COLUMNS = (
    Column("age", "integer", "int64", minimum=16, maximum=94),
    Column("income", "number", "float64", nullable=True, minimum=-1.5, maximum=2e6),
    Column("region", "string", "str", categories=tuple(f"region {i}" for i in range(40))),
    Column("married", "boolean", "bool"),
    Column("note", "string", "str", nullable=True),
    Column("seen", "datetime", "datetime64[us]", minimum="2015-01-01T00:00:00", maximum="2016-12-31T12:30:00"),
    Column("grade", "string", "category", nullable=True, categories=("low", "high"), ordered=True),
    Column("visits", "integer", "Int64", nullable=True, minimum=0, maximum=9),
)
SIGNATURE = Signature(COLUMNS, task="binary", classes=("no", "yes"))


def people(rows: int = 400) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    return pd.DataFrame({
        "age": draw.integers(16, 95, rows), "income": draw.lognormal(10, 1, rows), "married": draw.random(rows) < 0.5,
        "region": [f"region {i}" for i in draw.integers(0, 40, rows)],
        "note": [f"note of person {i}" for i in range(rows)],
        "seen": pd.Timestamp("2015-01-01") + pd.to_timedelta(draw.integers(0, 700, rows), unit="D"),
        "grade": pd.Categorical(draw.choice(["low", "high"], rows), categories=["low", "high"], ordered=True),
        "visits": pd.array(draw.integers(0, 10, rows), dtype="Int64"),
    })[list(SIGNATURE.names)]


@pytest.mark.parametrize("profiled", [True, False])
def test_golden_rows_hold_to_their_signature(profiled):
    rows = golden_rows(SIGNATURE, profile_frame(people()) if profiled else None, rows=24)
    checked = SIGNATURE.check(rows)
    assert (checked.errors, checked.flags) == ([], {})
    assert len(rows) >= 24


def test_every_category_and_every_allowed_absence_is_among_them():
    rows = golden_rows(SIGNATURE, profile_frame(people()), rows=16)
    assert {r["region"] for r in rows} == set(COLUMNS[2].categories)
    for column in COLUMNS:
        assert any(r[column.name] is None for r in rows) is column.nullable
    assert any(all(r[c.name] is None for c in COLUMNS if c.nullable) for r in rows)


def test_the_ends_of_every_number_are_among_them():
    rows = golden_rows(SIGNATURE, profile_frame(people()), rows=16)
    for column in (COLUMNS[0], COLUMNS[1], COLUMNS[7]):
        assert {column.minimum, column.maximum} <= {r[column.name] for r in rows}
    assert {COLUMNS[5].minimum, COLUMNS[5].maximum} <= {r["seen"] for r in rows}


def test_no_row_of_the_data_and_no_free_text_is_among_them():
    frame = people()
    known = {tuple(str(v) for v in row) for row in frame.drop(columns=["note"]).itertuples(index=False)}
    rows = golden_rows(SIGNATURE, profile_frame(frame), rows=200)
    names = [n for n in SIGNATURE.names if n != "note"]
    assert not known & {tuple(str(r[n]) for n in names) for r in rows}
    assert not set(frame["note"]) & {r["note"] for r in rows}


def test_another_process_with_another_hash_seed_makes_the_same_rows():
    code = (
        "from mlworkbench.bundling.golden import golden_rows\nfrom mlworkbench.serving.signature import Column, Signature\n"
        "s = Signature((Column('a', 'number', 'float64', nullable=True, minimum=0.0, maximum=1.0),"
        " Column('b', 'string', 'str', categories=('x', 'y', 'z'))))\nprint(golden_rows(s, rows=20, seed=5))"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": h}).stdout
        for h in ("1", "2")
    }
    assert len(told) == 1


def test_another_seed_makes_other_rows():
    assert golden_rows(SIGNATURE, rows=20, seed=1) != golden_rows(SIGNATURE, rows=20, seed=2)


def test_a_category_beyond_the_limit_is_left_out():
    column = Column("zip", "string", "str", categories=tuple(map(str, range(500))))
    assert len(edge_values(column)) == 200


class Length:
    """A model of the rows' number of missing values: any row can be predicted."""

    def predict(self, X):
        return X.isna().sum(axis=1).to_numpy(dtype=float)


def test_predictions_are_made_on_the_frame_that_the_signature_builds():
    regression = Signature(COLUMNS, task="regression")
    made = make_golden(Length(), regression, profile_frame(people()), rows=16)
    frame = golden_frame(regression, made["rows"])
    assert list(frame.dtypes.astype(str)) == [c.dtype for c in COLUMNS]
    assert made["predictions"] == frame.isna().sum(axis=1).astype(float).tolist()
    assert made["probabilities"] is None and made["classes"] is None


def test_a_model_that_refuses_what_its_signature_allows_is_refused():
    class Fussy:
        def predict(self, X):
            if X["income"].isna().any():
                raise ValueError("Input X contains NaN.")
            return np.zeros(len(X))

    with pytest.raises(InputError, match=r"every row that its signature allows, got ValueError: Input X contains NaN"):
        make_golden(Fussy(), Signature(COLUMNS, task="regression"))


def missing_in(row: dict) -> frozenset[str]:
    return frozenset(name for name, value in row.items() if value is None)


def test_each_column_is_missing_alone_each_pair_together_and_all_at_once():
    nullable = [c.name for c in COLUMNS if c.nullable]
    seen = {missing_in(row) for row in golden_rows(SIGNATURE, profile_frame(people()), rows=64)}
    assert {frozenset([name]) for name in nullable} <= seen
    assert {frozenset(pair) for pair in itertools.combinations(nullable, 2)} <= seen and frozenset(nullable) in seen
    assert all(names <= set(nullable) for names in seen)


def test_of_many_columns_each_is_missing_alone_and_with_its_neighbour_and_the_rows_stay_few():
    names = [f"x{i}" for i in range(40)]
    assert len(golden.missing_patterns(names)) == 1 + 80 and ("x39", "x0") in golden.missing_patterns(names)
    wide = Signature(tuple(Column(n, "number", "float64", nullable=True, minimum=0.0, maximum=1.0) for n in names))
    rows = golden_rows(wide, rows=16)
    assert len(rows) <= 2 + 81 + 16 and {frozenset([n]) for n in names} <= {missing_in(row) for row in rows}
    assert len(golden.missing_patterns([str(i) for i in range(3000)])) == golden.PATTERNS


def test_the_first_two_rows_hold_every_first_and_every_last_edge():
    profile = profile_frame(people())
    first, last, *_ = golden_rows(SIGNATURE, profile, rows=16)
    for column in COLUMNS:
        edges = edge_values(column, profile.columns.get(column.name))
        assert (first[column.name], last[column.name]) == (edges[0], edges[-1])
    assert "" in {row["note"] for row in golden_rows(SIGNATURE, rows=24)}


def test_real_rows_stand_behind_the_made_up_ones_and_are_counted():
    regression = Signature(COLUMNS, task="regression")
    made = make_golden(Length(), regression, rows=16)
    row = made["rows"][5]
    with_real = make_golden(Length(), regression, rows=16, real=[row, row])
    assert with_real["rows"] == [*made["rows"], row, row] and with_real["predictions"][-1] == made["predictions"][5]
    assert (with_real["real_rows"], with_real["synthesised"]) == (2, False)
    assert (made["real_rows"], made["synthesised"]) == (0, True)


def test_values_that_few_rows_hold_have_no_name_in_a_bundle_s_profile():
    towns = pd.DataFrame({"town": ["Aachen"] * 90 + ["Bonn"] * 5 + ["Lonely"] * 4 + ["Alone"]})
    plain = profile_frame(towns)
    frozen = without_rare(plain)["town"]
    assert dict(frozen.categories) == {"Aachen": 90, "Bonn": 5} and frozen.other == 5
    assert sum(frozen.categories.values()) + frozen.other == plain["town"].count == 100
    assert "Lonely" not in json.dumps(without_rare(plain).to_dict())


@pytest.mark.parametrize("form", ["frame", "array", "list", "sparse", "records"])
def test_rows_are_drawn_from_examples_of_any_form_and_hold_to_the_signature(form):
    numbers = np.random.default_rng(0).normal(size=(50, 3)).round(3)
    examples = {
        "frame": pd.DataFrame(numbers, columns=list("abc")), "array": numbers, "sparse": csr_matrix(numbers),
        "list": ["one word", "two words"] * 25, "records": [{"a": float(row[0]), "b": "x"} for row in numbers],
    }[form]
    signature = infer_signature(wrap(Length()), examples)
    drawn = drawn_rows(signature, examples, 7, seed=3)
    assert len(drawn) == 7 and signature.check(drawn).errors == []
    assert drawn == drawn_rows(signature, examples, 7, seed=3) != drawn_rows(signature, examples, 7, seed=4)
    assert drawn_rows(signature, examples, 0, seed=3) == []


def test_a_forest_whose_trees_answer_in_threads_gives_the_same_golden_rows_each_time():
    chance = np.random.default_rng(0)
    X = pd.DataFrame(chance.normal(size=(400, 6)), columns=list("abcdef"))
    y = X["a"] + chance.normal(size=400) > 0
    forest = RandomForestClassifier(100, max_depth=4, n_jobs=-1, random_state=0).fit(X, y)
    signature, profile = infer_signature(wrap(forest), X), profile_frame(X)
    said = {json.dumps(make_golden(forest, signature, profile)) for _ in range(10)}
    assert len(said) == 1
    forest.n_jobs = 1
    assert said == {json.dumps(make_golden(forest, signature, profile))}
