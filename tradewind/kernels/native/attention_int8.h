// Attention over pages of 8-bit numbers. A token's row in a page is head_dim bytes and then the float32 that they are
// multiplied with: number = scale * (byte - ZERO).
//
// Products are summed as integers, exactly. What stands on the other side of them, queries and the weights of values, is
// rounded to 14 bits and kept as two signed bytes, x = high * 128 + low, which are two rows to the multipliers.
#pragma once

#include "attention_parts.h"
#include "integers.h"

namespace {

constexpr int KEY_QUADS = KEYS / 4, PAGE_ZERO = 128, PAGE_SCALE_BYTES = 4;
constexpr float MOST = 127 * 128;  // of what is kept as two bytes

struct Int8Space : RunningSums {
  RowQuad* q;                         // [tile][quad of head_dim][row of the tile][high, low]
  uint32_t* keys;                     // [quad of head_dim][KEYS]
  uint32_t* values;                   // [quad of keys][padded head_dim]
  RowQuad* weights;                   // [row of the tile][high, low][quad of keys]
  float *key_scales, *value_scales;   // [KEYS], 0 where there is no key
  float *q_scales, *weight_scales;    // [query], [row of the tile]
  int32_t *q_zeros, *weight_zeros;    // the same, [high, low]: what sums start from, so that the zero point cancels

  uintptr_t lay_out(uintptr_t at, int head_dim) {
    size_t padded = (size_t)(head_dim + PANEL - 1) / PANEL * PANEL, quads = (head_dim + 3) / 4;
    lay_out_sums(at, head_dim);
    place(q, at, QUERIES * quads * 2);
    place(keys, at, KEYS * quads);
    place(values, at, padded * KEY_QUADS);
    place(weights, at, TILE_ROWS * KEY_QUADS);
    place(key_scales, at, KEYS);
    place(value_scales, at, KEYS);
    place(q_scales, at, QUERIES);
    place(weight_scales, at, TILE_ROWS);
    place(q_zeros, at, QUERIES * 2);
    place(weight_zeros, at, TILE_ROWS * 2);
    return at;
  }
};

// W numbers, at most MOST, as whole numbers in two bytes each.
TW_INLINE void store_halves(int8_t* high, int8_t* low, F x) {
  F whole = round_even(x), upper = round_even(mul(whole, set1(1.0f / 128)));
  store_int8(high, upper);
  store_int8(low, fma(upper, set1(-128.0f), whole));
}

TW_INLINE int32_t zero_of(const int8_t* numbers, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; i++) sum += numbers[i];
  return -PAGE_ZERO * sum;
}

static void load_scales(const uint8_t* const* places, int head_dim, float* scales) {
  for (int key = 0; key < KEYS; key++) {
    scales[key] = 0;
    if (places[key]) memcpy(scales + key, places[key] + head_dim, PAGE_SCALE_BYTES);
  }
}

// Keys, so that all of them lie side by side for each quad of head_dim. The last quad may reach into a key's scale: the
// query is zero there.
static void load_keys(const uint8_t* const* places, RowsAhead& ahead, int head_dim, uint32_t* keys) {
  int64_t quads = (head_dim + 3) / 4;
  ahead.phase((quads + 15) / 16 * (KEYS / 16));
  for (int first = 0; first < KEYS; first += 16)
    for (int64_t from = 0; from < quads; from += 16) {
      RowsAhead::ask(ahead);
      transpose_16<KEYS>((const uint32_t* const*)(places + first), from, quads - from, keys + from * KEYS + first);
    }
}

// Numbers d to d + 64 of four keys, as quads of keys; `padded` is where the last panel of numbers ends.
TW_INLINE void load_value_quads(const uint8_t* const* places, int d, int head_dim, int padded, uint32_t* out) {
#if TW_LEVEL >= 3
  // Unpacking works within 128 bits: this order makes what is side by side afterwards what was before.
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  __mmask64 part = head_dim - d >= 64 ? ~0ull : (1ull << (head_dim - d)) - 1;
  __m512i rows[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    rows[i] = places[i] ? _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(part, places[i] + d))
                        : _mm512_setzero_si512();
  __m512i low01 = _mm512_unpacklo_epi8(rows[0], rows[1]), high01 = _mm512_unpackhi_epi8(rows[0], rows[1]);
  __m512i low23 = _mm512_unpacklo_epi8(rows[2], rows[3]), high23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
  _mm512_storeu_si512(out, _mm512_unpacklo_epi16(low01, low23));
  _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi16(low01, low23));
  if (padded - d <= 32) return;
  _mm512_storeu_si512(out + 32, _mm512_unpacklo_epi16(high01, high23));
  _mm512_storeu_si512(out + 48, _mm512_unpackhi_epi16(high01, high23));
#else
  for (int i = 0; i < 64 && d + i < padded; i++) {
    out[i] = 0;
    for (int key = 0; key < 4; key++)
      if (places[key] && d + i < head_dim) out[i] |= (uint32_t)places[key][d + i] << (8 * key);
  }
#endif
}

static void load_values(const uint8_t* const* places, RowsAhead& ahead, int head_dim, uint32_t* values) {
  int padded = (head_dim + PANEL - 1) / PANEL * PANEL;
  ahead.phase(KEY_QUADS);
  for (int key = 0; key < KEYS; key += 4, values += padded) {
    RowsAhead::ask(ahead);
    for (int d = 0; d < head_dim; d += 64) load_value_quads(places + key, d, head_dim, padded, values + d);
  }
}

// Sums of high and low rows: row 2 r is the high one of r.
template <int MR, int NV>
struct HalfSums {
  V at[2 * MR][NV];
  TW_INLINE void start(HalfSums& self, const int32_t* zeros) {
#pragma GCC unroll 16
    for (int r = 0; r < 2 * MR; r++)
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) self.at[r][v] = iset1(zeros[r]);
  }
  TW_INLINE F joined(const HalfSums& self, int r, int v) {
    return fma(to_float(self.at[2 * r][v]), set1(128.0f), to_float(self.at[2 * r + 1][v]));
  }
};

// As `multiply`, with integers: a step is a quad of numbers.
template <int STEP_STRIDE, int ROW_STRIDE, int MR, int NV>
TW_INLINE void multiply_quads(const RowQuad* a, const uint32_t* b, int64_t b_stride, int64_t steps, RowsAhead& ahead,
                              HalfSums<MR, NV>& sums) {
  while (steps > 0) {
    RowsAhead::ask(ahead);
    int64_t group = steps < 4 ? steps : 4;
    for (int64_t step = 0; step < group; step++) {
      Quads columns[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) columns[v] = quads(iload(b + v * W));
#pragma GCC unroll 16
      for (int r = 0; r < 2 * MR; r++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) sums.at[r][v] = mac(sums.at[r][v], a + r * ROW_STRIDE, columns[v]);
      a += STEP_STRIDE;
      b += b_stride;
    }
    steps -= group;
  }
}

// Products of MR queries and NV vectors of keys.
template <int MR, int NV>
TW_INLINE void score_int8(const AttentionArgs& args, const Int8Space& space, int64_t first, int column,
                          RowsAhead& ahead) {
  int64_t quads = (args.head_dim + 3) / 4;
  HalfSums<MR, NV> sums;
  HalfSums<MR, NV>::start(sums, space.q_zeros + 2 * first);
  multiply_quads<2 * MR, 1>(space.q + 2 * first * quads, space.keys + column, KEYS, quads, ahead, sums);
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      F scale = mul(set1(space.q_scales[first + r]), load(space.key_scales + column + v * W));
      store(space.scores + r * KEYS + column + v * W, mul(HalfSums<MR, NV>::joined(sums, r, v), scale));
    }
}

// Scores of one query against the tile -> the weights of the values' bytes, and how its earlier sums must be corrected.
TW_INLINE void softmax_row_int8(const AttentionArgs& args, const Int8Space& space, int r, int64_t f,
                                const Visible& visible) {
  float *scores = space.scores + r * KEYS, &weight_sum = space.weight_sums[f];
  float reference = next_reference(scale_scores(args, scores, visible.low, visible.high), space.most[f],
                                   space.correction[r]);
  F sum = zero(), largest = zero();
  for (int i = 0; i < KEYS; i += W) {
    F weight = exp2_(sub(load(scores + i), set1(reference))), scaled = mul(weight, load(space.value_scales + i));
    sum = fma(scaled, zero(), add(sum, weight));  // a scale that is not finite makes the sum so
    store(scores + i, scaled);
    largest = vmax(largest, scaled);
  }
  weight_sum = weight_sum * space.correction[r] + sum_lanes(sum);
  float most = max_lanes(largest);
  F inverse = set1(most > 1e-30f ? MOST / most : 0.0f);
  int8_t halves[2][KEYS];
  for (int i = 0; i < KEYS; i += W) store_halves(halves[0] + i, halves[1] + i, mul(load(scores + i), inverse));
  for (int half = 0; half < 2; half++) {
    for (int quad = 0; quad < KEY_QUADS; quad++)
      space.weights[(2 * r + half) * KEY_QUADS + quad] = row_quad(halves[half] + quad * 4);
    space.weight_zeros[2 * r + half] = zero_of(halves[half], KEYS);
  }
  space.weight_scales[r] = most / MOST;
}

// Adds the weighted values of a tile to the corrected sums of MR queries, NV vectors of numbers at once.
template <int MR, int NV>
TW_INLINE void weigh_int8(const Int8Space& space, int64_t first, int64_t column, int64_t padded, RowsAhead& ahead) {
  HalfSums<MR, NV> sums;
  HalfSums<MR, NV>::start(sums, space.weight_zeros);
  multiply_quads<1, KEY_QUADS>(space.weights, space.values + column, padded, KEY_QUADS, ahead, sums);
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      float* out = space.sums + (first + r) * padded + column + v * W;
      F before = mul(load(out), set1(space.correction[r]));
      store(out, fma(HalfSums<MR, NV>::joined(sums, r, v), set1(space.weight_scales[r]), before));
    }
}

// MR queries, from number `first` of the unit on, against one tile of keys and values.
template <int MR>
static __attribute__((noinline)) void attend_tile_int8(const AttentionArgs& args, const QueryUnit& unit,
                                                       const Int8Space& space, const Places<uint8_t>&, int64_t first,
                                                       int64_t base, RowsAhead& ahead) {
  constexpr int WIDE = wide_vecs(2 * MR), SCORED = WIDE * W < KEYS ? WIDE : KEYS / W;
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, quads = (args.head_dim + 3) / 4, column = 0;
  ahead.phase((quads + 3) / 4 * (KEYS / (SCORED * W)));
  for (int key = 0; key < KEYS; key += SCORED * W) score_int8<MR, SCORED>(args, space, first, key, ahead);
  for (int r = 0; r < MR; r++)
    softmax_row_int8(args, space, r, first + r, Visible(args, unit, first + r, base));
  ahead.phase(KEY_QUADS / 4 * ((padded + WIDE * W - 1) / (WIDE * W)));
  for (; column + WIDE * W <= padded; column += WIDE * W) weigh_int8<MR, WIDE>(space, first, column, padded, ahead);
  for (; column < padded; column += TILE_COLUMNS) weigh_int8<MR, TILE_VECS>(space, first, column, padded, ahead);
}

template <class E>
struct Int8Pages {
  typedef E Out;
  typedef uint8_t Number;
  typedef Int8Space Space;
  using Tile = void (*)(const AttentionArgs&, const QueryUnit&, const Space&, const Places<Number>&, int64_t, int64_t,
                        RowsAhead&);
  static constexpr int ROWS = TILE_ROWS / 2;

  static int row_bytes(int head_dim) { return head_dim + PAGE_SCALE_BYTES; }

  static Tile tile(int height) {
    static const Tile tiles[] = {
        attend_tile_int8<1>, attend_tile_int8<2>,
#if TW_LEVEL >= 3
        attend_tile_int8<3>, attend_tile_int8<4>, attend_tile_int8<5>, attend_tile_int8<6>,
#endif
    };
    return tiles[height - 1];
  }

  static void load_tile(const AttentionArgs& args, const QueryUnit&, const Places<Number>& places, RowsAhead& ahead,
                        const Space& space) {
    int head_dim = args.head_dim;
    load_keys(places.keys, ahead, head_dim, space.keys);
    load_scales(places.keys, head_dim, space.key_scales);
    load_values(places.values, ahead, head_dim, space.values);
    load_scales(places.values, head_dim, space.value_scales);
  }

  // A query as row r of a tile of `height` rows, whose first is query number `first`.
  static void gather_query(const typename E::T* q, int head_dim, int height, int r, int64_t first, const Space& space) {
    int quads = (head_dim + 3) / 4;
    float most = largest_number<E>(q, head_dim);
    F inverse = set1(most > 1e-30f ? MOST / most : 0.0f);
    int8_t halves[2][MAX_HEAD_DIM + W];
    memset(halves, 0, sizeof halves);
    for (int d = 0; d < head_dim; d += W) {
      F x = mul(E::load_n(q + d, head_dim - d < W ? head_dim - d : W), inverse);
      store_halves(halves[0] + d, halves[1] + d, x);
    }
    for (int half = 0; half < 2; half++) {
      for (int quad = 0; quad < quads; quad++)
        space.q[2 * first * quads + 2 * (quad * height + r) + half] = row_quad(halves[half] + quad * 4);
      space.q_zeros[2 * (first + r) + half] = zero_of(halves[half], quads * 4);
    }
    space.q_scales[first + r] = most / MOST;
  }
};

}  // namespace
