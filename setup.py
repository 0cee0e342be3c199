"""Builds the optional C core, and the package index's readme; everything else about the package is in pyproject.toml.

RATEKEEPER_CORE=require makes a failed build of the C core an error; RATEKEEPER_CORE=python does not try to build it.
"""

import os
import platform
import re
import tomllib
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

CORE = "src/ratekeeper/core"
wanted = os.environ.get("RATEKEEPER_CORE", "auto")
if wanted not in ("auto", "require", "python"):
    raise SystemExit(f"RATEKEEPER_CORE must be auto, require or python, not {wanted!r}")

extension = Extension(
    "ratekeeper.core._table",
    sources=sorted(glob(f"{CORE}/*.c")),
    depends=sorted(glob(f"{CORE}/*.h")),
    # -g0: Python's own options ask for debugging information, five sixths of the file. A traceback needs none of it.
    extra_compile_args=["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Werror=implicit-function-declaration"]
    + (["-mcx16"] if platform.machine().lower() in ("x86_64", "amd64") else []),
    optional=wanted != "require",
)


def readme_for_the_index() -> str:
    """Return README.md with absolute links and pictures, of this version: the package index has no files beside it."""
    version = re.search(r'^__version__ = "(.+)"$', Path("src/ratekeeper/__init__.py").read_text("utf-8"), re.M)[1]
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[2].endswith((".svg", ".png")) else "blob"
        return f"{found[1]}{project}/{kind}/v{version}/{found[2]}"

    relative = r'(?![a-z]+:|#|/)([^)"\s]+)'
    return re.sub(rf'(\]\(|\b(?:src|srcset)="){relative}', absolute, Path("README.md").read_text("utf-8"))


setup(
    ext_modules=[] if wanted == "python" else [extension],
    long_description=readme_for_the_index(),
    long_description_content_type="text/markdown",
)
