"""Compose is found or its absence told; what was proved comes back from its file as it was; keys survive a crash."""

import json
import os
import stat
from pathlib import Path

import pytest

from mlworkbench.containers.compose import Slot, Stack, Watch
from mlworkbench.containers.engine import Engine
from mlworkbench.core.errors import MissingPart
from mlworkbench.deployment import stacks
from mlworkbench.deployment.keys import add_key, keys_file, list_keys, own_key, revoke_key
from mlworkbench.deployment.stacks import Live, Project, find_compose, metrics_key, share_keys

SERVICE = {"max_body_mb": 16, "timeout_s": 30, "queue": 64, "metrics_access": "key", "auth": "on"}


def program(path: Path, script: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_whichever_compose_answers_is_taken_and_with_none_it_is_told_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    both = Engine(program(tmp_path / "bin/docker", '[ "$1" = compose ]'), "27")
    neither = Engine(program(tmp_path / "bin/old", "exit 1"), "20")
    assert find_compose(both) == [both.program, "compose"]
    with pytest.raises(MissingPart, match="got neither. Install Compose .on Debian: apt-get install docker-compose") as missing:
        find_compose(neither)
    assert missing.value.exit_code == 3
    old = program(tmp_path / "bin/docker-compose", "")
    assert find_compose(neither) == [old]


def test_what_was_proved_comes_back_whole_and_a_torn_file_is_none(tmp_path):
    project = Project(tmp_path / "churn")
    project.folder.mkdir(parents=True)
    slot = Slot("green", "churn:1", "churn:1", workers=2, memory_mb=300, cpu=0.5, env_file="secrets/x.env", published=True)
    images = {"proxy": "haproxy:3", "prometheus": "", "alertmanager": "", "grafana": ""}
    stack = Stack("churn", (slot,), "green", SERVICE, images=images, watch=Watch(webhook="http://127.0.0.1:1/x"), tls="tls-1.pem",
                  port=8000, rate_limit=5, project=project.name, revision=7, ports={"grafana": 3001})
    live = Live(stack, {"bundle": "churn:1"})
    live.write(project)
    assert Live.read(project) == live
    assert (project.folder / "live.json").stat().st_mode & 0o077 == 0  # it may hold the webhook's address
    (project.folder / "live.json").write_text('{"stack": {')
    assert Live.read(project) is None


def test_the_key_file_moves_once_and_is_written_where_a_container_sees_it(tmp_path):
    place = share_keys(tmp_path)
    before = own_key(tmp_path)
    inside = place / "keys.json"
    owner = inside.stat().st_uid
    key = add_key(tmp_path, ["predict"])
    assert keys_file(tmp_path).is_symlink() and len(json.loads(inside.read_text())["keys"]) == 2
    assert inside.stat().st_uid == owner and inside.stat().st_mode & 0o077 == 0
    revoke_key(tmp_path, key.split("_")[1])
    assert share_keys(tmp_path) == place and own_key(tmp_path) == before and len(list_keys(tmp_path)) == 1


def test_a_crash_between_the_move_and_the_link_loses_no_key(tmp_path):
    share_keys(tmp_path)
    key, before = add_key(tmp_path, ["predict"]), own_key(tmp_path)
    keys_file(tmp_path).unlink()
    share_keys(tmp_path)
    assert key.split("_")[1] in {entry["id"] for entry in list_keys(tmp_path)} and own_key(tmp_path) == before


def test_prometheus_key_is_kept_while_it_is_in_force_and_made_anew_when_revoked(tmp_path):
    project = Project(tmp_path)
    share_keys(tmp_path)
    key = metrics_key(project)
    kept = project.folder / "secrets/prometheus/metrics_key"
    kept.parent.mkdir(parents=True)
    kept.write_text(key)
    assert metrics_key(project) == key and len(list_keys(tmp_path)) == 2
    revoke_key(tmp_path, key.split("_")[1])
    assert metrics_key(project) != key


def test_what_a_person_set_for_compose_does_not_reach_ours(monkeypatch):
    monkeypatch.setenv("COMPOSE_FILE", "/elsewhere.yaml")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "theirs")
    assert not [name for name in stacks._environment() if name.startswith("COMPOSE_")]
    assert stacks._environment()["PATH"] == os.environ["PATH"]
