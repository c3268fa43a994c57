// One vector type for every instruction set: W float32 lanes, and the few operations the kernels need.
//
// TW_LEVEL picks the instruction set at compile time: 5 AVX-512 with BF16 and VNNI, 4 with VNNI, 3 AVX-512, 2 AVX2 with FMA, 1 plain C++ that
// the compiler vectorises (NEON on ARM). Everything has internal linkage, because the same source is compiled once per
// level into one library. Fused multiply-adds are always written out and never left to the compiler, so that each
// instantiation of a template rounds alike.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if TW_LEVEL >= 2
#include <immintrin.h>
#endif

#define TW_INLINE static inline __attribute__((always_inline))

namespace {

#if TW_LEVEL >= 3

typedef __m512 F;
constexpr int W = 16;

TW_INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
TW_INLINE F set1(float x) { return _mm512_set1_ps(x); }
TW_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
TW_INLINE F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
TW_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
TW_INLINE void store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
TW_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
TW_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
TW_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
TW_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
TW_INLINE F vmax(F a, F b) { return _mm512_max_ps(a, b); }
TW_INLINE F vmin(F a, F b) { return _mm512_min_ps(a, b); }
TW_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
TW_INLINE F round_even(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for whole n
TW_INLINE F scale2(F x, F n) { return _mm512_scalef_ps(x, n); }
// x where a >= limit, else 0
TW_INLINE F zero_below(F x, F a, F limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, limit, _CMP_NLT_UQ), x);
}
// x where a > b, else y
TW_INLINE F where_above(F a, F b, F x, F y) { return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), x); }
// one truth for each lane
typedef __mmask16 M;
TW_INLINE M no_lane() { return 0; }
TW_INLINE M at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
TW_INLINE M any_nan(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
TW_INLINE M either(M a, M b) { return (M)(a | b); }
TW_INLINE uint32_t lane_bits(M m) { return m; }
TW_INLINE float sum_lanes(F x) { return _mm512_reduce_add_ps(x); }
TW_INLINE float max_lanes(F x) { return _mm512_reduce_max_ps(x); }
// lanes [lo, hi) of x, -infinity elsewhere
TW_INLINE F keep_lanes(F x, int lo, int hi) {
  lo = lo < 0 ? 0 : (lo > W ? W : lo);
  hi = hi < 0 ? 0 : (hi > W ? W : hi);
  __mmask16 keep = (__mmask16)(first_lanes(hi) & ~first_lanes(lo));
  return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), keep, x);
}
TW_INLINE F widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
TW_INLINE F load_bf16(const uint16_t* p) { return widen_bf16(_mm256_loadu_si256((const __m256i*)p)); }
TW_INLINE F load_bf16_n(const uint16_t* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
TW_INLINE __m256i narrow_bf16(F x) {
#if TW_LEVEL >= 5
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}
TW_INLINE void store_bf16(uint16_t* p, F x) { _mm256_storeu_si256((__m256i*)p, narrow_bf16(x)); }
TW_INLINE void store_bf16_n(uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bf16(x)); }
TW_INLINE F load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
TW_INLINE F load_f16_n(const uint16_t* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
TW_INLINE void store_f16(uint16_t* p, F x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TW_INLINE void store_f16_n(uint16_t* p, F x, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#else  // AVX2 and plain C++

TW_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
TW_INLINE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

#if TW_LEVEL == 2

typedef __m256 F;
constexpr int W = 8;

TW_INLINE F set1(float x) { return _mm256_set1_ps(x); }
TW_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
TW_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
TW_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
TW_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
TW_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
TW_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
TW_INLINE F vmax(F a, F b) { return _mm256_max_ps(a, b); }
TW_INLINE F vmin(F a, F b) { return _mm256_min_ps(a, b); }
TW_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
TW_INLINE F round_even(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TW_INLINE F scale2(F x, F n) {
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
}
TW_INLINE F zero_below(F x, F a, F limit) { return _mm256_and_ps(_mm256_cmp_ps(a, limit, _CMP_NLT_UQ), x); }
TW_INLINE F where_above(F a, F b, F x, F y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
typedef __m256 M;
TW_INLINE M no_lane() { return _mm256_setzero_ps(); }
TW_INLINE M at_least(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
TW_INLINE M any_nan(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
TW_INLINE M either(M a, M b) { return _mm256_or_ps(a, b); }
TW_INLINE uint32_t lane_bits(M m) { return (uint32_t)_mm256_movemask_ps(m); }
TW_INLINE F load_bf16(const uint16_t* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TW_INLINE void store_bf16(uint16_t* p, F x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  rounded = _mm256_srli_epi32(rounded, 16);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
TW_INLINE F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
TW_INLINE void store_f16(uint16_t* p, F x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#else  // plain C++

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
constexpr int W = 4;

TW_INLINE F set1(float x) { return F{x, x, x, x}; }
TW_INLINE F load(const float* p) {
  F x;
  memcpy(&x, p, sizeof x);
  return x;
}
TW_INLINE void store(float* p, F x) { memcpy(p, &x, sizeof x); }
TW_INLINE F add(F a, F b) { return a + b; }
TW_INLINE F sub(F a, F b) { return a - b; }
TW_INLINE F mul(F a, F b) { return a * b; }
TW_INLINE F div(F a, F b) { return a / b; }
TW_INLINE F vmax(F a, F b) { return a > b ? a : b; }
TW_INLINE F vmin(F a, F b) { return a < b ? a : b; }
#if defined(__aarch64__)
}  // namespace
#include <arm_neon.h>
namespace {
TW_INLINE F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
TW_INLINE F fma(F a, F b, F c) { return a * b + c; }
#endif
TW_INLINE F round_even(F x) {
  F big = set1(12582912.0f);  // 1.5 * 2^23: adding it leaves no bits for a fraction
  return (x + big) - big;
}
TW_INLINE F scale2(F x, F n) { return x * (F)((__builtin_convertvector(n, I) + 127) << 23); }
TW_INLINE F zero_below(F x, F a, F limit) { return (F)((I)x & ~(I)(a < limit)); }
TW_INLINE F where_above(F a, F b, F x, F y) { return a > b ? x : y; }
typedef I M;
TW_INLINE M no_lane() { return I{0, 0, 0, 0}; }
TW_INLINE M at_least(F a, F b) { return a >= b; }
TW_INLINE M any_nan(F a, F b) { return (a != a) | (b != b); }
TW_INLINE M either(M a, M b) { return a | b; }
TW_INLINE uint32_t lane_bits(M m) {
  m &= I{1, 2, 4, 8};
  return (uint32_t)(m[0] | m[1] | m[2] | m[3]);
}
TW_INLINE uint16_t narrow_bf16(float x) {
  uint32_t bits = float_bits(x);
  if (x != x) return (uint16_t)((bits | 0x400000) >> 16);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
TW_INLINE F load_bf16(const uint16_t* p) {
  I wide = {p[0] << 16, p[1] << 16, p[2] << 16, p[3] << 16};
  return (F)wide;
}
TW_INLINE void store_bf16(uint16_t* p, F x) {
  for (int i = 0; i < W; i++) p[i] = narrow_bf16(x[i]);
}
TW_INLINE float widen_f16(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return bits_float(sign | ((magnitude << 13) + 0x38000000));
  return bits_float(sign | float_bits((float)magnitude * 0x1p-24f));
}
TW_INLINE uint16_t narrow_f16(float x) {
  uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to 65536 or more
  if (magnitude < 0x38800000) {  // below 2^-14: a float addition does the rounding
    float shifted = bits_float(magnitude) + 0.5f;
    return (uint16_t)(sign | (float_bits(shifted) - float_bits(0.5f)));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}
TW_INLINE F load_f16(const uint16_t* p) { return F{widen_f16(p[0]), widen_f16(p[1]), widen_f16(p[2]), widen_f16(p[3])}; }
TW_INLINE void store_f16(uint16_t* p, F x) {
  for (int i = 0; i < W; i++) p[i] = narrow_f16(x[i]);
}

#endif

TW_INLINE F load_n(const float* p, int n) {
  float lanes[W] = {0};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
}
TW_INLINE void store_n(float* p, F x, int n) {
  float lanes[W];
  store(lanes, x);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}
#define TW_PART_OF_16_BITS(kind)                               \
  TW_INLINE F load_##kind##_n(const uint16_t* p, int n) {      \
    uint16_t lanes[W] = {0};                                   \
    for (int i = 0; i < n; i++) lanes[i] = p[i];               \
    return load_##kind(lanes);                                 \
  }                                                            \
  TW_INLINE void store_##kind##_n(uint16_t* p, F x, int n) {   \
    uint16_t lanes[W];                                         \
    store_##kind(lanes, x);                                    \
    for (int i = 0; i < n; i++) p[i] = lanes[i];               \
  }
TW_PART_OF_16_BITS(bf16)
TW_PART_OF_16_BITS(f16)
TW_INLINE float sum_lanes(F x) {
  float lanes[W];
  store(lanes, x);
  for (int width = W / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}
TW_INLINE float max_lanes(F x) {
  float lanes[W];
  store(lanes, x);
  float most = lanes[0];
  for (int i = 1; i < W; i++) most = lanes[i] > most ? lanes[i] : most;
  return most;
}
TW_INLINE F keep_lanes(F x, int lo, int hi) {
  if (lo <= 0 && hi >= W) return x;
  float lanes[W];
  store(lanes, x);
  for (int i = 0; i < W; i++) lanes[i] = i >= lo && i < hi ? lanes[i] : -INFINITY;
  return load(lanes);
}

#endif

TW_INLINE F zero() { return set1(0.0f); }

// 2^x, within 2 units in the last place; exactly 1 at 0 and exactly 0 below -126.
TW_INLINE F exp2_(F x) {
  F clamped = vmax(set1(-126.0f), vmin(set1(127.0f), x));  // in this order NaN stays NaN
  F n = round_even(clamped), r = sub(clamped, n);
  F p = set1(1.5353362e-4f);
  p = fma(p, r, set1(1.3398874e-3f));
  p = fma(p, r, set1(9.6184373e-3f));
  p = fma(p, r, set1(5.5503324e-2f));
  p = fma(p, r, set1(2.4022648e-1f));
  p = fma(p, r, set1(6.9314720e-1f));
  p = fma(p, r, set1(1.0f));
  return zero_below(scale2(p, n), x, set1(-126.0f));
}

// e^x: the multiple of ln 2 is taken off in two parts, so that large arguments keep their accuracy.
TW_INLINE F exp_(F x) {
  F clamped = vmax(set1(-87.0f), vmin(set1(88.0f), x));
  F n = round_even(mul(clamped, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691e-4f);
  p = fma(p, r, set1(1.3981999e-3f));
  p = fma(p, r, set1(8.3334519e-3f));
  p = fma(p, r, set1(4.1665796e-2f));
  p = fma(p, r, set1(1.6666666e-1f));
  p = fma(p, r, set1(0.5f));
  F e = add(fma(mul(r, r), p, r), set1(1.0f));
  return zero_below(scale2(e, n), x, set1(-87.0f));
}

TW_INLINE F tanh_(F x) {
  F e = exp_(add(x, x));
  return sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
}

}  // namespace
