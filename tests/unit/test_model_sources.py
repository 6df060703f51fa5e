"""What a person names to be ignored is there; what the ledger ignores need not be in every table."""

import pandas as pd
import pytest

from mlworkbench.core.errors import NotFound
from mlworkbench.model.sources import ModelSource, model_source, read_rows

TABLE = pd.DataFrame({"id": [1, 2], "a": [3, 4], "b": [5, 6], "c, d": [7, 8], "y": [0, 1]})


@pytest.fixture(params=["csv", "parquet"])
def data(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    getattr(TABLE, f"to_{request.param}")(path, index=False)
    return str(path)


@pytest.mark.parametrize(("told", "meant"), [
    (["id"], ["id"]), (["id,a"], ["id", "a"]), (["id", "a , b", "id"], ["id", "a", "b"]), (["c, d"], ["c, d"]),
    (["c, d", "a"], ["a", "c, d"]),
])
def test_columns_to_ignore_are_names_or_one_text_with_commas(data, told, meant):
    rows = read_rows(model_source("m.skops", where="evaluate", data=data, target="y", ignore=told), data)
    assert sorted(rows.context) == sorted(meant)
    assert list(rows.X) == [c for c in TABLE if c not in (*meant, "y")]


@pytest.mark.parametrize("told", [["idd"], ["a", "idd"], ["a,idd"]])
def test_a_name_to_ignore_that_no_table_has_is_refused_with_the_closest_match(data, told):
    with pytest.raises(NotFound, match="ignore: .*got 'idd'. Did you mean 'id'"):
        model_source("m.skops", where="evaluate", data=data, target="y", ignore=told)


def test_a_column_that_only_another_table_has_may_be_ignored(data, tmp_path):
    train = tmp_path / "train.csv"
    TABLE.assign(fold=1).to_csv(train, index=False)
    source = model_source("m.skops", where="evaluate", data=data, target="y", train=str(train), ignore=["fold", "id"])
    assert "id" in read_rows(source, data).context and "fold" in read_rows(source, train).context


def test_what_the_ledger_ignores_need_not_be_in_the_data_that_a_person_names(data):
    known = ModelSource("m.skops", data="former.csv", target="y", ignore=("id", "year"))
    assert list(read_rows(known.overlaid(data=data), data).context) == ["id"]


def test_a_table_that_is_not_there_is_told_when_its_rows_are_read(tmp_path):
    source = model_source("m.skops", where="evaluate", data=str(tmp_path / "no.csv"), target="y", ignore=["id"])
    with pytest.raises(NotFound, match="the file must exist"):
        read_rows(source, source.data)
