"""A bundle that was built and kept when the format was schema 1 is shipped today, and answers as it did."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import mlworkbench as mlw
from mlworkbench.bundling import migrate
from mlworkbench.bundling.build import bundle_path, load_bundle
from mlworkbench.bundling.verify import SOURCE, bundle_sha256, check_bundle, hash_files, seal, verify_bundle
from mlworkbench.core.errors import GateFailed, InputError
from mlworkbench.core.workspace import Artifact, workspace
from mlworkbench.serving.predictor import Predictor, proves

KEPT = Path(__file__).parents[1] / "data" / "bundle-schema-1.tar.gz"
TAG = "tree:51abad8c8da18491"


@pytest.fixture
def old(place) -> Path:
    """The kept bundle in a store of the test's own."""
    bentos = Path(os.environ["BENTOML_HOME"]) / "bentos"
    bentos.mkdir(parents=True)
    with tarfile.open(KEPT) as archive:
        archive.extractall(bentos, filter="data")
    return bentos / TAG.replace(":", "/")


def run(*arguments: str) -> int:
    from mlworkbench.app.cli import main

    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_the_kept_bundle_is_of_schema_1_and_whole(old):
    assert json.loads((old / SOURCE / "manifest.json").read_text())["schema"] == 1
    assert verify_bundle(TAG) == []


@pytest.mark.parametrize("read", [load_bundle, bundle_path, mlw.deploy, mlw.containerize], ids=lambda read: read.__name__)
def test_whatever_ships_an_old_bundle_says_how_to_migrate_it(old, read):
    with pytest.raises(InputError, match=f"its format must be schema 2, got schema 1. Type: mlworkbench migrate {TAG}"):
        read(TAG)


def test_an_old_bundle_becomes_one_of_today_that_gives_the_same_predictions(old, capsys, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_ENVIRONMENT", "current")
    before = hash_files(old)
    assert run("migrate", TAG) == 0
    made = load_bundle("tree:latest")
    assert f"{TAG}: migrated to {made.tag}" in capsys.readouterr().out and made.tag != TAG
    assert hash_files(old) == before and verify_bundle(made.tag) == []
    golden, kept = (json.loads((folder / SOURCE / "golden.json").read_text()) for folder in (Path(made.path), old))
    for part in ("rows", "predictions", "probabilities", "classes"):
        assert golden[part] == kept[part], part
    assert all(check["passed"] and check["labels_differ"] == 0 for check in made.certificate["checks"])
    assert proves(Predictor.load(Path(made.path) / SOURCE).replay(), 1e-9)
    for part in ("signature.json", "evaluation.json", "model_card.md"):
        assert (Path(made.path) / SOURCE / part).read_text() == (old / SOURCE / part).read_text(), part
    told, was = made.manifest, json.loads((old / SOURCE / "manifest.json").read_text())
    assert told["origins"]["migrated_from"] == {"tag": TAG, "sha256": bundle_sha256(old), "schema": 1}
    assert told["origins"]["data"] == was["origins"]["data"] and told["original"]["sha256"] == was["model"]["sha256"]
    assert migrate.migrate_bundle(made.tag).sha256 == made.sha256, "one of today is returned as it is"


def test_what_a_service_was_told_by_settings_is_kept(old, tmp_path):
    parts = migrate.MIGRATORS[1](old, False)
    from mlworkbench.bundling.content import shipped_settings

    told = shipped_settings("tree", {**parts.service, "max_rows": 77, "gone": 1})
    assert told["max_rows"] == 77 and "gone" not in told and told["name"] == "tree" and "auth" in told


def test_a_model_that_answers_otherwise_by_now_is_not_migrated(old, monkeypatch):
    honest = migrate.read_part

    def shifted(bundle, name):
        part = honest(bundle, name)
        if name == "golden.json":
            part["probabilities"][5] = [0.5, 0.5]
        return part

    monkeypatch.setattr(migrate, "read_part", shifted)
    with pytest.raises(GateFailed, match="the predictions that it holds, got 0 of 64 labels that differ.*requirements.lock"):
        migrate.migrate_bundle(TAG, environment="current")
    assert [p.name for p in old.parent.iterdir() if p.is_dir()] == [old.name]


def test_a_key_that_cannot_be_read_is_refused_before_the_work(old, tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason='pip install "mlworkbench[sign]"')
    monkeypatch.setattr(migrate, "MIGRATORS", {1: lambda *_: pytest.fail("the old bundle was opened")})
    monkeypatch.setenv("MLWORKBENCH_BUNDLING_SIGN_KEY", str(tmp_path / "none.key"))
    with pytest.raises(InputError, match="bundling.sign_key.*No such file"):
        migrate.migrate_bundle(TAG, environment="current")


def test_a_changed_old_bundle_is_not_migrated(old):
    path = old / SOURCE / "golden.json"
    path.write_text(path.read_text().replace("north", "morth", 1))
    with pytest.raises(GateFailed, match="src/golden.json was changed"):
        migrate.migrate_bundle(TAG)


def test_an_old_bundle_whose_certificate_is_not_the_ledgers_is_not_migrated(old):
    details = {"path": str(old), "sha256": "00" * 32, "tag": TAG}
    workspace().ledger.record(Artifact("bundle", TAG, "tree", "bundle.json", details=details))
    with pytest.raises(GateFailed, match="certificate.json was changed"):
        migrate.migrate_bundle(TAG)


def test_a_pickle_in_an_old_bundle_waits_for_trust(old, monkeypatch):
    import joblib

    model = mlw.load_model(old).estimator
    joblib.dump(model, old / SOURCE / "model" / "model.joblib")
    manifest = json.loads((old / SOURCE / "manifest.json").read_text())
    manifest["model"] |= {"file": "model/model.joblib", "format": "joblib", "trusted": []}
    monkeypatch.setattr(migrate, "read_part", lambda bundle, name: manifest if name == "manifest.json" else {})
    (old / SOURCE / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a pickle must be trusted"):
        migrate.MIGRATORS[1](old, False)


def test_a_bundle_of_a_later_format_is_refused_with_what_to_do(old, tmp_path):
    copy = tmp_path / "later"
    shutil.copytree(old, copy)
    path = copy / SOURCE / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 3', 1))
    certificate = copy / SOURCE / "certificate.json"  # a later one seals and hashes in its own way
    certificate.write_text(json.dumps(json.loads(certificate.read_text()) | {"sealed": seal(copy)}))
    for read in (load_bundle, migrate.migrate_bundle, verify_bundle, check_bundle):
        with pytest.raises(InputError, match="got schema 3. Use the mlworkbench that built it, or a newer one"):
            read(copy)
