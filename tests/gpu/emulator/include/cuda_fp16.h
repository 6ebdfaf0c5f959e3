// IEEE half precision as storage: the two conversions, to nearest even, with NVIDIA's canonical NaN.
// Integer arithmetic throughout, as the flushing of float32 subnormals must not reach the subnormal halves.
#pragma once

struct alignas(2) __half {
  unsigned short bits;
};

FL_EMULATOR_INLINE float __half2float(__half value) {
  const unsigned int sign = (value.bits & 0x8000u) << 16;
  unsigned int exponent = (value.bits >> 10) & 31, mantissa = value.bits & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    if (mantissa == 0) return __uint_as_float(sign);
    const int shift = __clz(static_cast<int>(mantissa)) - 21;  // moves the leading bit to bit 10
    mantissa = (mantissa << shift) & 0x3ffu;
    exponent = 1 - shift;
  }
  return __uint_as_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

namespace emulator {

FL_EMULATOR_INLINE unsigned int shift_right_to_nearest_even(unsigned int bits, unsigned int shift) {
  const unsigned int kept = bits >> shift, lost = bits & ((1u << shift) - 1), half = 1u << (shift - 1);
  return kept + (lost > half || (lost == half && (kept & 1)));
}

}  // namespace emulator

FL_EMULATOR_INLINE __half __float2half_rn(float value) {
  const unsigned int bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7fff};
  unsigned int result;
  if (magnitude >= 0x477ff000u) {  // 65520, half-way to what would be the next half
    result = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14, the smallest normal half
    result = emulator::shift_right_to_nearest_even(magnitude, 13) - (112u << 10);
  } else if (magnitude >= 0x33000000u) {  // 2^-25, half the smallest subnormal half
    result = emulator::shift_right_to_nearest_even((magnitude & 0x7fffffu) | 0x800000u, 126 - (magnitude >> 23));
  } else {
    result = 0;
  }
  return {static_cast<unsigned short>(sign | result)};
}

FL_EMULATOR_INLINE __half __float2half(float value) { return __float2half_rn(value); }

namespace emulator {
FL_EMULATOR_TYPE(__half, "f2")
}
