// bfloat16 as storage: the two conversions, to nearest even, with NVIDIA's canonical NaN.
#pragma once

struct alignas(2) __nv_bfloat16 {
  unsigned short bits;
};

FL_EMULATOR_INLINE float __bfloat162float(__nv_bfloat16 value) {
  return __uint_as_float(static_cast<unsigned int>(value.bits) << 16);
}

FL_EMULATOR_INLINE __nv_bfloat16 __float2bfloat16_rn(float value) {
  const unsigned int bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  const unsigned int last_kept = (bits >> 16) & 1;
  return {static_cast<unsigned short>((bits + 0x7fffu + last_kept) >> 16)};
}

FL_EMULATOR_INLINE __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }

namespace emulator {
FL_EMULATOR_TYPE(__nv_bfloat16, "B2")
}
