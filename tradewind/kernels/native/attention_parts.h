// What all attention over paged keys and values shares: its arguments, its queries, where keys and values lie, and the
// sums of an online softmax.
#pragma once

#include <omp.h>

#include "tile.h"

namespace {

constexpr int KEYS = 64, SPLIT = 1024;
constexpr int QUERIES = 48;  // query heads of one key-value head that are worked on together
constexpr int MAX_HEAD_DIM = 256;
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

// The sums of some queries: of the split that is being computed, and of all splits so far.
struct RunningSums {
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
  void lay_out_sums(uintptr_t& at, int head_dim) {
    size_t padded = (size_t)(head_dim + PANEL - 1) / PANEL * PANEL;
    place(scores, at, TILE_ROWS * KEYS);
    place(sums, at, QUERIES * padded);
    place(totals, at, QUERIES * padded);
    place(most, at, QUERIES);
    place(weight_sums, at, QUERIES);
    place(total_most, at, QUERIES);
    place(total_weights, at, QUERIES);
    place(correction, at, TILE_ROWS);
  }
};

// The keys or values of one key-value head of one row.
template <class T>
struct Pages {
  const T* base;
  const int32_t* table;
  int64_t block_stride, token_stride;
  int block_tokens;
  const T* at(int64_t position) const {
    return base + table[position / block_tokens] * block_stride + position % block_tokens * token_stride;
  }
};

template <class T>
static Pages<T> pages_of(const AttentionArgs& args, const void* pages, int64_t row, int64_t kv_head) {
  return {(const T*)pages + kv_head * args.head_stride, args.tables + row * args.table_stride,
          args.block_stride, args.token_stride, args.block_tokens};
}

// Pointers to the places of the positions base .. base + KEYS, null outside [low, high].
template <class T>
static void find_places(const Pages<T>& pages, int64_t base, int64_t low, int64_t high, const T** places) {
  int64_t position = base, end = base + KEYS;
  for (; position < end && position < low; position++) *places++ = nullptr;
  while (position < end && position <= high) {
    const T* place = pages.at(position);
    int64_t last = position / pages.block_tokens * pages.block_tokens + pages.block_tokens;
    for (; position < last && position < end && position <= high; position++, place += pages.token_stride)
      *places++ = place;
  }
  for (; position < end; position++) *places++ = nullptr;
}

// Where the keys and values of a tile lie.
template <class T>
struct Places {
  const T *keys[KEYS], *values[KEYS];
};

template <class T>
static void find_tile(const AttentionArgs& args, const QueryUnit& unit, int64_t base, Places<T>& places) {
  find_places(pages_of<T>(args, args.k_pages, unit.row, unit.kv_head), base, unit.low, unit.high, places.keys);
  find_places(pages_of<T>(args, args.v_pages, unit.row, unit.kv_head), base, unit.low, unit.high, places.values);
}

// Asks memory for the rows of the following tile, a few at a time, so that fetching and computing overlap. A tile is
// computed in four phases, and each asks for a quarter. Rows of several pages come in turns (see LinesAhead).
struct RowsAhead {
  static constexpr int STREAMS = 8, PLACES = 2 * KEYS;
  const char* const* places;  // of keys, then of values
  int row_bytes, rows, asked;  // rows: at each call
  TW_INLINE void ask(RowsAhead& self) {
    for (int i = 0; i < self.rows && self.asked < PLACES; i++, self.asked++) {
      const char* place = self.places[self.asked % STREAMS * (PLACES / STREAMS) + self.asked / STREAMS];
      for (int byte = 0; place && byte < self.row_bytes; byte += 64) __builtin_prefetch(place + byte, 0, 2);
    }
  }
  void phase(int64_t calls) { rows = (int)((KEYS / 2 + calls - 1) / calls); }
};

// How many vectors of columns a tile of MR rows takes at once: few rows need many to keep the multipliers busy.
#if TW_LEVEL >= 3
constexpr int wide_vecs(int rows) { return rows <= 3 ? 8 : (rows <= 6 ? 4 : 2); }
#else
constexpr int wide_vecs(int) { return TILE_VECS; }
#endif

// Products of one query and the tile's keys -> scores in units of log 2, -infinity outside [low, high] of the tile's
// keys. Gives the largest.
TW_INLINE float scale_scores(const AttentionArgs& args, float* scores, int64_t low, int64_t high) {
  F largest = set1(-INFINITY);
  float before = args.softcap != 0 ? args.scale / args.softcap : args.scale * LOG2_E;
  for (int i = 0; i < KEYS; i += W) {
    F x = mul(load(scores + i), set1(before));
    if (args.softcap != 0) x = mul(tanh_(x), set1(args.softcap * LOG2_E));
    if (low > 0 || high < KEYS - 1) x = keep_lanes(x, (int)low - i, (int)high + 1 - i);
    store(scores + i, x);
    largest = vmax(largest, x);
  }
  return max_lanes(largest);
}

// A query's largest score so far, and what its earlier sums are to be multiplied with now that the tile's largest is
// known. Gives what is taken off scores before they become weights.
TW_INLINE float next_reference(float tile_most, float& most, float& correction) {
  float now = tile_most > most ? tile_most : most;
  float reference = now == -INFINITY ? 0.0f : now;
  float lanes[W];
  store(lanes, exp2_(set1(most - reference)));
  correction = lanes[0];
  most = now;
  return reference;
}

// Which keys of the tile from `base` on a query may see: [low, high] of 0 .. KEYS - 1, empty if low > high.
struct Visible {
  int64_t low, high;
  Visible(const AttentionArgs& args, const QueryUnit& unit, int64_t f, int64_t base) {
    int64_t position = unit.position(args, unit.first + f);
    low = QueryUnit::lowest(args, position) - base;
    high = position - base;
    low = low < KEYS ? low : KEYS;
    high = high < KEYS ? (high < -1 ? -1 : high) : KEYS;
  }
};

}  // namespace
