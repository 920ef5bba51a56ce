"""The parser: what it understands, and what it refuses."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from gpubench import header

ROOT = Path(__file__).resolve().parents[3]
TEXT = header.default_header().read_text(encoding="utf-8")

SMALL = """
#define RADIXATTN_ABI 7u
/* @cdef-begin : words */
typedef struct box box; /* opaque */
typedef uint64_t id;
typedef void *stream;
typedef void *(RADIX_CALL *make_fn)(void *user, size_t size);
enum { A = 0, B = -3 /* why */ };
typedef struct point {
  int32_t x, y; /* a; b */
  int64_t at[2];
  const float *w;
} point;
typedef struct line {
  point from, to;
  make_fn make;
  id key;
} line;
RADIX_API(int32_t) f(box *b, const point *p, uint32_t n,
                     stream s) RADIX_NOEXCEPT;
RADIX_API(const char *) g(void) RADIX_NOEXCEPT;
RADIX_API(void) h(const char *text) RADIX_NOEXCEPT;
/* @cdef-end */
"""


def test_a_small_header_becomes_structs_constants_and_prototypes():
    api = header.parse(SMALL)
    assert api.abi == 7
    assert api.constants == {"A": 0, "B": -3}
    point, line = api.structs["point"], api.structs["line"]
    assert [name for name, _ in point._fields_] == ["x", "y", "at", "w"]
    assert ctypes.sizeof(point) == 32
    assert dict(line._fields_) == {
        "from": point, "to": point, "make": ctypes.c_void_p, "key": ctypes.c_uint64,
    }  # fmt: skip
    pointer = ctypes.c_void_p
    assert api.functions["f"] == (ctypes.c_int32, [pointer, pointer, ctypes.c_uint32, pointer])
    assert api.functions["g"] == (ctypes.c_char_p, [])
    assert api.functions["h"] == (None, [ctypes.c_char_p])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("int32_t x, y;", "long x;", "cannot read the field 'long x'"),
        ("int32_t x, y;", "int32_t x : 3;", "cannot read the field"),
        ("uint32_t n", "double n", "cannot read the type of 'double n'"),
        ("B = -3", "B", "has no value"),
        ("@cdef-begin", "begin", "no section"),
        ("RADIXATTN_ABI 7u", "OTHER 7u", "does not define RADIXATTN_ABI"),
    ],
)
def test_what_is_not_understood_is_an_error(old, new, message):
    assert old in SMALL
    with pytest.raises(ValueError, match=message):
        header.parse(SMALL.replace(old, new))


def test_every_exported_function_of_the_real_header_has_a_prototype():
    symbols = (ROOT / "tests" / "abi" / "symbols.txt").read_text(encoding="utf-8").split()
    exported = {name for name in symbols if name.startswith("radix_")}
    assert set(header.parse(TEXT).functions) == exported


def test_every_struct_and_constant_of_the_real_header_is_there():
    api = header.parse(TEXT)
    assert set(api.structs) == set(re.findall(r"^typedef struct (\w+) \{", TEXT, re.MULTILINE))
    assert api.constants["RADIX_F8_E4M3"] == 4
    assert api.constants["RADIX_CTX_METADATA_ONLY"] == 4
    assert api.constants["RADIX_E_DEVICE_LOST"] == -11
