"""Equal models are equal files, whichever process wrote them, and read back as the models that they were."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator

from mlworkbench.model.canonical import canonical_skops, is_canonical

MAKE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import numpy as np, pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from mlworkbench.model.loading import load_model, save_model
held = [bytes(i % 900) for i in range(int(sys.argv[2]))]  # so that memory is laid out otherwise
here, chance = Path(sys.argv[1]), np.random.default_rng(0)
X = pd.DataFrame({"a": chance.normal(size=200), "b": chance.normal(size=200), "c": chance.choice(["x", "y"], 200)})
y = np.where(X["a"] + X["b"] > 0, "yes", "no")
ends = {"forest": RandomForestClassifier(5, random_state=0), "neighbours": KNeighborsClassifier(algorithm="kd_tree"),
        "boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
        "histogram": HistGradientBoostingClassifier(max_iter=5, random_state=0)}
for name, end in ends.items():
    prepare = make_column_transformer((StandardScaler(), ["a", "b"]), (OneHotEncoder(), ["c"]))
    save_model(make_pipeline(prepare, end).fit(X, y), here / f"{name}.skops")
words = make_pipeline(TfidfVectorizer(vocabulary={"cat", "dog", "cats", "nothing", "all"}), LogisticRegression())
save_model(words.fit(["the cat and dog", "a dog of cats", "nothing or all"] * 5, [0, 1, 1] * 5), here / "words.skops")
again = load_model(here / "forest.skops")
save_model(again, here / "loaded.skops")
"""


ZOO = """
import hashlib, itertools, tempfile
sys.path.insert(0, sys.argv[3])
from zoo import fitted_more, fitted_zoo
from mlworkbench.core.errors import InputError
from mlworkbench.model.loading import wrap
from mlworkbench.model.scikit_learn import SCIKIT_LEARN
for name, estimator, _, _ in itertools.islice(itertools.chain(fitted_zoo(), fitted_more()), int(sys.argv[4])):
    folder = Path(tempfile.mkdtemp())
    try:
        about = SCIKIT_LEARN.ship(wrap(estimator, sha256="unasked"), folder)
        print(name, hashlib.sha256((folder / about["file"]).read_bytes()).hexdigest(), sep="\\t")
    except InputError:  # it cannot score new rows, or skops cannot hold it
        pass
"""
UNSEEDED = {"native categories", "several numbers of a process", "gaps that the model takes"}


def written(folder: Path, seed: int, estimators: int) -> dict[str, str | bytes]:
    """What a process wrote whose sets have their own order and whose memory is laid out its own way."""
    folder.mkdir()
    command = [sys.executable, "-c", MAKE + ZOO, str(folder), str(seed * 4000), str(Path(__file__).parents[1]), str(estimators)]
    environ = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, check=True, env=environ, capture_output=True, text=True, timeout=1200).stdout
    return {path.name: path.read_bytes() for path in folder.iterdir()} | dict(line.split("\t") for line in told.splitlines())


def test_two_processes_write_every_estimator_that_has_a_seed_as_the_same_bytes(tmp_path, size, measured):
    first, second = (written(tmp_path / str(seed), seed, size("estimators_written")) for seed in (1, 2))
    assert sorted(first) == sorted(second) and len(first) > 6
    differ = {name for name in first if first[name] != second[name]}
    assert differ <= UNSEEDED
    assert first["loaded.skops"] == first["forest.skops"], "read and written again it stays the same file"
    measured(estimators=len(first), differ_without_a_seed=len(differ))


class Held(BaseEstimator):
    """An estimator with parts of many kinds."""


def same(one, other) -> bool:
    """Whether two objects hold the same, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.flags.fnc == other.flags.fnc and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict):
        return list(map(str, one)) == list(map(str, other)) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, csr_matrix):
        return (one != other).nnz == 0
    if hasattr(one, "__dict__") and not isinstance(one, type):
        return same(dict(sorted(vars(one).items())), dict(sorted(vars(other).items())))
    return one == other


def test_a_file_in_its_one_form_reads_as_the_file_that_the_library_wrote(tmp_path):
    rows = np.arange(6.0).reshape(2, 3)
    thing = Held()
    vars(thing).update(
        fortran=np.asfortranarray(rows), sparse=csr_matrix(rows), words={"b", "a"}, order={"z": 1, "a": 2},
        number={1: "one", 2: 3.5}, dtype=np.dtype("<U3"), kind=np.float32, nested=[(1, None), rows, rows],
        random=np.random.default_rng(1).bit_generator.state, data=b"\x00\xff", state=np.random.RandomState(3), sliced=slice(1, 2),
    )
    path = tmp_path / "thing.skops"
    skops.io.dump(thing, path)
    trusted = skops.io.get_untrusted_types(file=path)
    plain = skops.io.load(path, trusted=trusted)
    canonical_skops(path)
    assert skops.io.get_untrusted_types(file=path) == trusted
    again = skops.io.load(path, trusted=trusted)
    again_state, plain_state = vars(again).pop("state"), vars(plain).pop("state")
    assert same(again, plain) and again.nested[1] is again.nested[2]
    assert again_state.random_sample() == plain_state.random_sample() and list(again.order) == ["z", "a"]


def test_a_file_that_cannot_be_rewritten_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "thing.skops"
    skops.io.dump({"a": np.arange(3)}, path)
    whole = path.read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        canonical_skops(path)
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_pickles_are_known_not_to_have_one_form():
    assert not is_canonical("joblib") and not is_canonical("cloudpickle") and is_canonical("xgboost")
