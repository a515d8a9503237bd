"""Sentences to calibrate on and to judge by: a library's documentation, a dictionary.

Library text are the docstrings and help topics of Python's standard library; a quarter
of the files and topics is held out. Dictionary text is the GNU Collaborative
International Dictionary of English as Debian packages it (``dict-gcide``, file
``gcide.dict.dz``).
"""

import ast
import gzip
import random
import re
import sysconfig
import zlib
from pathlib import Path
from pydoc_data.topics import topics


def library_text():
    """Sentences to calibrate on, and others from other modules and topics."""
    calibration, held = [], []
    for number, (_, text) in enumerate(sorted(topics.items())):
        (held if number % 4 == 0 else calibration).extend(_sentences(text))
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "pydoc_data"}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if skipped & set(parts) or any("test" in part for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
        except SyntaxError:
            continue
        name = path.relative_to(root).as_posix()
        target = held if zlib.crc32(name.encode()) % 4 == 0 else calibration
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                target.extend(_sentences(ast.get_docstring(node) or ""))
    held = list(dict.fromkeys(held))
    known = set(held)
    calibration = [s for s in dict.fromkeys(calibration) if s not in known]
    random.Random(0).shuffle(calibration)
    random.Random(1).shuffle(held)
    return calibration, held


def dictionary_text(path):
    """Definitions from ``gcide.dict.dz``, in a fixed random order."""
    with gzip.open(path, "rt", errors="ignore") as file:
        text = re.sub(r"\[[^\]]*\]", "", file.read())
    found = _sentences(text, ends=".;", longest=200, letters=0.93)
    found = [s for s in dict.fromkeys(found) if s[0].isupper() and "\\" not in s]
    random.Random(3).shuffle(found)
    return found


def _sentences(text, ends=".!?", longest=220, letters=0.85):
    parts = re.split(rf"(?<=[{ends}])\s+(?=[A-Z])", re.sub(r"\s+", " ", text))
    stripped = [part.strip() for part in parts]
    return [
        s
        for s in stripped
        if 40 <= len(s) <= longest
        and sum(c.isalpha() or c == " " for c in s) > letters * len(s)
    ]
