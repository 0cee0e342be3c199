"""Builds the optional C core; everything else about the package is in pyproject.toml.

RATEKEEPER_CORE=require makes a failed build of the C core an error; RATEKEEPER_CORE=python does not try to build it.
"""

import os
import platform
from glob import glob

from setuptools import Extension, setup

CORE = "src/ratekeeper/core"
wanted = os.environ.get("RATEKEEPER_CORE", "auto")
if wanted not in ("auto", "require", "python"):
    raise SystemExit(f"RATEKEEPER_CORE must be auto, require or python, not {wanted!r}")

extension = Extension(
    "ratekeeper.core._table",
    sources=sorted(glob(f"{CORE}/*.c")),
    depends=sorted(glob(f"{CORE}/*.h")),
    extra_compile_args=["-std=gnu11", "-O3", "-fvisibility=hidden"]
    + (["-mcx16"] if platform.machine().lower() in ("x86_64", "amd64") else []),
    optional=wanted != "require",
)
setup(ext_modules=[] if wanted == "python" else [extension])
