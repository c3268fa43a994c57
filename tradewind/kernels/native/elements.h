// Element types: how they are loaded and stored, and how a register tile multiplies them.
//
// A tile works in steps along the summed dimension. A step covers STEP numbers: pairs for bf16, because that is what
// the dot-product instruction takes, and single numbers for float32 and float16.
//   A: what one row brings to one step. B: W columns of one step in a register. Unit: one column of one step in memory.
//   store_a writes W numbers of a row as A's, from number `at` on, and gives them back as they were stored.
#pragma once

#include "vec.h"

namespace {

struct F32 {
  typedef float T;
  typedef uint32_t Unit;
  typedef float A;
  typedef F B;
  static constexpr int STEP = 1;

  TW_INLINE F load(const T* p) { return ::load(p); }
  TW_INLINE F load_n(const T* p, int n) { return ::load_n(p, n); }
  TW_INLINE void store(T* p, F x) { ::store(p, x); }
  TW_INLINE void store_n(T* p, F x, int n) { ::store_n(p, x, n); }
  TW_INLINE B load_b(const char* p) { return ::load((const float*)p); }
  TW_INLINE F mac(F sum, const A* a, B b) { return fma(set1(*a), b, sum); }
  TW_INLINE A row_step(const T* x, int) { return *x; }
  TW_INLINE Unit unit(const T* w, int) {
    Unit bits;
    memcpy(&bits, w, 4);
    return bits;
  }
  TW_INLINE T part(Unit bits, int) {
    T x;
    memcpy(&x, &bits, 4);
    return x;
  }
  TW_INLINE F store_a(A* row, int at, F x) {
    ::store(row + at, x);
    return x;
  }
};

struct F16 {
  typedef uint16_t T;
  typedef uint16_t Unit;
  typedef float A;
  typedef F B;
  static constexpr int STEP = 1;

  TW_INLINE F load(const T* p) { return load_f16(p); }
  TW_INLINE F load_n(const T* p, int n) { return load_f16_n(p, n); }
  TW_INLINE void store(T* p, F x) { store_f16(p, x); }
  TW_INLINE void store_n(T* p, F x, int n) { store_f16_n(p, x, n); }
  TW_INLINE B load_b(const char* p) { return load_f16((const uint16_t*)p); }
  TW_INLINE F mac(F sum, const A* a, B b) { return fma(set1(*a), b, sum); }
  TW_INLINE A row_step(const T* x, int) {
    float lanes[W];
    ::store(lanes, load_f16_n(x, 1));
    return lanes[0];
  }
  TW_INLINE Unit unit(const T* w, int) { return *w; }
  TW_INLINE T part(Unit bits, int) { return bits; }
};

struct Bf16 {
  typedef uint16_t T;
  typedef uint32_t Unit;
  static constexpr int STEP = 2;

  TW_INLINE F load(const T* p) { return load_bf16(p); }
  TW_INLINE F load_n(const T* p, int n) { return load_bf16_n(p, n); }
  TW_INLINE void store(T* p, F x) { store_bf16(p, x); }
  TW_INLINE void store_n(T* p, F x, int n) { store_bf16_n(p, x, n); }
  // `left`: how many numbers of the row are left; the second of the last pair may be missing.
  TW_INLINE Unit unit(const T* w, int64_t left) { return w[0] | (left > 1 ? (Unit)w[1] << 16 : 0); }
  TW_INLINE T part(Unit pair, int which) { return (T)(which ? pair >> 16 : pair & 0xffff); }

#if TW_LEVEL >= 5
  typedef uint32_t A;
  typedef __m512i B;
  TW_INLINE B of_pairs(__m512i pairs) { return pairs; }
  TW_INLINE B load_b(const char* p) { return of_pairs(_mm512_loadu_si512(p)); }
  TW_INLINE F mac(F sum, const A* a, B b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32((int)*a), (__m512bh)b);
  }
  TW_INLINE A row_step(const T* x, int64_t left) { return unit(x, left); }
  TW_INLINE F store_a(A* row, int at, F x) {
    __m256i rounded = narrow_bf16(x);
    _mm256_storeu_si256((__m256i*)((T*)row + at), rounded);
    return widen_bf16(rounded);
  }
#else
  struct A {
    float even, odd;
  };
  struct B {
    F even, odd;
  };
#if TW_LEVEL >= 3
  TW_INLINE B of_pairs(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)))};
  }
#endif
  TW_INLINE B load_b(const char* p) {
#if TW_LEVEL >= 3
    return of_pairs(_mm512_loadu_si512(p));
#elif TW_LEVEL == 2
    __m256i pairs = _mm256_loadu_si256((const __m256i*)p);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)))};
#else
    I pairs;
    memcpy(&pairs, p, sizeof pairs);
    return {(F)(pairs << 16), (F)(pairs & (int32_t)0xffff0000)};
#endif
  }
  TW_INLINE F mac(F sum, const A* a, B b) { return fma(set1(a->even), b.even, fma(set1(a->odd), b.odd, sum)); }
  TW_INLINE A row_step(const T* x, int64_t left) {
    uint32_t even = (uint32_t)x[0] << 16, odd = left > 1 ? (uint32_t)x[1] << 16 : 0;
    A a;
    memcpy(&a.even, &even, 4);
    memcpy(&a.odd, &odd, 4);
    return a;
  }
  TW_INLINE F store_a(A* row, int at, F x) {
    ::store((float*)row + at, x);
    return x;
  }
#endif
};

}  // namespace
