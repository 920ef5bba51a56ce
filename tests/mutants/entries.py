"""What an entry of the catalogue is, and the test programs that entries name."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A test program: its own source, and those of what it tests."""
    test: str
    sources: list
    emulated: bool = True  # with the emulator and the kernel tests' support


@dataclass(frozen=True)
class Mutant:
    file: str
    program: str
    bug: str
    text: str
    new: str
    sees: str = ""  # a GoogleTest filter; "": the whole program
    under: str = ""  # asan, ubsan, tsan or msan
    equivalent: str = ""

    def name(self):
        return f"{self.file.rsplit('/', 1)[-1]}: {self.bug}"


KERNELS = "cuda/kernels/"
ATTENTION = [KERNELS + "decode.cu", KERNELS + "merge.cu", KERNELS + "attention_f32.cu"]
PROGRAMS = {
    "decode": Program("tests/simt/decode_test.cpp", ATTENTION),
    "radix": Program("tests/simt/radix_test.cpp",
                     [KERNELS + "radix.cu", KERNELS + "radix_merge.cu",
                      KERNELS + "attention_f32.cu", "tests/kernel/support/radix_case.cpp"]),
    "prefill": Program("tests/simt/prefill_test.cpp", [KERNELS + "prefill.cu", *ATTENTION]),
    "prefill_wgmma": Program("tests/simt/prefill_wgmma_test.cpp",
                             [KERNELS + "prefill_wgmma.cu", "src/plan/prefill_choice.cpp"]),
    "merge": Program("tests/simt/merge_test.cpp", [KERNELS + "merge.cu"]),
    "rope": Program("tests/simt/rope_append_test.cpp",
                    [KERNELS + "rope_append.cu", "src/plan/rope_frequencies.cpp"]),
    "rms_norm": Program("tests/simt/rms_norm_test.cpp", [KERNELS + "rms_norm.cu"]),
    "copy": Program("tests/simt/copy_test.cpp", [KERNELS + "copy.cu"]),
    "match": Program("tests/simt/match_test.cpp",
                     [KERNELS + "match.cu", "tests/kernel/support/match_case.cpp",
                      "src/backend/cpu/match.cpp", "src/base/executor.cpp"]),
    "build_step": Program("tests/simt/step_test.cpp",
                          [KERNELS + "step.cu", "src/plan/step.cpp", "src/plan/decode_schedule.cpp"]),
    "sample": Program("tests/simt/sample_test.cpp",
                      [KERNELS + "sample.cu", "src/backend/reference/sample.cpp"]),
    "verify": Program("tests/simt/verify_test.cpp",
                      [KERNELS + "verify.cu", KERNELS + "sample.cu",
                       "src/backend/reference/sample.cpp"]),
    "wrappers": Program("tests/simt/wrappers_test.cpp", []),
    "copy_batches": Program("tests/unit/copy_batches_test.cpp", ["src/plan/copy_batches.cpp"], False),
    "decode_schedule": Program("tests/unit/decode_schedule_test.cpp",
                               ["src/plan/decode_schedule.cpp"], False),
    "step": Program("tests/unit/step_writer_test.cpp",
                    ["src/plan/step.cpp", "src/plan/decode_schedule.cpp"],
                    False),
    "shared_tree": Program("tests/unit/shared_tree_test.cpp", ["src/plan/shared_tree.cpp"], False),
    "radix_schedule": Program("tests/unit/radix_schedule_test.cpp",
                              ["src/plan/radix_schedule.cpp", "src/plan/radix_planner.cpp",
                               "src/plan/shared_tree.cpp"], False),
    "decode_split": Program("tests/unit/decode_split_test.cpp", ["src/plan/decode_split.cpp"], False),
}


def plant(file, program, *entries):
    """The entries of one file, for one test program where they name no other."""
    return [Mutant(file, e.pop("program", program), *texts, **e) for texts, e in entries]


def bug(what, text, new, sees="", **more):
    return (what, text, new, sees), more
