// The ops between the products: each reads its input once and writes its output once. A row's result depends on that row
// alone; sums over a row are taken in one fixed order.
#pragma once

#include <omp.h>

#include "integers.h"
#include "tile.h"

namespace {

// Threads for `count` pieces of `size` numbers each: waking a thread costs about what it computes in 32k numbers.
TW_INLINE int threads_for(int threads, int64_t count, int64_t size) {
  int64_t useful = count * size / 32768 + 1;
  return usable_threads(threads, useful < count ? useful : count);
}

// Sum of squares of a row, after `first` numbers of it were replaced by first + second where second is not null.
template <class E>
TW_INLINE float add_and_square(const typename E::T* x, const typename E::T* added, typename E::T* sum, int64_t size) {
  F total = zero();
  for (int64_t i = 0; i < size; i += W) {
    int n = size - i < W ? (int)(size - i) : W;
    F value = E::load_n(x + i, n);
    if (added) {
      value = add(value, E::load_n(added + i, n));
      E::store_n(sum + i, value, n);
      value = E::load_n(sum + i, n);  // the norm is that of the rounded sum
    } else if (sum != x) {
      E::store_n(sum + i, value, n);
    }
    total = fma(value, value, total);
  }
  return sum_lanes(total);
}

struct NormArgs {
  const void* x;
  int64_t x_stride;
  const void* residual;  // or null
  int64_t residual_stride;
  const void* weight;
  void *normed, *sum;  // sum may be x or residual
  int64_t sum_stride, rows, size;
  float eps;
};

template <class E>
static void add_rms_norm_of(const NormArgs& args, int threads) {
  typedef typename E::T T;
#pragma omp parallel for num_threads(threads_for(threads, args.rows, args.size)) schedule(static)
  for (int64_t row = 0; row < args.rows; row++) {
    const T* residual = args.residual ? (const T*)args.residual + row * args.residual_stride : nullptr;
    T *sum = (T*)args.sum + row * args.sum_stride, *normed = (T*)args.normed + row * args.size;
    float squares = add_and_square<E>((const T*)args.x + row * args.x_stride, residual, sum, args.size);
    F scale = set1(1.0f / sqrtf(squares / (float)args.size + args.eps));
    for (int64_t i = 0; i < args.size; i += W) {
      int n = args.size - i < W ? (int)(args.size - i) : W;
      F value = mul(mul(E::load_n(sum + i, n), scale), E::load_n((const T*)args.weight + i, n));
      E::store_n(normed + i, value, n);
    }
  }
}

struct RopeArgs {
  void* qkv;
  int64_t stride, tokens;
  const void* positions;
  bool positions_are_64;
  const int64_t* places;  // block * block_tokens + offset
  const float* cos_sin;
  void *k_pages, *v_pages;
  int64_t block_stride, head_stride, token_stride;
  int block_tokens, heads, kv_heads, head_dim;
  const void *q_norm, *k_norm;  // or null
  float eps;
  bool int8_pages;  // as attention_int8.h has them
};

// One head: normed if there is a weight, then rotated, in float32 throughout. `out` may be `x`.
template <class E>
TW_INLINE void norm_rotate(const typename E::T* x, const typename E::T* weight, const float* cos_sin, float eps,
                           int head_dim, typename E::T* out) {
  int half = head_dim / 2;
  F scale = set1(1.0f);
  if (weight) {
    F total = zero();
    for (int i = 0; i < head_dim; i += W) {
      F value = E::load_n(x + i, head_dim - i < W ? head_dim - i : W);
      total = fma(value, value, total);
    }
    scale = set1(1.0f / sqrtf(sum_lanes(total) / (float)head_dim + eps));
  }
  for (int i = 0; i < half; i += W) {
    int n = half - i < W ? half - i : W;
    F a = E::load_n(x + i, n), b = E::load_n(x + half + i, n);
    if (weight) {
      a = mul(mul(a, scale), E::load_n(weight + i, n));
      b = mul(mul(b, scale), E::load_n(weight + half + i, n));
    }
    F cosine = load_n(cos_sin + i, n), sine = load_n(cos_sin + half + i, n);
    E::store_n(out + i, sub(mul(a, cosine), mul(b, sine)), n);
    E::store_n(out + half + i, add(mul(b, cosine), mul(a, sine)), n);
  }
}

// A head as a row of a page of 8-bit numbers: bytes around 128, then the scale.
template <class E>
TW_INLINE void write_int8(const typename E::T* head, int head_dim, uint8_t* row) {
  float scale = quantise_row<E>(head, head_dim, head_dim, (int8_t*)row);
  for (int i = 0; i < head_dim; i++) row[i] ^= 128;
  memcpy(row + head_dim, &scale, sizeof scale);
}

// Keys and values of a token, normed and rotated as they should be, to page rows of 8-bit numbers. Keys in place.
template <class E>
static void write_int8_token(const RopeArgs& args, typename E::T* head, const float* cos_sin, int64_t at) {
  for (int g = 0; g < args.kv_heads; g++, head += args.head_dim) {
    norm_rotate<E>(head, (const typename E::T*)args.k_norm, cos_sin, args.eps, args.head_dim, head);
    write_int8<E>(head, args.head_dim, (uint8_t*)args.k_pages + at + g * args.head_stride);
  }
  for (int g = 0; g < args.kv_heads; g++, head += args.head_dim)
    write_int8<E>(head, args.head_dim, (uint8_t*)args.v_pages + at + g * args.head_stride);
}

template <class E>
static void rope_write_token(const RopeArgs& args, int64_t token) {
  typedef typename E::T T;
  int64_t position =
      args.positions_are_64 ? ((const int64_t*)args.positions)[token] : ((const int32_t*)args.positions)[token];
  const float* cos_sin = args.cos_sin + position * args.head_dim;
  T* head = (T*)args.qkv + token * args.stride;
  for (int h = 0; h < args.heads; h++, head += args.head_dim)
    norm_rotate<E>(head, (const T*)args.q_norm, cos_sin, args.eps, args.head_dim, head);
  int64_t at = args.places[token] / args.block_tokens * args.block_stride +
               args.places[token] % args.block_tokens * args.token_stride;
  if (args.int8_pages) return write_int8_token<E>(args, head, cos_sin, at);
  for (int g = 0; g < args.kv_heads; g++, head += args.head_dim)
    norm_rotate<E>(head, (const T*)args.k_norm, cos_sin, args.eps, args.head_dim,
                   (T*)args.k_pages + at + g * args.head_stride);
  for (int g = 0; g < args.kv_heads; g++, head += args.head_dim)
    memcpy((T*)args.v_pages + at + g * args.head_stride, head, sizeof(T) * args.head_dim);
}

template <class E>
static void qk_norm_rope_write_of(const RopeArgs& args, int threads) {
  int64_t size = (int64_t)(args.heads + 2 * args.kv_heads) * args.head_dim;
#pragma omp parallel for num_threads(threads_for(threads, args.tokens, size * 2)) schedule(static)
  for (int64_t token = 0; token < args.tokens; token++) rope_write_token<E>(args, token);
}

TW_INLINE F silu(F x) { return div(x, add(set1(1.0f), exp_(sub(zero(), x)))); }

template <class E>
static void silu_mul_of(const void* gate_up, int64_t stride, int64_t rows, int64_t size, void* out, int threads) {
  typedef typename E::T T;
#pragma omp parallel for num_threads(threads_for(threads, rows, size * 4)) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const T *gate = (const T*)gate_up + row * stride, *up = gate + size;
    for (int64_t i = 0; i < size; i += W) {
      int n = size - i < W ? (int)(size - i) : W;
      E::store_n((T*)out + row * size + i, mul(silu(E::load_n(gate + i, n)), E::load_n(up + i, n)), n);
    }
  }
}

static void gather_rows_of(const void* table, int64_t row_bytes, const void* ids, bool ids_are_64, int64_t count,
                           void* out, int threads) {
#pragma omp parallel for num_threads(threads_for(threads, count, row_bytes)) schedule(static)
  for (int64_t i = 0; i < count; i++) {
    int64_t id = ids_are_64 ? ((const int64_t*)ids)[i] : ((const int32_t*)ids)[i];
    memcpy((char*)out + i * row_bytes, (const char*)table + id * row_bytes, row_bytes);
  }
}

}  // namespace
