"""One file, one variable, one argument: which value is in force."""

import pytest

from mlworkbench.core.errors import InputError
from mlworkbench.core.settings import resolve, setting


def test_a_setting_of_the_nearest_file_lies_over_the_default(tmp_path):
    (tmp_path / "settings.ini").write_text("[mlworkbench.monitoring]\nalpha = 0.2\n")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "settings.ini").write_text("[DEFAULT]\nlib_name = somebody_elses\n")
    assert resolve("monitoring.alpha", start=deep, environ={}) == (0.2, str(tmp_path / "settings.ini"))


def test_a_variable_lies_over_the_file(tmp_path):
    (tmp_path / "settings.ini").write_text("[mlworkbench.monitoring]\nalpha = 0.2\n")
    environ = {"MLWORKBENCH_MONITORING_ALPHA": "0.3"}
    assert resolve("monitoring.alpha", start=tmp_path, environ=environ) == (0.3, "environment")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[mlworkbench.monitorin]\nalpha = 1\n", "monitoring.alpha"),
        ("[mlworkbench.monitoring]\nalpa = 1\n", "monitoring.alpha"),
        ("[mlworkbench.monitoring]\nalpha = 7\n", "less than or equal to 1"),
        ("[mlworkbench.monitoring]\nalpha = 1\nalpha = 2\n", "must be readable"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_sentence(tmp_path, text, says):
    (tmp_path / "settings.ini").write_text(text)
    with pytest.raises(InputError, match=says):
        resolve("monitoring.alpha", start=tmp_path, environ={})


def test_an_unknown_variable_is_refused(monkeypatch):
    monkeypatch.setenv("MLWORKBENCH_MONITORING_ALFA", "1")
    with pytest.raises(InputError, match="MLWORKBENCH_MONITORING_ALPHA"):
        setting("monitoring.alpha")


def test_a_named_settings_file_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("MLWORKBENCH_SETTINGS", str(tmp_path / "none.ini"))
    with pytest.raises(InputError, match="must name a file"):
        setting("monitoring.alpha")
