// Attention over pages of the activations' own type. M is the type that products are computed in: E itself, or float32 for
// float16 pages.
#pragma once

#include "attention_parts.h"

namespace {

template <class M>
struct DenseSpace : RunningSums {
  typename M::A* q;         // [tile][step of head_dim][row of the tile]
  typename M::Unit* keys;   // [step of head_dim][KEYS]
  typename M::Unit* values; // [step of keys][padded head_dim]
  typename M::A* weights;   // [row of the tile][step of keys]

  // Divides memory from `at` on, and returns its end.
  uintptr_t lay_out(uintptr_t at, int head_dim) {
    size_t padded = (size_t)(head_dim + PANEL - 1) / PANEL * PANEL, steps = (head_dim + M::STEP - 1) / M::STEP;
    lay_out_sums(at, head_dim);
    place(q, at, QUERIES * steps);
    place(keys, at, KEYS * steps);
    place(values, at, padded * (KEYS / M::STEP));
    place(weights, at, TILE_ROWS * (KEYS / M::STEP));
    return at;
  }
};

// Keys, so that all of them lie side by side for each step of head_dim.
template <class E, class M>
static void load_keys(const typename E::T* const* places, RowsAhead& ahead, int head_dim, typename M::Unit* keys) {
  int64_t steps = (head_dim + M::STEP - 1) / M::STEP;
  ahead.phase((steps + 15) / 16 * (KEYS / 16));
  for (int first = 0; first < KEYS; first += 16) {
    const uint32_t* rows[16];
    float widened[sizeof(typename E::Unit) == 4 ? 1 : 16][MAX_HEAD_DIM];  // float16 is made float32 here
    for (int i = 0; i < 16; i++) {
      rows[i] = (const uint32_t*)places[first + i];
      if constexpr (sizeof(typename E::Unit) != 4) {
        if (!rows[i]) continue;
        for (int d = 0; d < head_dim; d += W) {
          int n = head_dim - d < W ? head_dim - d : W;
          store_n(widened[i] + d, E::load_n(places[first + i] + d, n), n);
        }
        rows[i] = (const uint32_t*)widened[i];
      }
    }
    for (int64_t from = 0; from < steps; from += 16) {
      RowsAhead::ask(ahead);
      transpose_16<KEYS>(rows, from, steps - from, keys + from * KEYS + first);
    }
  }
}

// n <= PANEL numbers of one step of keys, from number d on: of two keys for bf16, of one for the others. The rest of the
// panel is zero.
template <class E, class M>
TW_INLINE void load_value_step(const typename E::T* const* places, int d, int n, typename M::Unit* out) {
  if constexpr (M::STEP == 1) {
    for (int i = 0; i < PANEL; i += W) {
      int left = n - i < 0 ? 0 : (n - i < W ? n - i : W);
      store((float*)out + i, places[0] ? E::load_n(places[0] + d + i, left) : zero());
    }
  } else {
#if TW_LEVEL >= 3
    const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    __mmask32 part = n >= 32 ? 0xffffffffu : (1u << n) - 1;
    __m512i even = places[0] ? _mm512_maskz_loadu_epi16(part, places[0] + d) : _mm512_setzero_si512();
    __m512i odd = places[1] ? _mm512_maskz_loadu_epi16(part, places[1] + d) : _mm512_setzero_si512();
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, order, odd));
    __m512i upper = _mm512_add_epi16(order, _mm512_set1_epi16(16));
    _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(even, upper, odd));
#else
    for (int i = 0; i < PANEL; i++) {
      uint32_t low = i < n && places[0] ? places[0][d + i] : 0, high = i < n && places[1] ? places[1][d + i] : 0;
      out[i] = low | high << 16;
    }
#endif
  }
}

template <class E, class M>
static void load_values(const typename E::T* const* places, RowsAhead& ahead, int head_dim,
                        typename M::Unit* values) {
  ahead.phase(KEYS / M::STEP);
  for (int key = 0; key < KEYS; key += M::STEP) {
    RowsAhead::ask(ahead);
    for (int d = 0; d < head_dim; d += PANEL, values += PANEL)
      load_value_step<E, M>(places + key, d, head_dim - d < PANEL ? head_dim - d : PANEL, values);
  }
}

// Scores of one query against the tile -> its weights, and how its earlier sums must be corrected.
template <class M>
TW_INLINE void softmax_row(const AttentionArgs& args, float* scores, const Visible& visible, typename M::A* weights,
                           float& most, float& weight_sum, float& correction) {
  float reference = next_reference(scale_scores(args, scores, visible.low, visible.high), most, correction);
  F sum = zero();
  for (int i = 0; i < KEYS; i += W)
    sum = add(sum, M::store_a(weights, i, exp2_(sub(load(scores + i), set1(reference)))));
  weight_sum = weight_sum * correction + sum_lanes(sum);
}

// Scores of MR queries against NV vectors of keys.
template <class M, int MR, int NV>
TW_INLINE void score(const AttentionArgs& args, const DenseSpace<M>& space, int64_t first, int column,
                     RowsAhead& ahead) {
  int64_t steps = (args.head_dim + M::STEP - 1) / M::STEP;
  Sums<MR, NV> sums;
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) sums.at[r][v] = zero();
  const char* keys = (const char*)(space.keys + column);
  multiply<M, MR, 1>(space.q + first * steps, keys, KEYS * sizeof(typename M::Unit), steps, ahead, sums);
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(space.scores + r * KEYS + column + v * W, sums.at[r][v]);
}

// Adds the weighted values of a tile to the corrected sums of MR queries, NV vectors of numbers at once.
template <class M, int MR, int NV>
TW_INLINE void weigh(const DenseSpace<M>& space, int64_t first, int64_t column, int64_t padded,
                     RowsAhead& ahead) {
  constexpr int STEPS = KEYS / M::STEP;
  float* out = space.sums + first * padded + column;
  Sums<MR, NV> sums;
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) sums.at[r][v] = mul(load(out + r * padded + v * W), set1(space.correction[r]));
  const char* values = (const char*)(space.values + column);
  multiply<M, 1, STEPS>(space.weights, values, padded * sizeof(typename M::Unit), STEPS, ahead, sums);
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(out + r * padded + v * W, sums.at[r][v]);
}

#if TW_LEVEL == 3 || TW_LEVEL == 4
// Up to this many queries take values from where they lie: bringing pairs of keys together would cost more than it saves.
constexpr int DIRECT_QUERIES = 3;
#else
constexpr int DIRECT_QUERIES = 0;  // the dot product wants pairs of keys
#endif

template <class M>
TW_INLINE bool weighs_directly(const AttentionArgs& args, const QueryUnit& unit) {
  return M::STEP == 2 && unit.last - unit.first <= DIRECT_QUERIES && args.head_dim % (2 * W) == 0;
}

#if TW_LEVEL == 3 || TW_LEVEL == 4
// As `weigh`, for 2 * W * NV numbers, with the same sums in the same order. A register holds every other number.
template <int MR, int NV>
TW_INLINE void weigh_directly(const DenseSpace<Bf16>& space, const uint16_t* const* places, int64_t column,
                              int64_t padded, RowsAhead& ahead) {
  static const uint16_t nothing[MAX_HEAD_DIM] = {0};
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  const __m512i lower = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
  F even[MR][NV], odd[MR][NV];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      const float* before = space.sums + r * padded + column + v * 2 * W;
      F low = mul(load(before), set1(space.correction[r])), high = mul(load(before + W), set1(space.correction[r]));
      even[r][v] = _mm512_permutex2var_ps(low, evens, high);
      odd[r][v] = _mm512_permutex2var_ps(low, odds, high);
    }
  for (int key = 0; key < KEYS; key += 2) {
    if (key % 8 == 0) RowsAhead::ask(ahead);
#pragma GCC unroll 2
    for (int second = 1; second >= 0; second--) {  // the order of Bf16::mac
      const uint16_t* place = places[key + second] ? places[key + second] : nothing;
      Bf16::B numbers[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) numbers[v] = Bf16::load_b((const char*)(place + column + v * 2 * W));
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) {
        const Bf16::A& pair = space.weights[r * (KEYS / 2) + key / 2];
        F weight = set1(second ? pair.odd : pair.even);
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) {
          even[r][v] = fma(weight, numbers[v].even, even[r][v]);
          odd[r][v] = fma(weight, numbers[v].odd, odd[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      float* out = space.sums + r * padded + column + v * 2 * W;
      store(out, _mm512_permutex2var_ps(even[r][v], lower, odd[r][v]));
      store(out + W, _mm512_permutex2var_ps(even[r][v], upper, odd[r][v]));
    }
}
#endif

// MR queries, from number `first` of the unit on, against one tile of keys and values.
template <class M, int MR, class T>
static __attribute__((noinline)) void attend_tile(const AttentionArgs& args, const QueryUnit& unit,
                                                  const DenseSpace<M>& space, const Places<T>& places, int64_t first,
                                                  int64_t base, RowsAhead& ahead) {
  constexpr int STEPS = KEYS / M::STEP, WIDE = wide_vecs(MR);
  constexpr int SCORED = WIDE * W < KEYS ? WIDE : KEYS / W;
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, column = 0;
  int64_t steps = (args.head_dim + M::STEP - 1) / M::STEP;
  ahead.phase((steps + 3) / 4 * (KEYS / (SCORED * W)));
  for (int key = 0; key < KEYS; key += SCORED * W) score<M, MR, SCORED>(args, space, first, key, ahead);
  for (int r = 0; r < MR; r++) {
    int64_t f = first + r;
    softmax_row<M>(args, space.scores + r * KEYS, Visible(args, unit, f, base), space.weights + r * STEPS,
                   space.most[f], space.weight_sums[f], space.correction[r]);
  }
  int64_t calls = STEPS / 4 * ((padded + WIDE * W - 1) / (WIDE * W));
  ahead.phase(calls);
#if TW_LEVEL == 3 || TW_LEVEL == 4
  if constexpr (M::STEP == 2 && MR <= DIRECT_QUERIES)
    if (weighs_directly<M>(args, unit)) {
      ahead.phase((calls + 1) / 2);  // the quarter that load_values would have asked for, too
      for (; column + 8 * W <= padded; column += 8 * W) weigh_directly<MR, 4>(space, places.values, column, padded, ahead);
      for (; column < padded; column += 2 * W) weigh_directly<MR, 1>(space, places.values, column, padded, ahead);
      return;
    }
#endif
  (void)places;
  for (; column + WIDE * W <= padded; column += WIDE * W) weigh<M, MR, WIDE>(space, first, column, padded, ahead);
  for (; column < padded; column += TILE_COLUMNS) weigh<M, MR, TILE_VECS>(space, first, column, padded, ahead);
}

template <class E, class M>
struct DensePages {
  typedef E Out;
  typedef typename E::T Number;
  typedef DenseSpace<M> Space;
  using Tile = void (*)(const AttentionArgs&, const QueryUnit&, const Space&, const Places<Number>&, int64_t, int64_t,
                        RowsAhead&);
  static constexpr int ROWS = TILE_ROWS;

  static int row_bytes(int head_dim) { return head_dim * (int)sizeof(Number); }

  static Tile tile(int height) {
    static const Tile tiles[] = {
        attend_tile<M, 1, Number>,  attend_tile<M, 2, Number>,  attend_tile<M, 3, Number>,
        attend_tile<M, 4, Number>,
#if TW_LEVEL >= 3
        attend_tile<M, 5, Number>,  attend_tile<M, 6, Number>,  attend_tile<M, 7, Number>,
        attend_tile<M, 8, Number>,  attend_tile<M, 9, Number>,  attend_tile<M, 10, Number>,
        attend_tile<M, 11, Number>, attend_tile<M, 12, Number>,
#endif
    };
    return tiles[height - 1];
  }

  static void load_tile(const AttentionArgs& args, const QueryUnit& unit, const Places<Number>& places,
                        RowsAhead& ahead, const Space& space) {
    load_keys<E, M>(places.keys, ahead, args.head_dim, space.keys);
    if (!weighs_directly<M>(args, unit)) load_values<E, M>(places.values, ahead, args.head_dim, space.values);
  }

  // A query as row r of a tile of `height` rows, whose first is query number `first`.
  static void gather_query(const typename E::T* q, int head_dim, int height, int r, int64_t first, const Space& space) {
    int64_t steps = (head_dim + M::STEP - 1) / M::STEP;
    typename M::A* out = space.q + first * steps;
    for (int64_t step = 0; step < steps; step++)
      out[step * height + r] = E::row_step(q + step * M::STEP, head_dim - step * M::STEP);
  }
};

}  // namespace
