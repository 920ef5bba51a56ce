#!/usr/bin/env python3
"""Compiles every CUDA kernel for every architecture and compares what ptxas says with the budget.

    check.py [--arch 80 --arch 90a ...] [--update] [--jobs N]

Fails when a kernel spills, takes more registers, stack or static shared memory than budget.json
allows, is missing there, when ptxas does not take wgmma or setmaxnreg as written, or when the PTX of the wrappers
(cuda/simt) is not the golden one: the inline assembly is the one text that no test without a GPU
runs, so a change of it asks for a run of ./run gpu. --update writes both files anew, unless
something spills; the diff is then what to review.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHS = ["75", "80", "86", "89", "90a", "100", "120"]
REGISTERS_PER_SM = 65536
MAX_THREADS = {"75": 1024, "86": 1536, "89": 1536, "120": 1536}  # per SM; else 2048


def nvcc_path():
    found = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return found if os.path.exists(found) else None


def flags():
    return ["-std=c++20", "-O3", f"-I{ROOT}", f"-I{ROOT}/src", f"-I{ROOT}/include",
            f"-I{ROOT}/tests/simt"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done


def short_name(mangled):
    name = run(["c++filt", mangled]).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|radixattn::|cuda::|simt::|^void ", "", name)
    return re.sub(r"\(.*", "", name)


def blocks_by_registers(arch, registers, threads):
    per_warp = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS_PER_SM // (per_warp * threads // 32)
    return min(by_registers, MAX_THREADS.get(arch, 2048) // threads)


def kernels_of(source, arch, folder):
    """{name: what ptxas says} of one source for one architecture, warnings included."""
    out = pathlib.Path(folder) / f"{source.stem}.{arch}.cubin"
    said = run([nvcc_path(), *flags(), f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas",
                "-v", "-cubin", "-o", out, source]).stderr
    kernels, current, notes = {}, None, []
    for line in said.splitlines():
        if "warning" in line:
            print(f"{source.name} sm_{arch}: {line.strip()}")
        # wgmma serialised or patched, setmaxnreg ignored; some of these name no function
        if found := re.search(r"\((C75\d\d)\)(?:.* function '(\w+)')?", line):
            notes.append((found[1], short_name(found[2]) if found[2] else ""))
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            current = kernels[short_name(found[1])] = {}
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", line):
            current["stack"] = int(found[1])
            current["spills"] = int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            current["registers"] = int(found[1])
            smem = re.search(r"(\d+) bytes smem", line)
            current["static_smem"] = int(smem[1]) if smem else 0
            current["blocks_of_128"] = blocks_by_registers(arch, int(found[1]), 128)
    for note, of in notes:
        for name in kernels:
            if of in ("", name):
                kernels[name]["note"] = note
    return kernels


def wrapper_ptx(folder):
    """The inline assembly of the wrappers, in order, for the architectures that differ."""
    text = []
    for arch in ["75", "80", "90a"]:
        out = pathlib.Path(folder) / f"wrappers.{arch}.ptx"
        run([nvcc_path(), *flags(), f"-arch=compute_{arch}", "-ptx", "-o", out,
             ROOT / "tests/gpu/wrappers_test.cu"])
        inside = False
        for line in out.read_text().splitlines():
            if "end inline asm" in line:
                inside = False
            if inside and not line.strip().startswith("//"):
                # Register numbers are the compiler's.
                text.append(f"sm_{arch} " + re.sub(r"%(r|f|rd|rs)\d+", r"%\1", line.strip()))
            if "begin inline asm" in line:
                inside = True
    return sorted(set(text))


def compare(found, budget):
    problems = []
    for key, now in sorted(found.items()):
        allowed = budget.get(key)
        if now.get("spills", 0) > 0:
            problems.append(f"{key} spills {now['spills']} bytes")
        if "note" in now:
            problems.append(f"{key}: ptxas does not take its wgmma or setmaxnreg as they are: {now['note']}")
        if allowed is None:
            problems.append(f"{key} is not in the budget")
            continue
        for what in ("registers", "stack", "static_smem"):
            if now[what] > allowed[what]:
                problems.append(f"{key}: {what} {now[what]}, the budget has {allowed[what]}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if nvcc_path() is None:
        print("ptxas: no nvcc on this machine, nothing was compiled")
        return 0
    archs = options.arch or ARCHS
    budget_file, ptx_file = HERE / "budget.json", HERE / "wrappers.ptx"
    found = {}
    with tempfile.TemporaryDirectory() as folder, \
            concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        sources = sorted((ROOT / "cuda/kernels").glob("*.cu"))
        jobs = {pool.submit(kernels_of, s, a, folder): (s, a) for s in sources for a in archs}
        for done in concurrent.futures.as_completed(jobs):
            source, arch = jobs[done]
            kernels = done.result()
            print(f"{source.name:24} sm_{arch:4} {len(kernels):3} kernels")
            for name, now in kernels.items():
                found[f"{name} sm_{arch}"] = now
        ptx = wrapper_ptx(folder)
    if options.update:
        problems = compare(found, found)
        for problem in problems:
            print(problem)
        if problems:  # what no budget may hold
            return 1
        budget_file.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        ptx_file.write_text("\n".join(ptx) + "\n")
        print(f"ptxas: wrote the budget of {len(found)} kernels")
        return 0
    budget = json.loads(budget_file.read_text()) if budget_file.exists() else {}
    problems = compare(found, budget)
    if not options.arch:
        problems += [f"{key} is in the budget, but no longer there" for key in budget if key not in found]
    golden = ptx_file.read_text().splitlines() if ptx_file.exists() else []
    problems += [f"wrappers: new PTX: {line}" for line in ptx if line not in golden]
    problems += [f"wrappers: lost PTX: {line}" for line in golden if line not in ptx]
    for problem in problems:
        print(problem)
    print(f"ptxas: {len(found)} kernels, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
