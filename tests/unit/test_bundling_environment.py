"""A person's package index reaches uv at the moment of installing, and a half-made environment never stays."""

import os
import stat

import pytest

from mlworkbench.bundling import environment
from mlworkbench.core.errors import Cancelled, InputError, MissingPart, WorkbenchError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lock = tmp_path / "requirements.lock"
    lock.write_text("six==1.17.0\n")
    return lock


def test_variables_lie_over_files_and_the_later_file_over_the_earlier(tmp_path):
    for folder, index in (("etc", "https://site.example"), ("user", "https://user.example")):
        (tmp_path / folder / "pip").mkdir(parents=True)
        text = f"[global]\nindex-url = {index}\ntimeout = 60\nextra-index-url =\n  a\n  b\n"
        (tmp_path / folder / "pip" / "pip.conf").write_text(text)
    environ = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "etc"),
               "XDG_CONFIG_HOME": str(tmp_path / "user")}
    found = environment.pip_configuration(environ)
    assert (found["index-url"], found["extra-index-url"]) == ("https://user.example", "a b")
    assert "timeout" not in found
    over = environment.pip_configuration({**environ, "PIP_INDEX_URL": "https://variable.example"})
    assert over["index-url"] == "https://variable.example"


def test_a_broken_pip_configuration_is_pips_business(tmp_path):
    (tmp_path / "pip.conf").write_bytes(b"\xff no section\n")
    assert isinstance(environment.pip_configuration({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)}), dict)


def test_uv_is_told_in_its_own_words_and_its_own_variables_stand():
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://pip.example", "PIP_TRUSTED_HOST": "pip.example",
           "PIP_CERT": "/etc/ca.crt", "PIP_FIND_LINKS": "/a /b"}
    told = environment.uv_environment(pip)
    assert told["UV_DEFAULT_INDEX"] == "https://pip.example" and told["UV_FIND_LINKS"] == "/a,/b"
    assert (told["SSL_CERT_FILE"], told["UV_SYSTEM_CERTS"], told["UV_INSECURE_HOST"]) == ("/etc/ca.crt", "1", "pip.example")
    own = environment.uv_environment({**pip, "UV_DEFAULT_INDEX": "https://uv.example"})
    assert own["UV_DEFAULT_INDEX"] == "https://uv.example"
    assert "PYTHONPATH" not in environment.uv_environment({**pip, "PYTHONPATH": "/checkout"})


# a stand-in for `uv venv ... FOLDER`
MAKES = 'if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python"; fi; '


def fake_uv(folder, monkeypatch, script):
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(environment, "find_uv", lambda: str(program))
    return program


@pytest.mark.parametrize("readable", [True, False])
def test_a_cache_that_cannot_be_written_is_told_with_what_to_set(cache, tmp_path, monkeypatch, readable):
    if readable:  # the folder is there, and belongs to somebody else; root may write all the same, so it is pretended
        monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    with pytest.raises(InputError, match="Set XDG_CACHE_HOME to a folder of yours"):
        environment.ensure_environment(cache)


def test_a_failed_install_leaves_nothing_and_says_why_without_the_password(cache, tmp_path, monkeypatch):
    refuses = '[ "$1" = venv ] || { echo "error: https://me:hunter22@index.example refused"; exit 1; }'
    fake_uv(tmp_path, monkeypatch, MAKES + refuses)
    with pytest.raises(MissingPart, match='environment="current"') as failed:
        environment.ensure_environment(cache)
    assert "hunter22" not in str(failed.value) and "index.example refused" in str(failed.value)
    assert [p for p in environment.environments_folder().iterdir() if p.is_dir()] == []


def test_a_cancelled_install_leaves_nothing(cache, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Cancelled("stopped")

    fake_uv(tmp_path, monkeypatch, 'for last; do :; done; mkdir -p "$last/bin"')
    monkeypatch.setattr(environment, "_install", stop)
    with pytest.raises(Cancelled):
        environment.ensure_environment(cache)
    assert [p for p in environment.environments_folder().iterdir() if p.is_dir()] == []


def test_the_rest_of_an_interrupted_install_is_not_taken_for_an_environment(cache, tmp_path, monkeypatch):
    rest = environment.environments_folder() / environment.environment_key(cache.read_text())
    (rest / "bin").mkdir(parents=True)
    (rest / "bin" / "python").touch()
    (rest / "stray").touch()
    fake_uv(tmp_path, monkeypatch, MAKES)
    assert environment.ensure_environment(cache) == rest / "bin" / "python"
    assert not (rest / "stray").exists() and (rest / environment.MARKER).read_text() == cache.read_text()


def test_one_environment_serves_all_bundles_of_a_lock(cache, tmp_path, monkeypatch):
    fake_uv(tmp_path, monkeypatch, f'echo "$1" >> {tmp_path}/calls; {MAKES}')
    first = environment.ensure_environment(cache)
    assert environment.ensure_environment(cache) == first
    cache.write_text("six==1.16.0\n")
    assert environment.ensure_environment(cache) != first
    assert (tmp_path / "calls").read_text().split() == ["venv", "pip", "venv", "pip"]


def test_without_uv_the_line_to_type_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPart, match="pip install uv"):
        environment.find_uv()


def test_a_uv_that_cannot_make_an_environment_is_our_fault_to_tell(cache, tmp_path, monkeypatch):
    fake_uv(tmp_path, monkeypatch, "echo no space left; exit 2")
    with pytest.raises(WorkbenchError, match="no space left"):
        environment.ensure_environment(cache)
