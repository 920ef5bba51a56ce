// f16, bf16 and the two fp8 formats as numbers: the definition by value, written without bit tricks
// so that it can be checked by reading.
//
// A format with e exponent and m mantissa bits holds q * k for whole k < 2^(m+1), where the quantum
// q is 2^(exponent - m) and the exponent is that of the number, at least 2 - 2^(e-1) (subnormals
// share the smallest). f16: e = 5, m = 10 (IEEE 754 binary16). bf16: e = 8, m = 7. Encoding rounds
// to nearest, ties to even k; what rounds to 2^(2^(e-1)) or more is infinite; every NaN encodes as
// a quiet one of the same sign. fp8 (Micikevicius et al. 2022, the OCP formats): E4M3 has no
// infinity and one NaN a sign, its largest number is 448; E5M2 is IEEE-like, up to 57344. Encoding
// fp8 saturates: what is too large, infinity too, becomes the largest number.
#pragma once

#include <cstdint>

namespace radixattn::reference {

double decode_f16(uint16_t bits);
double decode_bf16(uint16_t bits);
uint16_t encode_f16(double x);
uint16_t encode_bf16(double x);
double decode_e4m3(uint8_t bits);
double decode_e5m2(uint8_t bits);
uint8_t encode_e4m3(double x);
uint8_t encode_e5m2(double x);

// Element `index` of an array of dtype RADIX_F32, F16, BF16, F8_E4M3 or F8_E5M2.
double load_element(const void* data, int32_t dtype, int64_t index);
void store_element(void* data, int32_t dtype, int64_t index, double x);

}  // namespace radixattn::reference
