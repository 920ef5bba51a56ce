"""What import checks, and what the library says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import simulated

import radixattn as rx
from radixattn import _ffi, _header


def header():
    return _header.find_header().read_text(encoding="utf-8")


def run_import(**environment):
    return subprocess.run(
        [sys.executable, "-c", "import radixattn"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_function_of_the_header_is_reachable():
    import re

    declared = set(re.findall(r"RADIX_API\([^()]*\)\s*(radix_\w+)", header()))
    assert len(declared) > 40
    for name in declared:
        assert callable(getattr(rx.lib, name)), name


def test_every_function_of_the_header_is_used_by_the_package():
    import re

    package = Path(rx.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    declared = set(re.findall(r"RADIX_API\([^()]*\)\s*(radix_\w+)", header()))
    used = set(re.findall(r"lib\.(radix_\w+)", source))
    assert declared - used == set()


def test_every_struct_of_the_header_has_the_library_s_size():
    names = _header.struct_names(_header.cdef_source(header()))
    assert "radix_config" in names
    assert "radix_attn" in names
    for name in names:
        assert rx.struct_size(name) == rx.ffi.sizeof(name), name
    assert rx.struct_size("radix_nothing") == 0


def test_versions_agree():
    assert rx.abi() == _header.abi_number(header())
    parts = [int(part) for part in rx.version_string().split(".")]
    assert rx.version() == parts[0] * 10000 + parts[1] * 100 + parts[2]
    assert rx.__version__ == rx.version_string()
    assert rx.build_info()


def test_cdef_source_needs_the_marks():
    with pytest.raises(ImportError, match="@cdef-begin"):
        _header.cdef_source("int f(void);")
    with pytest.raises(ImportError, match="RADIXATTN_ABI"):
        _header.abi_number("")


def test_cdef_source_removes_the_macros():
    text = "/* @cdef-begin : x */\nRADIX_API(const char *) f(void) RADIX_NOEXCEPT;\n"
    text += "typedef void (RADIX_CALL *g)(int);\ntypedef struct s {\n int a; } s;\n/* @cdef-end */"
    source = _header.cdef_source(text)
    assert "RADIX" not in source
    assert "const char * f(void)" in source
    assert _header.struct_names(source) == ["s"]


@pytest.mark.parametrize(
    ("abi", "size", "message"), [(7, 8, "has ABI 7"), (1, 9, "radix_x is 9 bytes .* and 8 in")]
)
def test_a_library_that_differs_is_refused(abi, size, message):
    ffi = SimpleNamespace(sizeof=lambda _name: 8)
    lib = SimpleNamespace(radix_abi=lambda: abi, radix_struct_size=lambda _name: size)
    with pytest.raises(ImportError, match=message):
        _ffi.check_library(ffi, lib, abi=1, structs=["radix_x"], path=Path("lib.so"))


def test_a_missing_library_is_an_import_error():
    result = run_import(RADIXATTN_LIBRARY="/nowhere/libradixattn.so")
    assert result.returncode != 0
    assert "ImportError: cannot use /nowhere/libradixattn.so" in result.stderr


def test_a_library_that_is_another_one_is_an_import_error():
    import ctypes.util

    libm = ctypes.util.find_library("m")
    assert libm
    result = run_import(RADIXATTN_LIBRARY=libm)
    assert "ImportError: cannot use" in result.stderr
    assert "radix_abi" in result.stderr


def test_the_variable_names_the_library(tmp_path):
    import shutil

    copy = tmp_path / "other-name.so"
    shutil.copy(_ffi.library_path(), copy)
    result = run_import(RADIXATTN_LIBRARY=str(copy))
    assert result.returncode == 0, result.stderr


def test_devices():
    assert rx.device_count("cpu") == 1
    assert rx.device_count(rx.Device.CUDA) == (0 if simulated.device is None else 2)
    with pytest.raises(ValueError, match="device is 'abacus': expected one of auto, cpu"):
        rx.device_count("abacus")


def test_enums_cover_the_header():
    import re

    enums = {
        "E": rx.Status, "DEV": rx.Device, "CPU": rx.CpuTarget, "EVICT": rx.EvictPolicy,
        "LAYOUT": rx.KvLayout, "LOG": rx.LogLevel, "GRAPH": rx.GraphFormat, "OP": rx.OpKind,
        "CTX": rx.ContextFlag, "BEGIN": rx.BeginFlag, "FREE": rx.FreeFlag, "APPEND": rx.AppendFlag,
        "ATTN": rx.AttentionFlag, "PLAN_UPDATE": rx.PlanUpdateFlag, "PLAN": rx.PlanFlag,
        "ROPE_SCALE": rx.RopeScaling, "ROPE": rx.RopeStyle, "LAYER": rx.LayerFlag,
        "GEMM": rx.GemmFlag, "SAMPLE": rx.SampleFlag, "VERIFY": rx.VerifyFlag,
        "ROW": rx.RowStatus,
    }  # fmt: skip
    constants = re.findall(r"\bRADIX_(\w+) = -?\d+", _header.cdef_source(header()))
    assert len(constants) > 60
    for constant in constants:
        if constant in ("OK", "DT_DEFAULT"):
            continue
        prefix = next((p for p in enums if constant.startswith(p + "_")), None)
        kind = enums[prefix] if prefix else rx.DType
        name = constant[len(prefix) + 1 :] if prefix else constant
        assert kind[name] == getattr(rx.lib, "RADIX_" + constant)
