"""The library that RADIXATTN_LIBRARY names, as ./run test sets it: a CPU build is enough."""

from __future__ import annotations

import os

import pytest

from gpubench.library import LIBRARY_VARIABLE, Library, find_library


@pytest.fixture(scope="session")
def lib():
    if not os.environ.get(LIBRARY_VARIABLE):
        pytest.fail(f"{LIBRARY_VARIABLE} is not set: expected the path of a libradixattn.so")
    return Library(find_library())
