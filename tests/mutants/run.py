#!/usr/bin/env python3
"""Plants bugs in the CUDA kernels' sources, one at a time, and runs the tests that should see them.

    run.py [--only SUBSTRING ...] [--list] [--unplanted asan|ubsan|tsan|msan] [--jobs N]

catalogue.py has the bugs. Each one is planted in a copy of the sources in build/mutants, the objects
that depend on the file are compiled, and the tests that the entry names run in the emulator, under a
sanitizer where it says so. A failed test, a crash, a sanitizer's report, and a run that takes far
longer than without the bug (it is killed) are all that "caught" means. Entries marked `equivalent`
change nothing that can be seen: the tests must pass with them.

Fails when a bug survives, when only other tests than the named ones see it, when an equivalent one
is seen, and when a test fails before anything is planted. --unplanted plants nothing: all tests of
the kernels under that sanitizer (./run msan).
"""
import argparse
import concurrent.futures
import fcntl
import os
import pathlib
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

from catalogue import MUTANTS
from entries import PROGRAMS

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build/mutants"
COPIED = ["cuda", "src", "include", "tests/simt", "tests/kernel", "tests/unit"]
EMULATOR = [f"tests/simt/{name}.cpp"
            for name in ("async_copy", "collectives", "fibers", "hopper", "scheduler", "tensor_core")]
SUPPORT = ["tests/kernel/support/attention_case.cpp", "tests/kernel/support/plain_attention.cpp",
           "src/backend/reference/attention.cpp", "src/backend/reference/numeric.cpp",
           "src/backend/reference/rope_append.cpp", "src/base/error.cpp"]
# Compiler and options by sanitizer, as the presets of CMakePresets.json have them; and clang's
# UndefinedBehaviorSanitizer, which checks what __builtin_assume_aligned says (gcc's does not).
MODES = {
    "": ("c++", []),
    "asan": ("c++", ["-fsanitize=address,undefined", "-fno-sanitize=vptr",
                     "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]),
    "ubsan": ("clang++", ["-fsanitize=undefined", "-fno-sanitize=vptr,function",
                          "-fno-sanitize-recover=all"]),
    "tsan": ("clang++", ["-fsanitize=thread", "-fno-omit-frame-pointer", "-DRADIX_SIMT_TSAN"]),
    "msan": ("clang++", ["-fsanitize=memory", "-fno-omit-frame-pointer", "-DRADIX_SIMT_MSAN"]),
}
OF_EMULATOR = {"tsan": ["-fno-sanitize=thread", "-fno-builtin"]}
# MSan looks into the kernels and the emulator. All else takes memory as it finds it, and leaves it
# initialised: GoogleTest and the C++ library are not compiled with it, and would look uninitialised.
UNCHECKED = HERE / "unchecked.txt"
ENVIRONMENT = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0",
               "MSAN_OPTIONS": "poison_in_malloc=0:poison_in_free=0"}


class CatalogueError(Exception):
    """The catalogue, or what the tests do without a bug, is not as it must be."""


def cuda_headers():
    for folder in (os.environ.get("CUDA_HOME", "") + "/include", "/usr/local/cuda/include",
                   "/usr/include"):
        if os.path.exists(folder + "/cuda_bf16.h"):
            return folder
    return None


# ---- building ------------------------------------------------------------------------------------
def compile_command(tree, source, mode, out):
    """What compiles a source of the tree, with a .d file beside the object."""
    compiler, options = MODES[mode]
    command = [compiler, "-std=c++20", "-g1", "-DRADIX_SIMT_EMU", "-ffunction-sections", *options]
    emulated = source in EMULATOR
    command += ["-O2", *OF_EMULATOR.get(mode, [])] if emulated else ["-O2" if source in SUPPORT else "-O1"]
    if mode == "msan" and not emulated and not source.startswith("cuda/"):
        command.append(f"-fsanitize-ignorelist={UNCHECKED}")
    command += [f"-I{tree / folder}" for folder in ("", "src", "include", "tests/simt", "tests/kernel")]
    command += ["-isystem", cuda_headers(), "-w", "-MMD", "-MF", out.with_suffix(".d"), "-o", out]
    return [*map(str, command), "-x", "c++", "-c", str(tree / source)]


def call(command, why):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CatalogueError(f"{why}:\n{shlex.join(command)}\n{done.stderr[:4000]}")


def dependencies(out, tree):
    """What of the tree an object was made of: {path relative to the tree}."""
    words = out.with_suffix(".d").read_text().replace("\\\n", " ").split()[1:]
    return {os.path.relpath(w, tree) for w in words if w.startswith(str(tree) + "/")}


def object_of(source, mode):
    return BUILD / "base" / (mode or "plain") / (source.replace("/", "_") + ".o")


def build_object(source, mode):
    """The object of an unchanged source, made anew only if something of it changed."""
    out = object_of(source, mode)
    command = compile_command(ROOT, source, mode, out)
    note = out.with_suffix(".command")
    fresh = out.exists() and note.exists() and note.read_text() == shlex.join(command)
    if fresh:
        made = out.stat().st_mtime
        parts = [ROOT / d for d in dependencies(out, ROOT)]
        fresh = all(p.exists() and p.stat().st_mtime < made for p in parts)
    if not fresh:
        out.parent.mkdir(parents=True, exist_ok=True)
        call(command, f"{source} does not compile")
        note.write_text(shlex.join(command))


def sources_of(program):
    p = PROGRAMS[program]
    return [p.test, *p.sources, *(EMULATOR + SUPPORT if p.emulated else [])]


def link(objects, mode, out):
    compiler, options = MODES[mode]
    call([compiler, *options, "-Wl,--gc-sections", "-o", str(out), *map(str, objects),
          "-lgtest", "-lgtest_main", "-lpthread"], f"{out.name} does not link")


# ---- running -------------------------------------------------------------------------------------
class Run:
    """One run of a test program: how it ended, and what it was that failed."""

    def __init__(self, program, tests, limit, log):
        command = ["prlimit", "--core=0", f"--fsize={1 << 26}", str(program), "--gtest_fail_fast",
                   "--gtest_brief=0", f"--gtest_filter={tests or '*'}"]
        begin = time.monotonic()
        with open(log, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT, cwd=BUILD)
            try:
                self.code = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.code = None
        self.seconds = time.monotonic() - begin
        self.text = pathlib.Path(log).read_text(errors="replace")
        self.passed = self.code == 0
        self.ran = len(re.findall(r"^\[ RUN ", self.text, re.M))

    def how(self):
        """Who saw it: the test, and the sanitizer or signal that ended it."""
        tests = re.findall(r"^\[  FAILED  \] ([\w/.]+)", self.text, re.M)
        tests = tests or re.findall(r"^\[ RUN      \] ([\w/.]+)", self.text, re.M)[-1:]
        test = tests[0] if tests else "no test"
        if self.code is None:
            return f"{test} hangs"
        if found := re.search(r"(\w+Sanitizer): (data race|[\w-]+)", self.text):
            return f"{test}: {found[1]}: {found[2]}"
        if found := re.search(r"runtime error: (.*)", self.text):
            return f"{test}: {found[1]}"
        return f"{test} dies of signal {-self.code}" if self.code < 0 else test


class Base:
    """The test programs without a bug: each must pass, and says how long it takes."""

    def __init__(self, wanted, tests, jobs):
        self.limits = {}
        objects = sorted({(s, mode) for program, mode in wanted for s in sources_of(program)})
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda o: build_object(*o), objects))
            list(pool.map(lambda w: self.run(*w, tests.get(w, "")), wanted))

    def run(self, program, mode, tests):
        name = f"{program}-{mode or 'plain'}"
        out = BUILD / "base" / name
        link([object_of(s, mode) for s in sources_of(program)], mode, out)
        done = Run(out, tests, 600, BUILD / "base" / f"{name}.log")
        if not done.passed:
            raise CatalogueError(f"{name} fails without a bug ({done.how()}): {BUILD}/base/{name}.log")
        self.limits[program, mode] = 30 + 10 * done.seconds
        print(f"{name}: {done.ran} tests pass without a bug, {done.seconds:.1f} s", flush=True)


# ---- one bug -------------------------------------------------------------------------------------
class Workshop:
    """Copies of the sources, one for each worker, in which bugs are planted."""

    def __init__(self, jobs):
        self.free = queue.Queue()
        for i in range(jobs):
            tree = BUILD / f"tree{i}"
            shutil.rmtree(tree, ignore_errors=True)
            for folder in COPIED:
                shutil.copytree(ROOT / folder, tree / folder)
            (tree / "out").mkdir()
            self.free.put(tree)

    def build(self, tree, m):
        """The test program with the bug in it."""
        objects, begin = [], (ROOT / m.file).read_text()
        (tree / m.file).write_text(begin.replace(m.text, m.new))
        try:
            for source in sources_of(m.program):
                base = object_of(source, m.under)
                if m.file not in dependencies(base, ROOT):
                    objects.append(base)
                    continue
                objects.append(tree / "out" / base.name)
                call(compile_command(tree, source, m.under, objects[-1]),
                     f"{m.name()}: {source} does not compile with the bug")
        finally:
            (tree / m.file).write_text(begin)
        if all(o.parent != tree / "out" for o in objects):
            raise CatalogueError(f"{m.name()}: the program {m.program} has nothing of {m.file}")
        link(objects, m.under, tree / "out/program")
        return tree / "out/program"

    def try_out(self, m, limit):
        """(verdict, remark): verdict is caught, same (as it is marked), or what is wrong."""
        tree = self.free.get()
        try:
            program, log = self.build(tree, m), tree / "out/log"
            first = Run(program, m.sees, limit, log)
            if first.ran == 0 and first.passed:
                raise CatalogueError(f"{m.name()}: no test is called {m.sees}")
            if m.equivalent:
                return ("same", m.equivalent) if first.passed else \
                    ("SEEN", f"marked equivalent, but: {first.how()}")
            if not first.passed:
                return "caught", first.how()
            other = first if m.under else Run(program, "", limit, log)
            if other.passed:
                return "SURVIVED", f"{m.sees or 'all tests'} of {m.program} passed"
            return "ELSEWHERE", f"not {m.sees}, but {other.how()}"
        finally:
            self.free.put(tree)


def check_texts(mutants):
    """Each source text must be there, once: else the code has moved on and the entry has not."""
    wrong = []
    for m in mutants:
        count = (ROOT / m.file).read_text().count(m.text)
        if count != 1:
            wrong.append(f"{m.name()}: its text occurs {count} times in {m.file}, expected once: {m.text!r}")
        if m.text == m.new:
            wrong.append(f"{m.name()}: nothing is replaced")
    names = [m.name() for m in mutants]
    wrong += [f"{n}: two entries have this name" for n in sorted(set(names)) if names.count(n) > 1]
    if wrong:
        raise CatalogueError("\n".join(wrong))


def run_all(mutants, jobs):
    """Tries every bug; (mutant, verdict, remark) in the catalogue's order."""
    wanted = sorted({(m.program, m.under) for m in mutants})
    # Sanitizers are slow: they run what their entries name.
    tests = {w: ":".join(sorted({m.sees for m in mutants if (m.program, m.under) == w}))
             for w in wanted if w[1]}
    base, workshop = Base(wanted, tests, jobs), Workshop(jobs)
    done, lock = {}, threading.Lock()

    def one(m):
        try:
            verdict, remark = workshop.try_out(m, base.limits[m.program, m.under])
        except CatalogueError as e:
            verdict, remark = "ERROR", str(e)
        with lock:
            done[m.name()] = (m, verdict, remark)
            print(f"[{len(done)}/{len(mutants)}] {verdict:8} {m.name()}  ({remark})", flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, mutants))
    return [done[m.name()] for m in mutants]


def report(results):
    bad = [r for r in results if r[1] not in ("caught", "same")]
    same = [r for r in results if r[1] == "same"]
    if same:
        print("\nThese change nothing, and no test saw them:")
    for m, _, remark in same:
        print(f"  {m.name()}: {remark}")
    if bad:
        print("\nThese are wrong:")
    for m, verdict, remark in bad:
        print(f"  {verdict:9} {m.name()}: {remark}")
    caught = sum(r[1] == "caught" for r in results)
    survived = sum(r[1] == "SURVIVED" for r in results)
    others = len(bad) - survived
    print(f"\nmutants: {caught} of {len(results)} caught, {len(same)} change nothing (listed), "
          f"{survived} survived" + (f", {others} entries are wrong" if others else ""))
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="those whose name contains this (or another)")
    parser.add_argument("--list", action="store_true", help="print the names and do nothing")
    parser.add_argument("--unplanted", choices=sorted(set(MODES) - {""}),
                        help="plant nothing: the kernels' tests under this sanitizer")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    only = options.only or [""]
    mutants = [m for m in MUTANTS if any(text in m.name() for text in only)]
    if options.list:
        for m in mutants:
            print(m.name() + (f" ({m.under})" if m.under else "") + (" (equivalent)" if m.equivalent else ""))
        return 0
    if not mutants:
        print(f"mutants: no name contains {' or '.join(only)}")
        return 1
    if cuda_headers() is None:
        print("mutants: no CUDA headers (cuda_bf16.h) on this machine, nothing was run")
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("mutants: another run is at work in build/mutants")
            return 1
        return check_and_run(mutants, options.unplanted, options.jobs)


def check_and_run(mutants, unplanted, jobs):
    try:
        if unplanted:
            wanted = [(name, unplanted) for name, p in PROGRAMS.items() if p.emulated]
            Base(wanted, {}, jobs)
            print(f"mutants: {len(wanted)} programs pass under {unplanted}, nothing planted")
            return 0
        check_texts(MUTANTS)
        return report(run_all(mutants, jobs))
    except CatalogueError as e:
        print(f"mutants: {e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
