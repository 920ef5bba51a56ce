// A shared library with the names of cuBLASLt's functions, to be opened and not called;
// RADIX_PART_OF_IT leaves one out.
#define RADIX_NAME(name)                                                 \
  extern "C" __attribute__((visibility("default"))) const char* name() { \
    return "of the whole library";                                       \
  }

RADIX_NAME(cublasLtCreate)
RADIX_NAME(cublasLtDestroy)
RADIX_NAME(cublasLtGetStatusName)
RADIX_NAME(cublasLtMatmul)
RADIX_NAME(cublasLtMatmulAlgoGetHeuristic)
RADIX_NAME(cublasLtMatmulDescInit_internal)
RADIX_NAME(cublasLtMatmulDescSetAttribute)
RADIX_NAME(cublasLtMatrixLayoutInit_internal)
RADIX_NAME(cublasLtMatmulPreferenceInit_internal)
#ifndef RADIX_PART_OF_IT
RADIX_NAME(cublasLtMatmulPreferenceSetAttribute)
#endif
