"""Make the environment of a bundle on its host: environment.py FOLDER LOCK; nothing, when it is there and whole.

It is made with the Python that runs this, by uv where the host has one, else by pip; both find packages as they are configured there.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

WHOLE = "whole"
HIDDEN = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PIP_TARGET", "PIP_USER")


def main(folder, lock):
    folder, lock = Path(folder), Path(lock)
    if (folder / WHOLE).is_file():
        return 0
    shutil.rmtree(str(folder), ignore_errors=True)  # one that was being made when the line broke
    folder.parent.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    python, uv = str(folder / "bin" / "python"), shutil.which("uv")
    venv.create(str(folder), with_pip=not uv, symlinks=True)
    tool = [uv, "pip", "install", "--quiet", "--python", python] if uv else [python, "-m", "pip", "install", "--quiet",
                                                                              "--disable-pip-version-check"]
    told = subprocess.run([*tool, "--no-deps", "-r", str(lock)], env=environ, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if told.returncode:
        shutil.rmtree(str(folder), ignore_errors=True)
        print("environment: the packages of the lock must be found in the package index of this host, got:\n"
              + told.stdout.decode("utf-8", "replace")[-1500:], file=sys.stderr)
        return 3
    subprocess.run([python, "-m", "compileall", "-q", str(folder / "lib")], stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    (folder / WHOLE).write_text("")
    return 0


sys.exit(main(*sys.argv[1:]))
