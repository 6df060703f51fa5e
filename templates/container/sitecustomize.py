"""Notes which files Python runs, in the file that LEAN_TRACE names; on the path only while an image is built."""

import os
import sys

_file = os.open(os.environ["LEAN_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _note(event: str, arguments: tuple) -> None:
    name = None
    if event == "exec":  # the code of a module that begins
        name = getattr(arguments[0], "co_filename", None)
    elif event == "import":  # of an extension module, its file
        name = arguments[1]
    elif event == "ctypes.dlopen":
        name = arguments[0]
    if isinstance(name, str) and name.startswith("/"):
        os.write(_file, name.encode("utf-8", "surrogateescape") + b"\n")


sys.addaudithook(_note)
