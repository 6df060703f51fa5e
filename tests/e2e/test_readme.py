"""The README's own code and commands run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.timeout(900)
def test_the_tour_of_the_readme_runs(place):
    tour = {}
    exec(blocks("python")[0], tour)
    assert tour["found"].status == "passed"
    assert tour["made"].certificate["passed"] is True
    assert len(tour["answers"]) == 300
    assert tour["report"].summary()["rows"] == tour["report"].summary()["labelled"] == 300
    assert tour["served"].status()["state"] == "stopped"


def test_the_commands_of_the_readme_are_known():
    from click.testing import CliRunner

    from mlworkbench.app.cli import cli

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile
        elif line.startswith("mlworkbench "):
            done = CliRunner().invoke(cli, [line.split()[1], "--help"])
            assert done.exit_code == 0
            assert all(option in done.output for option in re.findall(r"--[\w-]+", line))
        else:
            assert line.startswith("papermill nbs/stages/") and (ROOT / line.split()[1]).exists()
