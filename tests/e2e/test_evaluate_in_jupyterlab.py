"""The evaluate stage in a real JupyterLab, for the models that people bring: a classifier, a regressor, a pair."""

import json

import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlworkbench.app.demo import IGNORE, TARGET, demo_frame, demo_pipeline
from mlworkbench.app.lab import copy_notebooks
from mlworkbench.model.loading import save_model

CHAPTERS = ("Where it is weaker", "What it relies on", "What would break it", "How it learned", "The data")


@pytest.fixture(scope="module")
def folder(lab):
    """The stage notebooks, with two fitted models and their rows beside them."""
    copy_notebooks(lab.notebooks)
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    table = X.assign(progression=y)
    table[:300].to_parquet(lab.notebooks / "train.parquet")
    table[300:].to_parquet(lab.notebooks / "rows.parquet")
    boosted = HistGradientBoostingRegressor(max_iter=40, random_state=0).fit(X[:300], y[:300])
    save_model(boosted, lab.notebooks / "regressor.skops")
    people = demo_frame()
    past, later = people[people["year"] <= 2016][:6000], people[people["year"] <= 2016][6000:8000]
    later.to_parquet(lab.notebooks / "people.parquet")
    features = past.drop(columns=[TARGET, *IGNORE])
    line = make_pipeline(*[step for _, step in demo_pipeline(features).steps[:-1]], LogisticRegression(max_iter=300))
    save_model(demo_pipeline(features).fit(features, past[TARGET]), lab.notebooks / "challenger.skops")
    save_model(line.fit(features, past[TARGET]), lab.notebooks / "champion.skops")
    return lab


def with_parameters(lab, name, **parameters):
    """The evaluate notebook with other parameters, as papermill injects them."""
    notebook = json.loads((lab.notebooks / "1_evaluate.ipynb").read_text(encoding="utf-8"))
    place = next(i for i, c in enumerate(notebook["cells"]) if "parameters" in c["metadata"].get("tags", []))
    source = "\n".join(f"{k} = {v!r}" for k, v in {"skip": [], **parameters}.items())
    cell = {"cell_type": "code", "id": "given", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    notebook["cells"].insert(place + 1, cell)
    (lab.notebooks / name).write_text(json.dumps(notebook), encoding="utf-8")
    return name


def chapters(panel):
    return [text.split(" (")[0] for text in panel.locator("details.mlw-chapter > summary").all_inner_texts()]


def unfold(panel):
    """Open every chapter, as a person who reads the whole page."""
    for fold in panel.locator("details.mlw-chapter").all():
        fold.locator("summary").click()


def test_a_regressors_page_is_read_chapter_by_chapter(folder, open_lab):
    lab = open_lab(with_parameters(folder, "regressor.ipynb", model="regressor.skops", data="rows.parquet", train="train.parquet",
                                   target="progression", gate=["r2 >= 0.1", "train.r2.gap <= 0.9"]))
    lab.run_all(timeout_s=180)
    panel = lab.panel()
    assert lab.problems() == []
    lab.verdict("passed")
    assert set(CHAPTERS) <= set(chapters(panel))
    lab.shot("evaluate-regressor", panel)
    unfold(panel)
    lab.shot("evaluate-regressor-open", panel)
    assert lab.hard_to_read(panel) == [] and lab.clipped(panel) == []


def test_a_challenger_is_held_against_the_champion(folder, open_lab):
    lab = open_lab(with_parameters(
        folder, "pair.ipynb", model="challenger.skops", data="people.parquet", target=TARGET, ignore=IGNORE,
        against=["champion.skops"], sensitive=["sex"], costs={"fp": 1, "fn": 2},
        gate=["roc_auc >= 0.8", 'against("champion").roc_auc.difference.low >= -0.05'],
    ))
    lab.run_all(timeout_s=240)
    panel = lab.panel()
    assert lab.problems() == []
    lab.verdict("passed")
    assert {"Against the other models", "For whom it is worse", "The operating threshold"} <= set(chapters(panel))
    unfold(panel)
    lab.shot("evaluate-pair-open", panel)
    assert lab.hard_to_read(panel) == [] and lab.clipped(panel) == []
    lab.theme("dark")
    lab.shot("evaluate-pair-open-dark", panel)
    assert lab.hard_to_read(panel) == []
