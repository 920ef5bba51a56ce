// f16 and bf16 as numbers: the definition by value, written without bit tricks so that it can be
// checked by reading.
//
// A format with e exponent and m mantissa bits holds q * k for whole k < 2^(m+1), where the quantum
// q is 2^(exponent - m) and the exponent is that of the number, at least 2 - 2^(e-1) (subnormals
// share the smallest). f16: e = 5, m = 10 (IEEE 754 binary16). bf16: e = 8, m = 7. Encoding rounds
// to nearest, ties to even k; what rounds to 2^(2^(e-1)) or more is infinite; every NaN encodes as
// a quiet one of the same sign.
#pragma once

#include <cstdint>

namespace radixattn::reference {

double decode_f16(uint16_t bits);
double decode_bf16(uint16_t bits);
uint16_t encode_f16(double x);
uint16_t encode_bf16(double x);

// Element `index` of an array of dtype RADIX_F32, RADIX_F16 or RADIX_BF16.
double load_element(const void* data, int32_t dtype, int64_t index);
void store_element(void* data, int32_t dtype, int64_t index, double x);

}  // namespace radixattn::reference
