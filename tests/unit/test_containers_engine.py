"""The engine is found or its absence told; what a build may know is read from this site; names are checked."""

import json
import os
import re
import stat
import tomllib
from pathlib import Path

import pytest

from mlworkbench.bundling.lock import render_lock
from mlworkbench.containers import engine, image
from mlworkbench.containers.dockerfile import render_dockerfile
from mlworkbench.core.errors import Cancelled, GateFailed, InputError, MissingPart, WorkbenchError
from mlworkbench.core.settings import KEYS, RESERVED


def client(folder, script):
    folder.mkdir()
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


ANSWERS = 'case "$3" in *Client*) echo {client};; *Server*) echo 27.0;; esac; [ "$1" != buildx ]'


def test_the_first_client_that_can_use_secrets_is_taken(tmp_path):
    new = client(tmp_path / "new", ANSWERS.format(client="27.1.0"))
    old = client(tmp_path / "old", ANSWERS.format(client="20.10.24+dfsg1"))
    path = os.pathsep.join([new, old])
    assert engine.find_engine(path=path).program == f"{old}/docker"
    with pytest.raises(MissingPart, match="buildx"):
        engine.find_engine(path=new)


def test_an_engine_that_does_not_answer_is_told_with_how_to_get_one(tmp_path):
    script = 'case "$3" in *Client*) echo 20.10;; *) echo "Cannot connect to the daemon"; exit 1;; esac'
    with pytest.raises(MissingPart, match=r"must answer, got Cannot connect to the daemon.*apt-get install docker.io"):
        engine.find_engine(path=client(tmp_path / "bin", script))


@pytest.mark.parametrize("hangs", ["Client", "Server"])
def test_a_daemon_that_hangs_is_told_as_one_that_is_not_there(tmp_path, monkeypatch, hangs):
    monkeypatch.setattr(engine, "PATIENCE_S", 0.3)
    script = f'case "$3" in *{hangs}*) exec sleep 60;; *) echo 20.10;; esac'
    with pytest.raises(MissingPart, match=r"must answer within 0.3 s, got nothing.*apt-get install docker.io"):
        engine.find_engine(path=client(tmp_path / "bin", script))


def test_a_stopped_job_is_not_told_as_a_missing_engine(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Cancelled("stopped")

    monkeypatch.setattr(engine, "run_command", stop)
    with pytest.raises(Cancelled):
        engine.find_engine(path=client(tmp_path / "bin", "echo 20.10"))


@pytest.mark.parametrize(("tags", "removed"), [("0", True), ("1", False), ("2", False), ("", False)])
def test_an_image_that_failed_is_removed_unless_a_name_is_left_on_it(tmp_path, tags, removed):
    asked = tmp_path / "asked"
    client(tmp_path / "bin", f'[ "$2" = inspect ] && echo "{tags}"; echo "$@" >> {asked}')
    with pytest.raises(GateFailed), image._removed_unless_named(engine.Engine(f"{tmp_path}/bin/docker", "27"), "sha256:1f2e"):
        raise GateFailed("another answer")
    assert ("rmi sha256:1f2e" in asked.read_text().splitlines()) is removed
    assert "--force" not in asked.read_text()


def test_an_image_is_not_made_of_a_lock_that_no_index_can_give(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    manifest = {"schema": 2, "name": "churn", "version": "1f2e", "python": "3.11", "content_sha256": "", "files": {},
                "model": {"task": "binary"}, "original": {"sha256": ""}, "golden": {"real_rows": 0}, "model_holds_rows": []}
    for name, part in (("manifest", manifest), ("signature", {"columns": []}), ("certificate", {})):
        (source / f"{name}.json").write_text(json.dumps(part))
    (source / "requirements.lock").write_text(render_lock({"features": "0.1"}, ["features"]))
    with pytest.raises(InputError, match="containers: every package.*got features from a folder"):
        render_dockerfile(tmp_path)


def test_the_scripts_of_the_tests_take_no_variable_that_the_program_refuses():
    known = {f"MLWORKBENCH_{key.replace('.', '_').upper()}" for key in KEYS} | set(RESERVED)
    for script in Path(__file__).parents[1].glob("*.sh"):
        assert set(re.findall(r"MLWORKBENCH_[A-Z_]+", script.read_text())) <= known, script


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_a_machine_without_an_engine_is_told_how_to_get_one(tmp_path, name):
    with pytest.raises(MissingPart, match=f"must be installed, got none. Install {name.capitalize()}"):
        engine.find_engine(name, path=str(tmp_path))


def test_buildah_builds_and_podman_starts(tmp_path):
    folder = client(tmp_path / "bin", "exit 1")
    for name, answer in (("buildah", "exit 1"), ("podman", "echo 4.3.1")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/asked\n{answer}\n')
        program.chmod(0o755)
    found = engine.find_engine("buildah", path=folder)
    assert (found.program, found.builder, found.version) == (f"{folder}/podman", f"{folder}/buildah", "4.3.1")
    found.run("build", ".", check=False)
    found.run("tag", "a", "b")
    asked = [line.split()[:2] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked[1:] == [["buildah", "build"], ["podman", "tag"]]
    (tmp_path / "bin" / "podman").unlink()
    with pytest.raises(MissingPart, match="buildah starts no service"):
        engine.find_engine("buildah", path=folder)


def test_words_of_the_settings_reach_the_engine_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_ENGINE_OPTIONS", "[--runtime, runc]")
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_RUN_OPTIONS", "[--ulimit, 'nofile=4096:4096']")
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_BUILD_OPTIONS", "[--isolation, chroot]")
    folder = client(tmp_path / "bin", f'echo "$@" >> {tmp_path}/asked; echo 127.0.0.1:9')
    found = engine.Engine(f"{folder}/docker", "4.3", "podman")
    assert found.build_words == ["--format", "docker", "--isolation", "chroot"]
    with engine.start_container(found, "churn:1") as container:
        assert container.url == "http://127.0.0.1:9"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert all(line.startswith("--runtime runc ") for line in asked) and "--ulimit nofile=4096:4096" in asked[0]
    assert asked[-1].startswith("--runtime runc rm --force")


def test_the_build_is_told_the_sites_index_without_the_folders_of_this_machine():
    text = engine.build_pip_conf({
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://me:word@index.example/simple",
        "PIP_EXTRA_INDEX_URL": "file:///opt/wheels https://more.example", "PIP_FIND_LINKS": "/opt/wheels",
        "PIP_TRUSTED_HOST": "index.example",
    })
    assert text.splitlines() == ["[global]", "index-url = https://me:word@index.example/simple",
                                 "extra-index-url = https://more.example", "trusted-host = index.example"]
    assert "uv.example" in engine.build_pip_conf({"PIP_CONFIG_FILE": os.devnull, "UV_DEFAULT_INDEX": "https://uv.example"})


def test_uv_is_told_the_same_as_pip():
    text = engine.build_uv_conf({
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://me:word@index.example/simple",
        "PIP_EXTRA_INDEX_URL": "file:///opt/wheels https://more.example", "PIP_FIND_LINKS": "/opt/wheels https://links.example",
        "PIP_TRUSTED_HOST": "index.example",
    })
    assert tomllib.loads(text) == {
        "index-url": "https://me:word@index.example/simple", "extra-index-url": ["https://more.example"],
        "find-links": ["https://links.example"], "index-strategy": "unsafe-best-match", "allow-insecure-host": ["index.example"],
    }
    assert engine.build_uv_conf({"PIP_CONFIG_FILE": os.devnull}) == ""


def test_secrets_lie_in_a_file_of_this_person_alone_and_are_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:word@index.example/simple")
    (tmp_path / "ca.crt").write_text("certificates")
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_CA_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:word@proxy.example")
    with engine.build_options() as options:
        paths = [next(o for o in options if o.startswith(f"id={name}")).split("src=")[1] for name in ("pip_conf", "uv_conf")]
        assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o600 for path in paths)
        assert f"id=ca,src={tmp_path / 'ca.crt'}" in options
        assert "HTTPS_PROXY" in options and not any("word" in o for o in options)
    assert not any(os.path.exists(path) for path in paths)


@pytest.mark.parametrize(("told", "kind", "means"), [
    ("#5 0.3 base-image-python: the lock is for 3.11, the base image has 3.13\n#5 ERROR", InputError, "image has 3.13"),
    ("load metadata for python\nfailed to do request: no such host", MissingPart, "or its registry within reach"),
    ("ERROR: pull access denied, repository does not exist", InputError, "one that the engine has or can get"),
    ("ERROR: No matching distribution found for skops==0.16.0\n", MissingPart, "skops==0.16.0"),
    ("write /var/lib: no space left on device https://me:word@index.example", MissingPart, "docker system df"),
    ("lean-service: it must become ready\nImportError: libgomp.so.1", GateFailed, "libgomp.so.1"),
    ("error: Because skops==0.16.0 was not found in the registry", MissingPart, "skops==0.16.0 was not found"),
    ("Error: initializing source docker://x: pinging container registry: connection refused", MissingPart, "within reach"),
    ("Error: short-name resolution: did not resolve to an alias", InputError, "one that the engine has or can get"),
    ("something else https://me:word@index.example", WorkbenchError, "something else"),
])
def test_the_engines_complaint_becomes_one_that_can_be_mended(told, kind, means):
    reason = image._reason(WorkbenchError(told), "python:3.13-slim")
    assert type(reason) is kind and means in str(reason) and "word" not in str(reason)


class Named:
    tag, manifest = "churn:1f2e", {"version": "1f2e", "python": "3.11"}


@pytest.mark.parametrize(("tag", "name"), [
    (None, "churn:1f2e"), ("team/churn", "team/churn:1f2e"), ("churn:prod", "churn:prod"),
    ("localhost:5000/churn", "localhost:5000/churn:1f2e"), ("localhost:5000/churn:prod", "localhost:5000/churn:prod"),
])
def test_an_image_is_named_as_asked_or_as_the_bundle(tag, name):
    assert image.image_tag(Named, tag) == name


@pytest.mark.parametrize("tag", ["My Image", "churn; rm -rf /", "churn:", "-churn", "churn:a b", "a" * 300])
def test_a_name_that_is_none_is_refused(tag):
    with pytest.raises(InputError, match="Try 'churn:1f2e'"):
        image.image_tag(Named, tag)
