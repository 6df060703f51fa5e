"""The contract as YAML, and what breaks a client."""

import random
from dataclasses import replace

import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.model.contract import compare_signatures, read_signature, render_signature, signature_table
from mlworkbench.model.signature import infer_signature
from mlworkbench.serving.columns import Column
from mlworkbench.serving.signature import Signature

AGE = Column("age", "integer", "int64", minimum=18, maximum=94)
REGION = Column("region", "string", "str", categories=("north", "south"))
SIGNATURE = Signature([AGE, REGION], "binary", ("no", "yes"))
NASTY = [
    "no", "1", "null", "", " ", "a: b", "- x", "größe\n2", "#", "'", '"', "2024-01-01", "1e5", "~", "{a}", "x" * 300, "日本",
    "\t", "? k", "&a", "*a",
]


def breaking(old: Signature, new: Signature) -> list[str]:
    return [f"{d.what}: {d.text}" for d in compare_signatures(old, new) if d.breaking]


def test_any_contract_reads_back_equal():
    for seed in range(40):
        chance = random.Random(seed)
        names = chance.sample(NASTY, 6)
        columns = [
            Column(names[0], "number", "float64", True, -1e-300, 1.7976931348623157e308),
            Column(names[1], "string", "category", categories=tuple(chance.sample(NASTY, 5)), ordered=True, policy="coerce"),
            Column(names[2], "integer", "Int64", minimum=-(2**63), maximum=2**63 - 1, policy="reject"),
            Column(names[3], "datetime", "datetime64[us, UTC]", minimum="2024-02-27T00:00:00+00:00"),
            Column(names[4], "list", "float32", items="number", shape=(2, 3)), Column(names[5], "boolean", "object", null="none"),
        ]
        classes = [("no", "yes"), (False, True), (0, 1), (1.5, 2.0), ("1", "null")][seed % 5]
        signature = Signature(columns, "binary", classes, extra="drop")
        assert read_signature(render_signature(signature)) == signature


def test_classes_of_several_outputs_and_no_columns_read_back(tmp_path):
    signature = Signature([], "multioutput", (("a", "b"), (1, 2, 3)), ("first", "second"), input="records")
    (tmp_path / "signature.yaml").write_text(render_signature(signature), encoding="utf-8")
    assert read_signature(tmp_path / "signature.yaml") == signature == read_signature(str(tmp_path / "signature.yaml"))


def test_a_policy_is_changed_where_it_stands():
    text = render_signature(SIGNATURE).replace("  age: {", "  age: {policy: coerce, ")
    assert [c.policy for c in read_signature(text).columns] == ["coerce", "flag"]


@pytest.mark.parametrize(("text", "told"), [
    ("a: [\n", "it must be a signature in YAML"), ("- 1\n- 2\n", "in YAML"), ("columns: 3\ntask: binary\n", "every key"),
    ("columns:\n  age: {type: integer, dtyp: int64}\n", "dtyp"),
    ("columns:\n  age: {type: int, dtype: int64}\n", "type must be one of"),
    ("columns: {}\ninput: tape\n", "input must be one of"), ("columns: {}\nversion: 9\n", "version must be 1"),
    ("columns: !!python/object/apply:os.system [ls]\n", "in YAML"),
])
def test_what_is_no_contract_is_refused_in_words(text, told):
    with pytest.raises(InputError, match=told):
        read_signature(text)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match="missing.yaml"):
        read_signature("missing.yaml")


@pytest.mark.parametrize(("new", "told"), [
    (replace(SIGNATURE, columns=(AGE,)), ["region: the column is no longer known, and refused where it is sent"]),
    (replace(SIGNATURE, columns=(AGE,), extra="drop"), []),
    (replace(SIGNATURE, columns=(AGE, REGION, Column("x", "number", "float64"))), ["x: a new column that every row must have"]),
    (replace(SIGNATURE, columns=(AGE, REGION, Column("x", "number", "float64", True))), []),
    (replace(SIGNATURE, columns=(replace(AGE, type="number", dtype="float64"), REGION)), []),
    (replace(SIGNATURE, columns=(replace(AGE, type="string"), REGION)), ["age: it held integer, it now holds string"]),
    (replace(SIGNATURE, columns=(replace(AGE, dtype="int8"), REGION)), ["age: the model reads it as int8, before as int64"]),
    (replace(SIGNATURE, columns=(replace(AGE, maximum=50), REGION)), []),
    (replace(SIGNATURE, columns=(replace(AGE, maximum=99, policy="coerce"), REGION)), []),
    (replace(SIGNATURE, columns=(AGE, replace(REGION, categories=("north",)))), []),
    (replace(SIGNATURE, columns=(REGION, AGE)), []),
    (replace(SIGNATURE, classes=("no", "maybe")), ["classes: the classes were no, yes, now they are no, maybe"]),
])
def test_what_breaks_a_client_is_told_from_what_does_not(new, told):
    assert compare_signatures(SIGNATURE, new)
    assert breaking(SIGNATURE, new) == told


def test_a_range_that_refuses_breaks_when_it_narrows_and_not_when_it_widens():
    strict = replace(SIGNATURE, columns=(replace(AGE, policy="reject"), replace(REGION, policy="reject")))
    assert len(breaking(strict, replace(strict, columns=(replace(strict.columns[0], maximum=50), strict.columns[1])))) == 1
    assert not breaking(strict, replace(strict, columns=(replace(strict.columns[0], maximum=99), strict.columns[1])))
    assert not breaking(strict, replace(strict, columns=(replace(strict.columns[0], minimum=None), strict.columns[1])))
    fewer = replace(strict, columns=(strict.columns[0], replace(strict.columns[1], categories=("north",))))
    assert breaking(strict, fewer) == ["region: its categories: no longer south"] and not breaking(fewer, strict)


def test_equal_contracts_have_no_differences_and_one_fingerprint():
    again = Signature.from_dict(SIGNATURE.to_dict())
    assert compare_signatures(SIGNATURE, again) == [] and again.fingerprint == SIGNATURE.fingerprint
    assert replace(SIGNATURE, extra="drop").fingerprint != SIGNATURE.fingerprint


def test_the_table_has_one_line_a_column():
    table = signature_table(SIGNATURE)
    assert table["column"].tolist() == ["age", "region"] and table["values"].tolist() == ["18 to 94", "north, south"]


def test_a_policy_for_an_unknown_column_is_refused_with_the_closest():
    import pandas as pd
    from sklearn.dummy import DummyRegressor

    X = pd.DataFrame({"age": [1, 2], "height": [1.5, 1.6]})
    model = DummyRegressor().fit(X, [1, 2])
    assert [c.policy for c in infer_signature(model, X, policy={"age": "coerce"}).columns] == ["coerce", "flag"]
    with pytest.raises(NotFound, match="Did you mean 'age'"):
        infer_signature(model, X, policy={"aeg": "coerce"})
    with pytest.raises(NotFound, match="coerce"):
        infer_signature(model, X, policy="coerc")
