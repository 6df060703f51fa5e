"""What a host has, before anything is put there: look.py NAME ROOT PYTHON_VERSION [PYTHON]; one line of JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ASK = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


def version_of(python):
    """(version, path) of an interpreter; None: it is none."""
    try:
        told = subprocess.run([python, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        version, path = told.stdout.decode().strip().split(" ", 1)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return version, path


def pythons(wanted, named):
    """Interpreters worth a look: the named one alone, or those that usually stand there."""
    if named:
        return [named]
    found = [shutil.which(name) for name in ("python" + wanted, "python3", "python")]
    uv = shutil.which("uv")
    if uv:
        told = subprocess.run([uv, "python", "find", "--no-project", wanted], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        found.append(told.stdout.decode().strip())
    return [python for python in found if python]


def main(name, root, wanted, named=""):
    folder = Path(os.path.expanduser(root))
    folder = (folder if folder.is_absolute() else Path.home() / folder) / name
    there = folder
    while not there.exists():
        there = there.parent
    python, seen = "", []
    for candidate in pythons(wanted, named):
        known = version_of(candidate)
        if known:
            seen.append(known[0])
            if known[0] == wanted:
                python = known[1]
                break
    try:
        owner = json.loads((folder / "owner.json").read_text())
    except (OSError, ValueError):
        owner = {}
    print(json.dumps({
        "folder": str(folder), "python": python, "seen": sorted(set(seen)), "owner": owner, "system": sys.platform,
        "free_mb": shutil.disk_usage(str(there)).free // 2**20, "writable": os.access(str(there), os.W_OK),
    }))


main(*sys.argv[1:])
