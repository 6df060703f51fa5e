"""What an image leaves out, and why: used in the builder, and beforehand for the forecast of sizes."""

import re
import struct
from collections.abc import Iterable
from pathlib import Path

# What no service reads: the distribution (or "*"), a pattern for the path below site-packages, and why.
LEFT_OUT = (
    ("*", r"(^|/)tests/", "its own tests"),
    ("*", r"\.(pyi|pxd|pyx|pyx\.tp|h|hpp|c|cpp|f90|a|lib)$|(^|/)include/", "for compiling against it"),
    ("onnxruntime", r"^onnxruntime/(transformers|tools|quantization)/", "makes and changes models; a service runs one"),
    ("onnxruntime", r"^onnxruntime/capi/libonnxruntime\.so", "for programs in C; Python's module has its own"),
    ("protobuf", r"^google/", "onnxruntime's tools read models with it; running one does not"),
    ("flatbuffers", r"^flatbuffers/", "onnxruntime's tools write models with it"),
    ("numpy", r"^numpy/(f2py|_pyinstaller)/|^numpy/_core/(_simd|_\w+_tests)\.", "compiles Fortran, tests NumPy"),
    ("scipy", r"^scipy/(datasets|misc)/|_c?y?test\.\S*so$", "sample data, tests"),
    ("scipy", r"^scipy/io/_fast_matrix_market/", "reads files of the Matrix Market"),
    ("scikit-learn", r"^sklearn/datasets/(data|images|descr)/", "sample data"),
    ("pygments", r"^pygments/lexers/(?!__init__|_mapping|python|special)|^pygments/(styles|formatters)/(?!__init__|_mapping|default)",
     "colours for other languages than Python"),
    ("aiosqlite", r"^aiosqlite/", "BentoML's queue of tasks; this service has none"),
    ("pip-requirements-parser", r"^pip_requirements_parser|^packaging_legacy", "BentoML builds with it"),
    ("markdown-it-py", r"^markdown_it/", "a console's rich text"),
    ("rich-toolkit", r"^rich_toolkit/", "a console's questions"),
)
SYMBOLS = "symbols for debugging"
SOURCES = "sources of what has bytecode (a traceback tells the line's number, not its text)"
READ_THEMSELVES = ("torch", "numba", "triton", "jax")  # packages that read their own sources when they run


def spare(name: str, site: Path, files: Iterable[Path], used: set[str]) -> dict[Path, str]:
    """Of a distribution's files those that are left out, and why; a rule that meets a file in use does nothing."""
    found: dict[Path, str] = {}
    inside = {f: str(f.relative_to(site)) for f in files if f.is_relative_to(site) and ".dist-info/" not in str(f)}
    for whose, pattern, why in LEFT_OUT:
        if whose in ("*", name):
            hit = [f for f, path in inside.items() if re.search(pattern, path)]
            if not any(str(f) in used for f in hit):
                found |= {f: why for f in hit if f not in found}
    return found


def loaded_size(data: bytes, whole: int) -> int:
    """How much of an ELF file is ever loaded: its bytes up to the end of the last segment.

    Parameters
    ----------
    data
        The file's first bytes, its table of segments among them.
    whole
        The file's size, which is the answer for what is no ELF file of 64 bits.
    """
    if data[:5] != b"\x7fELF\x02":
        return whole
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", data, 32)
    size, count = struct.unpack_from(f"{order}HH", data, 54)
    end = table + size * count
    if end > len(data):
        return whole
    for at in range(table, end, size):
        offset, length = struct.unpack_from(f"{order}Q", data, at + 8)[0], struct.unpack_from(f"{order}Q", data, at + 32)[0]
        end = max(end, offset + length)
    return end if end + 4096 <= whole else whole
