// Integer products: 8-bit weights or keys against 8- or 16-bit numbers, summed in int32.
//
// Sums are exact, so their order is free and every instruction set gives the same one. Numbers are stored as quads: four
// consecutive numbers of one column in 32 bits. Quads of weights are unsigned (the zero point is taken off beforehand,
// by what a sum starts from), and those of a row signed.
#pragma once

#include "elements.h"

namespace {

#if TW_LEVEL >= 3
typedef __m512i V;  // W int32 lanes
TW_INLINE V iset1(int32_t x) { return _mm512_set1_epi32(x); }
TW_INLINE V iload(const void* p) { return _mm512_loadu_si512(p); }
TW_INLINE V iadd(V a, V b) { return _mm512_add_epi32(a, b); }
TW_INLINE void istore(void* p, V x) { _mm512_storeu_si512(p, x); }
TW_INLINE F to_float(V x) { return _mm512_cvtepi32_ps(x); }
TW_INLINE V to_int(F x) { return _mm512_cvtps_epi32(x); }
TW_INLINE V next_nibble(V x) { return _mm512_slli_epi32(x, 4); }
TW_INLINE V low_nibbles(V x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x0f0f0f0f)); }
TW_INLINE V high_nibbles(V x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi32(0x0f0f0f0f)); }
// W numbers in -128..127, rounded
TW_INLINE void store_int8(int8_t* p, F x) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
TW_INLINE F load_int8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
#elif TW_LEVEL == 2
typedef __m256i V;
TW_INLINE V iset1(int32_t x) { return _mm256_set1_epi32(x); }
TW_INLINE V iload(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
TW_INLINE V iadd(V a, V b) { return _mm256_add_epi32(a, b); }
TW_INLINE void istore(void* p, V x) { _mm256_storeu_si256((__m256i*)p, x); }
TW_INLINE F to_float(V x) { return _mm256_cvtepi32_ps(x); }
TW_INLINE V to_int(F x) { return _mm256_cvtps_epi32(x); }
TW_INLINE V next_nibble(V x) { return _mm256_slli_epi32(x, 4); }
TW_INLINE V low_nibbles(V x) { return _mm256_and_si256(x, _mm256_set1_epi32(0x0f0f0f0f)); }
TW_INLINE V high_nibbles(V x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi32(0x0f0f0f0f)); }
TW_INLINE void store_int8(int8_t* p, F x) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x), _mm256_setzero_si256());
  __m256i bytes = _mm256_packs_epi16(words, words);
  int32_t parts[2] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4)};
  memcpy(p, parts, 8);
}
TW_INLINE F load_int8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
#else
typedef I V;
TW_INLINE V iset1(int32_t x) { return V{x, x, x, x}; }
TW_INLINE V iload(const void* p) {
  V x;
  memcpy(&x, p, sizeof x);
  return x;
}
TW_INLINE V iadd(V a, V b) { return a + b; }
TW_INLINE void istore(void* p, V x) { memcpy(p, &x, sizeof x); }
TW_INLINE F to_float(V x) { return __builtin_convertvector(x, F); }
TW_INLINE V to_int(F x) { return __builtin_convertvector(x, V); }  // of whole numbers
TW_INLINE V next_nibble(V x) { return x << 4; }
TW_INLINE V low_nibbles(V x) { return x & 0x0f0f0f0f; }
TW_INLINE V high_nibbles(V x) { return (x >> 4) & 0x0f0f0f0f; }
TW_INLINE void store_int8(int8_t* p, F x) {
  V rounded = __builtin_convertvector(round_even(x), V);
  for (int i = 0; i < W; i++) p[i] = (int8_t)(rounded[i] < -128 ? -128 : (rounded[i] > 127 ? 127 : rounded[i]));
}
TW_INLINE F load_int8(const int8_t* p) { return F{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
#endif

// RowQuad: four numbers of a row, as `mac` wants them. Quads: W columns' quads in registers.
#if TW_LEVEL >= 4
typedef uint32_t RowQuad;
typedef V Quads;
TW_INLINE RowQuad row_quad(const int8_t* x) {
  RowQuad quad;
  memcpy(&quad, x, 4);
  return quad;
}
TW_INLINE Quads quads(V bytes) { return bytes; }
TW_INLINE V mac(V sum, const RowQuad* a, Quads b) { return _mm512_dpbusd_epi32(sum, b, _mm512_set1_epi32((int)*a)); }
#elif TW_LEVEL >= 2
// Bytes are widened to 16 bits, because the 8-bit product of these instruction sets saturates.
struct RowQuad {
  int32_t even, odd;  // numbers 0 and 2, numbers 1 and 3
};
struct Quads {
  V even, odd;
};
TW_INLINE int32_t pair(int16_t low, int16_t high) { return (int32_t)((uint32_t)(uint16_t)low | (uint32_t)(uint16_t)high << 16); }
TW_INLINE RowQuad row_quad(const int8_t* x) { return {pair(x[0], x[2]), pair(x[1], x[3])}; }
#if TW_LEVEL == 3
TW_INLINE Quads quads(V bytes) {
  return {_mm512_and_si512(bytes, _mm512_set1_epi16(255)), _mm512_srli_epi16(bytes, 8)};
}
TW_INLINE V mac(V sum, const RowQuad* a, Quads b) {
  V even = _mm512_madd_epi16(b.even, iset1(a->even)), odd = _mm512_madd_epi16(b.odd, iset1(a->odd));
  return iadd(sum, iadd(even, odd));
}
#else
TW_INLINE Quads quads(V bytes) {
  return {_mm256_and_si256(bytes, _mm256_set1_epi16(255)), _mm256_srli_epi16(bytes, 8)};
}
TW_INLINE V mac(V sum, const RowQuad* a, Quads b) {
  V even = _mm256_madd_epi16(b.even, iset1(a->even)), odd = _mm256_madd_epi16(b.odd, iset1(a->odd));
  return iadd(sum, iadd(even, odd));
}
#endif
#else
struct RowQuad {
  int32_t at[4];
};
struct Quads {
  V at[4];
};
TW_INLINE RowQuad row_quad(const int8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
TW_INLINE Quads quads(V bytes) { return {{bytes & 255, (bytes >> 8) & 255, (bytes >> 16) & 255, (bytes >> 24) & 255}}; }
TW_INLINE V mac(V sum, const RowQuad* a, Quads b) {
  return sum + b.at[0] * a->at[0] + b.at[1] * a->at[1] + b.at[2] * a->at[2] + b.at[3] * a->at[3];
}
#endif

TW_INLINE F vabs(F x) { return vmax(x, sub(zero(), x)); }

// The largest absolute number of a row; NaN if a number of the row is not finite.
template <class E>
TW_INLINE float largest_number(const typename E::T* x, int64_t k) {
  F most = zero(), poison = zero();
  for (int64_t i = 0; i < k; i += W) {
    F value = E::load_n(x + i, k - i < W ? (int)(k - i) : W);
    most = vmax(most, vabs(value));
    poison = fma(value, zero(), poison);
  }
  return max_lanes(most) + sum_lanes(poison);
}

// Quantises a row: `out` gets padded numbers. Gives the scale; NaN if a number of the row is not finite.
template <class E>
TW_INLINE float quantise_row(const typename E::T* x, int64_t k, int64_t padded, int8_t* out) {
  float largest = largest_number<E>(x, k);
  F inverse = set1(largest > 0 ? 127.0f / largest : 0.0f);
  int64_t i = 0;
  for (; i + W <= k; i += W) store_int8(out + i, mul(E::load(x + i), inverse));
  if (i < k) {
    int8_t last[W];
    store_int8(last, mul(E::load_n(x + i, (int)(k - i)), inverse));
    memcpy(out + i, last, k - i);
  }
  memset(out + k, 0, padded - k);
  return largest / 127.0f;
}

}  // namespace
