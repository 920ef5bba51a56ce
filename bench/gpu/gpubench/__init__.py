"""The benchmark of the CUDA kernels on a real GPU; `./run bench gpu` starts it.

cases   what is measured, in order of importance; bytes and FLOPs    (pure)
stats   medians, spread, interleaved rounds, the budget of seconds   (pure)
report  the table, the JSON file, the table for docs/benchmarks.md   (pure)
flow    from cases to rows, with any backend                         (pure)
header, library, launches   the C API through ctypes, from radixattn.h itself
torch_backend, attention, transfers, peers   memory, references, timing and peers by PyTorch
"""
