"""Profiles at their edges: merging, reading odd columns, and keeping no raw values."""

import json

import numpy as np
import pandas as pd
import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.statistics.profiles import Profile, count_bins, cut_points, profile_frame, side_by_side


def table(n: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({
        "age": np.where(random.random(n) < 0.1, np.nan, random.integers(0, 95, n)),
        "grade": random.integers(1, 6, n),
        "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 1000, n), unit="D"),
        "region": random.choice(["north", "south", "east"], n),
        "member": random.random(n) < 0.5,
        "mail": [f"person{i}-{seed}@example.org" for i in range(n)],
    })


def test_a_profile_survives_json():
    found = profile_frame(table(500, 0))
    assert Profile.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_merged_parts_equal_the_whole():
    reference, live = profile_frame(table(2000, 0)), table(900, 1)
    whole = profile_frame(live, like=reference)
    parts = [profile_frame(live[a:b], like=reference) for a, b in ((0, 100), (100, 101), (101, 900))]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.rows == whole.rows == 900
    for name in ("age", "grade", "since", "region", "member", "mail"):
        assert merged[name].bins == whole[name].bins
        assert merged[name].missing == whole[name].missing
        assert side_by_side(reference[name], merged[name]) == side_by_side(reference[name], whole[name])
        if whole[name].moments.n:
            assert merged[name].moments.mean == pytest.approx(whole[name].moments.mean, rel=1e-12)
            assert merged[name].moments.variance == pytest.approx(whole[name].moments.variance, rel=1e-9)


def test_merging_never_drops_a_category_of_the_reference():
    reference = profile_frame(pd.DataFrame({"zip": [f"z{i:03d}" for i in range(200) for _ in range(10)]}))
    first = pd.DataFrame({"zip": [f"new{i}" for i in range(100) for _ in range(5)]})
    second = pd.DataFrame({"zip": [f"z{i:03d}" for i in range(200)]})
    merged = profile_frame(first, like=reference).merge(profile_frame(second, like=reference))
    labels, old, new = side_by_side(reference["zip"], merged["zip"])
    assert labels[-2:] == ["(other)", "(missing)"]
    assert new[:-2] == [1] * 200 and new[-2] == 500


def test_names_and_mails_are_never_kept():
    frame = table(500, 0)
    frame.loc[:40, "region"] = [f"secret place {i}" for i in range(41)]
    text = json.dumps(profile_frame(frame).to_dict())
    assert "@" not in text and "secret place" not in text
    assert profile_frame(frame)["mail"].kind == "text" and profile_frame(frame)["region"].kind == "category"


def test_counts_always_add_up_to_the_rows():
    reference = profile_frame(table(300, 0))
    live = table(120, 5)
    live.loc[3:9, "region"] = "mars"
    live.loc[10:14, "region"] = None
    for name, column in profile_frame(live, like=reference).columns.items():
        labels, old, new = side_by_side(reference[name], column)
        assert len(labels) == len(old) == len(new)
        assert (sum(old), sum(new)) == (300, 120)


def test_infinite_and_huge_values_fall_into_the_end_bins():
    reference = profile_frame(pd.DataFrame({"x": np.linspace(0, 1, 1000)}))
    live = profile_frame(pd.DataFrame({"x": [-np.inf, np.inf, 1e300, np.nan]}), like=reference)["x"]
    assert (live.bins[0], live.bins[-1], live.missing) == (1, 2, 1)
    assert live.moments.n == 1


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [3.0], [3.0] * 50, [0.0] * 990 + [1.0] * 10])
def test_a_degenerate_column_has_bins_that_count_every_value(values):
    values = np.array(values, dtype=float)
    counts = count_bins(values, cut_points(values))
    assert sum(counts) == np.isfinite(values).sum()
    assert len(counts) == len(cut_points(values)) + 1


DTYPES = ("Int64", "Float64", "boolean", "category", "object", "datetime64[ns, UTC]", "timedelta64[s]")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_can_be_profiled_and_compared(dtype):
    values = pd.Series([0, 1, 1, None] * 10, dtype="Int64")
    values = values.astype("Int64").fillna(0).astype("int64") if dtype[:4] in ("date", "time") else values
    values = pd.to_datetime(values, unit="s", utc=True) if dtype.startswith("date") else values.astype(dtype)
    reference = profile_frame(pd.DataFrame({"x": values}))
    live = profile_frame(pd.DataFrame({"x": values[:20]}), like=reference)
    labels, old, new = side_by_side(reference["x"], live["x"])
    assert (sum(old), sum(new)) == (40, 20)
    assert [a / 2 for a in old] == new


def test_whole_floats_and_integers_are_one_category():
    reference = profile_frame(pd.DataFrame({"label": pd.Categorical([0, 1, 1, 0])}))
    live = profile_frame(pd.DataFrame({"label": [0.0, 1.0, np.nan]}), like=reference)
    assert dict(live["label"].categories) == {"0": 1, "1": 1} and live["label"].missing == 1


def test_a_column_absent_from_live_data_counts_as_missing():
    reference = profile_frame(table(50, 0))
    live = profile_frame(table(20, 1).drop(columns=["age", "region"]), like=reference)
    assert live["age"].missing == live["region"].missing == 20


def test_profiles_with_other_bins_are_not_added():
    with pytest.raises(InputError, match="same kind and bins"):
        profile_frame(table(300, 0)).merge(profile_frame(table(300, 1)))


def test_an_unknown_column_is_refused_with_the_closest_one():
    with pytest.raises(NotFound, match="Did you mean 'region'"):
        profile_frame(table(5, 0), columns=["regions"])


def test_a_profile_of_another_schema_is_refused():
    with pytest.raises(InputError, match="schema must be 1"):
        Profile.from_dict({"schema": 9, "rows": 0, "columns": []})
