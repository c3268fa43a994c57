// Causal attention over paged keys and values, with an online softmax.
//
// Exactness: keys are taken in tiles of KEYS at fixed positions of the sequence, and tiles in splits of SPLIT keys. Each
// split starts from nothing, and splits are merged in order. So a query's result depends on its own sequence alone: not
// on which queries share the tile, nor on how the splits fell to threads. A key that a query may not see enters with
// weight zero, which changes no bit of a sum.
#pragma once

#include <omp.h>

#include "tile.h"

namespace {

constexpr int KEYS = 64, SPLIT = 1024;
constexpr int QUERIES = 48;  // query heads of one key-value head that are worked on together
constexpr float LOG2_E = 1.44269504f;

struct AttentionArgs {
  const void* q;
  int64_t q_stride;
  const void *k_pages, *v_pages;
  int64_t block_stride, head_stride, token_stride;
  const int32_t *query_starts, *context_lens, *tables;
  int64_t table_stride, rows;
  void* out;
  int heads, kv_heads, head_dim, block_tokens;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
};

// Some queries of one row and one key-value head. Query f of `first` <= f < `last` is head f % group of token f / group.
struct QueryUnit {
  int64_t row, kv_head, first, last;
  int64_t low, high;  // positions that any of them may see: [low, high]
  int64_t position(const AttentionArgs& args, int64_t f) const {
    int64_t tokens = args.query_starts[row + 1] - args.query_starts[row];
    return args.context_lens[row] - tokens + f / (args.heads / args.kv_heads);
  }
  static int64_t lowest(const AttentionArgs& args, int64_t position) {
    return args.window && position >= args.window ? position - args.window + 1 : 0;
  }
};

// M is the type that products are computed in: E itself, or float32 for float16 pages.
template <class M>
struct AttentionSpace {
  typename M::A* q;           // [tile][step of head_dim][row of the tile]
  typename M::Unit* keys;     // [step of head_dim][KEYS]
  typename M::Unit* values;   // [step of keys][padded head_dim]
  typename M::A* weights;     // [row of the tile][step of keys]
  float* scores;              // [row of the tile][KEYS]
  float *sums, *totals;       // [query][padded head_dim]: of this split, of all so far
  float *most, *weight_sums;  // [query], of this split: largest score, sum of weights
  float *total_most, *total_weights;
  float* correction;  // [row of the tile]

  static size_t align(size_t bytes) { return (bytes + 63) / 64 * 64; }
  template <class P>
  static void place(P*& part, uintptr_t& at, size_t count) {
    part = (P*)at;
    at += align(count * sizeof(P));
  }
  // Divides memory from `at` on, and returns its end.
  uintptr_t lay_out(uintptr_t at, int head_dim) {
    size_t padded = (size_t)(head_dim + PANEL - 1) / PANEL * PANEL, steps = (head_dim + M::STEP - 1) / M::STEP;
    place(q, at, QUERIES * steps);
    place(keys, at, KEYS * steps);
    place(values, at, padded * (KEYS / M::STEP));
    place(weights, at, TILE_ROWS * (KEYS / M::STEP));
    place(scores, at, TILE_ROWS * KEYS);
    place(sums, at, QUERIES * padded);
    place(totals, at, QUERIES * padded);
    place(most, at, QUERIES);
    place(weight_sums, at, QUERIES);
    place(total_most, at, QUERIES);
    place(total_weights, at, QUERIES);
    place(correction, at, QUERIES);
    return at;
  }
};

// The keys or values of one key-value head of one row.
template <class E>
struct Pages {
  const typename E::T* base;
  const int32_t* table;
  int64_t block_stride, token_stride;
  int block_tokens;
  const typename E::T* at(int64_t position) const {
    return base + table[position / block_tokens] * block_stride + position % block_tokens * token_stride;
  }
};

template <class E>
static Pages<E> pages_of(const AttentionArgs& args, const void* pages, int64_t row, int64_t kv_head) {
  return {(const typename E::T*)pages + kv_head * args.head_stride, args.tables + row * args.table_stride,
          args.block_stride, args.token_stride, args.block_tokens};
}

// Pointers to the places of the positions base .. base + KEYS, null outside [low, high].
template <class E>
static void find_places(const Pages<E>& pages, int64_t base, int64_t low, int64_t high, const typename E::T** places) {
  int64_t position = base, end = base + KEYS;
  for (; position < end && position < low; position++) *places++ = nullptr;
  while (position < end && position <= high) {
    const typename E::T* place = pages.at(position);
    int64_t last = position / pages.block_tokens * pages.block_tokens + pages.block_tokens;
    for (; position < last && position < end && position <= high; position++, place += pages.token_stride)
      *places++ = place;
  }
  for (; position < end; position++) *places++ = nullptr;
}

// Where the keys and values of a tile lie.
template <class E>
struct Places {
  const typename E::T *keys[KEYS], *values[KEYS];
};

template <class E>
static void find_tile(const AttentionArgs& args, const QueryUnit& unit, int64_t base, Places<E>& places) {
  find_places(pages_of<E>(args, args.k_pages, unit.row, unit.kv_head), base, unit.low, unit.high, places.keys);
  find_places(pages_of<E>(args, args.v_pages, unit.row, unit.kv_head), base, unit.low, unit.high, places.values);
}

// Asks memory for the rows of the following tile, a few at a time, so that fetching and computing overlap. A tile is
// computed in four phases, and each asks for a quarter.
struct RowsAhead {
  const char* const* next;
  const char* const* end;
  int row_bytes, rows;  // rows: at each call
  TW_INLINE void ask(RowsAhead& self) {
    for (int i = 0; i < self.rows && self.next < self.end; i++, self.next++)
      for (int byte = 0; *self.next && byte < self.row_bytes; byte += 64)
        __builtin_prefetch(*self.next + byte, 0, 2);
  }
  void phase(int64_t calls) { rows = (int)((KEYS / 2 + calls - 1) / calls); }
};

// Keys, so that all of them lie side by side for each step of head_dim.
template <class E, class M>
static void load_keys(const typename E::T* const* places, RowsAhead& ahead, int head_dim, typename M::Unit* keys) {
  int64_t steps = (head_dim + M::STEP - 1) / M::STEP;
  ahead.phase((steps + 15) / 16 * (KEYS / 16));
  for (int first = 0; first < KEYS; first += 16) {
    const uint32_t* rows[16];
    float widened[sizeof(typename E::Unit) == 4 ? 1 : 16][256];  // float16 is made float32 here
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
TW_INLINE void softmax_row(const AttentionArgs& args, float* scores, int64_t low, int64_t high, typename M::A* weights,
                           float& most, float& weight_sum, float& correction) {
  F largest = set1(-INFINITY);
  float before = args.softcap != 0 ? args.scale / args.softcap : args.scale * LOG2_E;
  for (int i = 0; i < KEYS; i += W) {
    F x = mul(load(scores + i), set1(before));
    if (args.softcap != 0) x = mul(tanh_(x), set1(args.softcap * LOG2_E));
    if (low > 0 || high < KEYS - 1) x = keep_lanes(x, (int)low - i, (int)high + 1 - i);
    store(scores + i, x);
    largest = vmax(largest, x);
  }
  float tile_most = max_lanes(largest), now = tile_most > most ? tile_most : most;
  float reference = now == -INFINITY ? 0.0f : now;
  float lanes[W];
  store(lanes, exp2_(set1(most - reference)));
  F sum = zero();
  for (int i = 0; i < KEYS; i += W)
    sum = add(sum, M::store_a(weights, i, exp2_(sub(load(scores + i), set1(reference)))));
  correction = lanes[0];
  weight_sum = weight_sum * correction + sum_lanes(sum);
  most = now;
}

// How many vectors of columns a tile of MR rows takes at once: few rows need many to keep the multipliers busy.
#if TW_LEVEL >= 3
constexpr int wide_vecs(int rows) { return rows <= 3 ? 8 : (rows <= 6 ? 4 : 2); }
#else
constexpr int wide_vecs(int) { return TILE_VECS; }
#endif

// Scores of MR queries against NV vectors of keys.
template <class M, int MR, int NV>
TW_INLINE void score(const AttentionArgs& args, const AttentionSpace<M>& space, int64_t first, int column,
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
TW_INLINE void weigh(const AttentionSpace<M>& space, int64_t first, int64_t column, int64_t padded,
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

// MR queries, from number `first` of the unit on, against one tile of keys and values.
template <class M, int MR>
static __attribute__((noinline)) void attend_tile(const AttentionArgs& args, const QueryUnit& unit,
                                                  const AttentionSpace<M>& space, int64_t first, int64_t base,
                                                  RowsAhead& ahead) {
  constexpr int STEPS = KEYS / M::STEP, WIDE = wide_vecs(MR);
  constexpr int SCORED = WIDE * W < KEYS ? WIDE : KEYS / W;
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, column = 0;
  int64_t steps = (args.head_dim + M::STEP - 1) / M::STEP;
  ahead.phase((steps + 3) / 4 * (KEYS / (SCORED * W)));
  for (int key = 0; key < KEYS; key += SCORED * W) score<M, MR, SCORED>(args, space, first, key, ahead);
  for (int r = 0; r < MR; r++) {
    int64_t f = first + r, position = unit.position(args, unit.first + f);
    int64_t low = QueryUnit::lowest(args, position) - base, high = position - base;
    low = low < KEYS ? low : KEYS;
    high = high < KEYS ? (high < -1 ? -1 : high) : KEYS;
    softmax_row<M>(args, space.scores + r * KEYS, low, high, space.weights + r * STEPS, space.most[f],
                   space.weight_sums[f], space.correction[r]);
  }
  ahead.phase(STEPS / 4 * ((padded + WIDE * W - 1) / (WIDE * W)));
  for (; column + WIDE * W <= padded; column += WIDE * W) weigh<M, MR, WIDE>(space, first, column, padded, ahead);
  for (; column < padded; column += TILE_COLUMNS) weigh<M, MR, TILE_VECS>(space, first, column, padded, ahead);
}

template <class M>
using AttendTile = void (*)(const AttentionArgs&, const QueryUnit&, const AttentionSpace<M>&, int64_t, int64_t,
                            RowsAhead&);

template <class M>
static AttendTile<M> attend_tile_of(int height) {
  static const AttendTile<M> tiles[] = {
      attend_tile<M, 1>, attend_tile<M, 2>,  attend_tile<M, 3>,  attend_tile<M, 4>,
#if TW_LEVEL >= 3
      attend_tile<M, 5>, attend_tile<M, 6>,  attend_tile<M, 7>,  attend_tile<M, 8>,
      attend_tile<M, 9>, attend_tile<M, 10>, attend_tile<M, 11>, attend_tile<M, 12>,
#endif
  };
  return tiles[height - 1];
}

// The queries of a unit, as the tiles want them.
template <class E, class M>
static void gather_queries(const AttentionArgs& args, const QueryUnit& unit, const AttentionSpace<M>& space) {
  int64_t steps = (args.head_dim + M::STEP - 1) / M::STEP, group = args.heads / args.kv_heads;
  Heights heights(unit.last - unit.first);
  for (int64_t tile = 0; tile < heights.tiles; tile++) {
    int height = heights.height(tile);
    typename M::A* out = space.q + heights.first(tile) * steps;
    for (int r = 0; r < height; r++) {
      int64_t f = unit.first + heights.first(tile) + r, token = args.query_starts[unit.row] + f / group;
      const typename E::T* q = (const typename E::T*)args.q + token * args.q_stride +
                               (unit.kv_head * group + f % group) * args.head_dim;
      for (int64_t step = 0; step < steps; step++)
        out[step * height + r] = E::row_step(q + step * M::STEP, args.head_dim - step * M::STEP);
    }
  }
}

// One split of a unit: leaves sums, most and weight_sums in the space. `following`: whose first tile is wanted next, or
// null.
template <class E, class M>
static void attend_split(const AttentionArgs& args, const QueryUnit& unit, const AttentionSpace<M>& space,
                         int64_t split, const QueryUnit* following) {
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, queries = unit.last - unit.first;
  memset(space.sums, 0, sizeof(float) * queries * padded);
  memset(space.weight_sums, 0, sizeof(float) * queries);
  for (int64_t f = 0; f < queries; f++) space.most[f] = -INFINITY;
  int64_t base = unit.low / KEYS * KEYS, end = (split + 1) * SPLIT;
  if (base < split * SPLIT) base = split * SPLIT;
  if (end > unit.high + 1) end = unit.high + 1;
  Places<E> places[2];
  find_tile(args, unit, base, places[0]);
  Heights heights(queries);
  for (int now = 0; base < end; base += KEYS, now = 1 - now) {
    Places<E>& next = places[1 - now];
    if (base + KEYS <= unit.high || !following)
      find_tile(args, unit, base + KEYS, next);
    else
      find_tile(args, *following, following->low / KEYS * KEYS, next);
    RowsAhead ahead{(const char* const*)&next, (const char* const*)(&next + 1),
                    args.head_dim * (int)sizeof(typename E::T), 0};
    load_keys<E, M>(places[now].keys, ahead, args.head_dim, space.keys);
    load_values<E, M>(places[now].values, ahead, args.head_dim, space.values);
    for (int64_t tile = 0; tile < heights.tiles; tile++)
      attend_tile_of<M>(heights.height(tile))(args, unit, space, heights.first(tile), base, ahead);
  }
}

// totals <- totals merged with one split's sums. The first split meets totals of nothing and is taken over unchanged.
TW_INLINE void merge_split(float* totals, float& total_most, float& total_weights, const float* sums, float most,
                           float weights, int64_t padded) {
  float now = most > total_most ? most : total_most;
  if (now == -INFINITY) return;
  float lanes[W];
  store(lanes, exp2_(set1(total_most - now)));
  float keep = lanes[0];
  store(lanes, exp2_(set1(most - now)));
  float take = lanes[0];
  for (int64_t d = 0; d < padded; d += W)
    store(totals + d, fma(load(sums + d), set1(take), mul(load(totals + d), set1(keep))));
  total_weights = total_weights * keep + weights * take;
  total_most = now;
}

template <class E, class M>
static void start_totals(const AttentionArgs& args, const QueryUnit& unit, const AttentionSpace<M>& space) {
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, queries = unit.last - unit.first;
  memset(space.totals, 0, sizeof(float) * queries * padded);
  memset(space.total_weights, 0, sizeof(float) * queries);
  for (int64_t f = 0; f < queries; f++) space.total_most[f] = -INFINITY;
}

template <class E, class M>
static void write_out(const AttentionArgs& args, const QueryUnit& unit, const AttentionSpace<M>& space) {
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, group = args.heads / args.kv_heads;
  for (int64_t f = unit.first; f < unit.last; f++) {
    int64_t token = args.query_starts[unit.row] + f / group, head = unit.kv_head * group + f % group;
    typename E::T* out = (typename E::T*)args.out + (token * args.heads + head) * args.head_dim;
    const float* totals = space.totals + (f - unit.first) * padded;
    F scale = set1(1.0f / space.total_weights[f - unit.first]);
    for (int d = 0; d < args.head_dim; d += W) {
      int n = args.head_dim - d < W ? args.head_dim - d : W;
      E::store_n(out + d, mul(load(totals + d), scale), n);
    }
  }
}

// The step's units: row by row, key-value head by head.
struct Units {
  const AttentionArgs& args;
  int64_t* starts;  // number of the first unit of each row
  Units(const AttentionArgs& args_, int64_t* starts_) : args(args_), starts(starts_) {
    starts[0] = 0;
    for (int64_t row = 0; row < args.rows; row++) starts[row + 1] = starts[row] + args.kv_heads * pieces(row);
  }
  int64_t queries(int64_t row) const {
    return (int64_t)(args.query_starts[row + 1] - args.query_starts[row]) * (args.heads / args.kv_heads);
  }
  int64_t pieces(int64_t row) const { return (queries(row) + QUERIES - 1) / QUERIES; }
  int64_t count() const { return starts[args.rows]; }
  QueryUnit at(int64_t number) const {
    int64_t row = 0, beyond = args.rows;
    while (beyond - row > 1) {
      int64_t middle = (row + beyond) / 2;
      (starts[middle] <= number ? row : beyond) = middle;
    }
    int64_t piece = (number - starts[row]) % pieces(row), kv_head = (number - starts[row]) / pieces(row);
    QueryUnit unit{row, kv_head, queries(row) * piece / pieces(row), queries(row) * (piece + 1) / pieces(row), 0, 0};
    unit.low = QueryUnit::lowest(args, unit.position(args, unit.first));
    unit.high = unit.position(args, unit.last - 1);
    return unit;
  }
};

// A whole unit by one thread.
template <class E, class M>
static void attend_unit(const AttentionArgs& args, const Units& units, int64_t number,
                        const AttentionSpace<M>& space) {
  QueryUnit unit = units.at(number), following = units.at(number + 1 < units.count() ? number + 1 : number);
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL;
  gather_queries<E, M>(args, unit, space);
  start_totals<E, M>(args, unit, space);
  for (int64_t split = unit.low / SPLIT; split <= unit.high / SPLIT; split++) {
    attend_split<E, M>(args, unit, space, split, &following);
    for (int64_t f = 0; f < unit.last - unit.first; f++)
      merge_split(space.totals + f * padded, space.total_most[f], space.total_weights[f], space.sums + f * padded,
                  space.most[f], space.weight_sums[f], padded);
  }
  write_out<E, M>(args, unit, space);
}

// Partial results of all splits of all units, where there are too few units to keep the threads busy.
struct Partials {
  float* at;
  int64_t splits, padded;
  int64_t stride() const { return padded + 2; }
  size_t bytes(int64_t units) const { return sizeof(float) * units * splits * QUERIES * stride(); }
  float* of(int64_t unit, int64_t split) const { return at + (unit * splits + split) * QUERIES * stride(); }
};

template <class M>
static void keep_partial(const AttentionSpace<M>& space, int64_t queries, const Partials& partials, float* out) {
  for (int64_t f = 0; f < queries; f++, out += partials.stride()) {
    memcpy(out, space.sums + f * partials.padded, sizeof(float) * partials.padded);
    out[partials.padded] = space.most[f];
    out[partials.padded + 1] = space.weight_sums[f];
  }
}

template <class E, class M>
static void merge_partials(const AttentionArgs& args, const QueryUnit& unit, int64_t number,
                           const AttentionSpace<M>& space, const Partials& partials) {
  int64_t padded = partials.padded;
  start_totals<E, M>(args, unit, space);
  for (int64_t split = unit.low / SPLIT; split <= unit.high / SPLIT; split++) {
    const float* part = partials.of(number, split);
    for (int64_t f = 0; f < unit.last - unit.first; f++, part += partials.stride())
      merge_split(space.totals + f * padded, space.total_most[f], space.total_weights[f], part, part[padded],
                  part[padded + 1], padded);
  }
  write_out<E, M>(args, unit, space);
}

template <class E, class M>
static void attend_by_split(const AttentionArgs& args, const Units& units, int64_t number, int64_t split,
                            const AttentionSpace<M>& space, const Partials& partials) {
  QueryUnit unit = units.at(number);
  if (split < unit.low / SPLIT || split > unit.high / SPLIT) return;
  gather_queries<E, M>(args, unit, space);
  attend_split<E, M>(args, unit, space, split, nullptr);
  keep_partial(space, unit.last - unit.first, partials, partials.of(number, split));
}

template <class E, class M>
static void attention_of(const AttentionArgs& args, int64_t max_context, int threads) {
  static thread_local Scratch own, for_starts, for_partials;
  AttentionSpace<M> measure;
  size_t space_bytes = measure.lay_out(0, args.head_dim);
  Units units(args, (int64_t*)for_starts.get((args.rows + 1) * sizeof(int64_t)));
  int64_t count = units.count();
  Partials partials{nullptr, (max_context + SPLIT - 1) / SPLIT, (args.head_dim + PANEL - 1) / PANEL * PANEL};
  bool by_split = threads > 1 && partials.splits > 1 && count < 4 * threads;
  if (by_split) partials.at = (float*)for_partials.get(partials.bytes(count));
  threads = usable_threads(threads, by_split ? count * partials.splits : count);
  Shares work(by_split ? count * partials.splits : count, threads), merging(by_split ? count : 0, threads);
#pragma omp parallel num_threads(threads)
  {
    AttentionSpace<M> space;
    space.lay_out((uintptr_t)own.get(space_bytes), args.head_dim);
    int me = omp_get_thread_num();
    for (int64_t piece; (piece = work.take(me)) >= 0;) {
      if (by_split)
        attend_by_split<E, M>(args, units, piece / partials.splits, piece % partials.splits, space, partials);
      else
        attend_unit<E, M>(args, units, piece, space);
    }
#pragma omp barrier
    for (int64_t number; (number = merging.take(me)) >= 0;)
      merge_partials<E, M>(args, units.at(number), number, space, partials);
  }
}

}  // namespace
