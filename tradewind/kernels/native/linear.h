// y = x W^T + bias + residual. W is packed once: panels of 32 output columns; in a panel, step after step along k, the
// 32 columns side by side (bf16: pairs of k interleaved). Columns past N and the odd half of a last pair are zero.
#pragma once

#include <omp.h>

#include "tile.h"

namespace {

struct LinearArgs {
  const void* x;
  int64_t x_stride, rows, in_features;
  const void* weight;
  int64_t out_features;
  const void* bias;
  const void* residual;
  int64_t residual_stride;
  void* y;
  int64_t y_stride;
  bool y_is_float;
};

// Writes a tile's sums: bias and residual are added in float32 and the result rounded once.
template <class E, int MR>
TW_INLINE void finish_tile(const LinearArgs& args, const Sums<MR>& sums, int64_t row, int64_t column) {
  typedef typename E::T T;
  for (int v = 0; v < TILE_VECS; v++) {
    int64_t at = column + v * W, left = args.out_features - at;
    if (left <= 0) return;
    int n = left < W ? (int)left : W;
    F bias = args.bias ? E::load_n((const T*)args.bias + at, n) : zero();
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++) {
      F y = add(sums.at[r][v], bias);
      if (args.residual) y = add(y, E::load_n((const T*)args.residual + (row + r) * args.residual_stride + at, n));
      if (args.y_is_float)
        store_n((float*)args.y + (row + r) * args.y_stride + at, y, n);
      else
        E::store_n((T*)args.y + (row + r) * args.y_stride + at, y, n);
    }
  }
}

// Rows against the columns from `column` on, whose panel is at b.
template <class E, int MR>
static __attribute__((noinline)) void linear_tile(const LinearArgs& args, const typename E::A* a, int64_t row,
                                                  int64_t column, const char* b, LinesAhead ahead) {
  int64_t steps = (args.in_features + E::STEP - 1) / E::STEP;
  for (int part = 0; part < PANEL; part += TILE_COLUMNS) {
    Sums<MR> sums;
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
      for (int v = 0; v < TILE_VECS; v++) sums.at[r][v] = zero();
    constexpr int64_t UNIT_BYTES = sizeof(typename E::Unit);
    multiply<E, MR, 1>(a, b + part * UNIT_BYTES, PANEL * UNIT_BYTES, steps, ahead, sums);
    finish_tile<E, MR>(args, sums, row, column + part);
    ahead.each = 0;
  }
}

template <class E>
using LinearTile = void (*)(const LinearArgs&, const typename E::A*, int64_t, int64_t, const char*, LinesAhead);

template <class E>
static LinearTile<E> linear_tile_of(int height) {
  static const LinearTile<E> tiles[] = {
      linear_tile<E, 1>, linear_tile<E, 2>,  linear_tile<E, 3>,  linear_tile<E, 4>,
#if TW_LEVEL >= 3
      linear_tile<E, 5>, linear_tile<E, 6>,  linear_tile<E, 7>,  linear_tile<E, 8>,
      linear_tile<E, 9>, linear_tile<E, 10>, linear_tile<E, 11>, linear_tile<E, 12>,
#endif
  };
  return tiles[height - 1];
}

// The rows of one tile, step by step: out[step * height + r].
template <class E>
static void gather_rows(const LinearArgs& args, int64_t row, int height, typename E::A* out) {
  const typename E::T* x = (const typename E::T*)args.x + row * args.x_stride;
  int64_t k = args.in_features, steps = (k + E::STEP - 1) / E::STEP;
  for (int r = 0; r < height; r++) {
    const typename E::T* from = x + r * args.x_stride;
    for (int64_t step = 0; step < steps; step++)
      out[step * height + r] = E::row_step(from + step * E::STEP, k - step * E::STEP);
  }
}

// How many lines a tile asks for ahead per 4 steps, so that the tiles of a row block together fetch the next panel.
TW_INLINE int lines_ahead(int64_t tile, int64_t tiles, int panel_lines_per_4_steps) {
  int64_t sharing = 1;
  while (sharing * 2 <= tiles && sharing * 2 <= panel_lines_per_4_steps) sharing *= 2;
  return tile < sharing ? panel_lines_per_4_steps / (int)sharing : 0;
}

// A weight in panels of numbers, for linear_with.
template <class E>
struct NumberPanels {
  static const char* at(const LinearArgs& args, int64_t panel) {
    int64_t steps = (args.in_features + E::STEP - 1) / E::STEP;
    return (const char*)args.weight + panel * steps * PANEL * (int64_t)sizeof(typename E::Unit);
  }

  // `height` rows, already gathered, against one panel.
  static void tile(const LinearArgs& args, const typename E::A* a, int height, int64_t row, int64_t panel,
                   LinesAhead ahead) {
    linear_tile_of<E>(height)(args, a, row, panel * PANEL, at(args, panel), ahead);
  }

  // One block of rows, already gathered, against one panel.
  static void block(const LinearArgs& args, const typename E::A* a, const Heights& heights, int64_t from, int64_t to,
                    int64_t panel, int) {
    int64_t steps = (args.in_features + E::STEP - 1) / E::STEP;
    constexpr int LINES = PANEL * (int)sizeof(typename E::Unit) * 4 / 64;
    bool alone = to - from == 1;
    int64_t calls = alone ? CALLS_ALONE : (steps + 3) / 4;
    const char* next = alone ? at(args, panel) + calls * LINES * 64 : at(args, panel + 1);
    for (int64_t index = from; index < to; index++) {
      int lines = lines_ahead(index - from, to - from, LINES);
      int64_t row = heights.first(index);
      tile(args, a + row * steps, heights.height(index), row, panel, LinesAhead(next, lines, calls));
      next += lines * 64 * calls;
    }
  }
};

// At most this many rows at a time, so that the gathered rows stay small.
constexpr int64_t ROWS_AT_ONCE = 80 * TILE_ROWS;

template <class E, class Panels>
static void linear_rows(const LinearArgs& args, int threads, const Panels& weight, typename E::A* a) {
  int64_t steps = (args.in_features + E::STEP - 1) / E::STEP, panels = (args.out_features + PANEL - 1) / PANEL;
  Heights heights(args.rows);
  int64_t tile_bytes = TILE_ROWS * steps * (int64_t)sizeof(typename E::A);
  int64_t block_tiles = (512 << 10) / tile_bytes + 1;  // a block of rows stays in the second-level cache
  int64_t blocks = (heights.tiles + block_tiles - 1) / block_tiles;
  threads = usable_threads(threads, blocks * panels);
  Shares gathering(heights.tiles, threads), work(blocks * panels, threads);
#pragma omp parallel num_threads(threads)
  {
    int me = omp_get_thread_num();
    for (int64_t tile; (tile = gathering.take(me)) >= 0;)
      gather_rows<E>(args, heights.first(tile), heights.height(tile), a + heights.first(tile) * steps);
#pragma omp barrier
    for (int64_t piece; (piece = work.take(me)) >= 0;) {
      int64_t block = piece / panels, from = block * heights.tiles / blocks, to = (block + 1) * heights.tiles / blocks;
      weight.block(args, a, heights, from, to, piece % panels, me);
    }
  }
}

template <class E, class Panels>
static void linear_with(LinearArgs args, int threads, const Panels& weight) {
  static thread_local Scratch scratch;
  int64_t steps = (args.in_features + E::STEP - 1) / E::STEP, rows = args.rows;
  int64_t y_bytes = args.y_is_float ? 4 : (int64_t)sizeof(typename E::T), t_bytes = sizeof(typename E::T);
  int64_t most = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
  auto* a = (typename E::A*)scratch.get((size_t)(most * steps + 16) * sizeof(typename E::A));
  for (int64_t row = 0; row < rows; row += most) {
    args.rows = rows - row < most ? rows - row : most;
    linear_rows<E>(args, threads, weight, a);
    args.x = (const char*)args.x + args.rows * args.x_stride * t_bytes;
    args.y = (char*)args.y + args.rows * args.y_stride * y_bytes;
    if (args.residual) args.residual = (const char*)args.residual + args.rows * args.residual_stride * t_bytes;
  }
}

template <class E>
static void linear_of(const LinearArgs& args, int threads) {
  linear_with<E>(args, threads, NumberPanels<E>());
}

template <class E>
static void pack_panel(const typename E::T* weight, int64_t n, int64_t k, int64_t panel, typename E::Unit* out) {
  int64_t steps = (k + E::STEP - 1) / E::STEP;
  out += panel * steps * PANEL;
  for (int64_t column = 0; column < PANEL; column += 16) {
    const typename E::T* rows[16];
    for (int64_t i = 0; i < 16; i++) {
      int64_t row = panel * PANEL + column + i;
      rows[i] = row < n ? weight + row * k : nullptr;
    }
    int64_t done = 0;
    if constexpr (sizeof(typename E::Unit) == 4)
      for (; done + 16 <= k / E::STEP; done += 16)
        transpose_16<PANEL>((const uint32_t* const*)rows, done, 16, out + done * PANEL + column);
    for (; done < steps; done++)
      for (int64_t i = 0; i < 16; i++)
        out[done * PANEL + column + i] = rows[i] ? E::unit(rows[i] + done * E::STEP, k - done * E::STEP) : 0;
  }
}

template <class E>
static void pack_of(const void* weight, int64_t n, int64_t k, void* out, int threads) {
  int64_t panels = (n + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(usable_threads(threads, panels)) schedule(static)
  for (int64_t panel = 0; panel < panels; panel++)
    pack_panel<E>((const typename E::T*)weight, n, k, panel, (typename E::Unit*)out);
}

// Rows of a packed weight as they were before packing: the embedding of a model whose lm_head is its embedding.
template <class E>
static void unpack_rows_of(const void* packed, int64_t k, const void* ids, bool ids_are_64, int64_t count, void* out,
                           int threads) {
  typedef typename E::Unit Unit;
  int64_t steps = (k + E::STEP - 1) / E::STEP;
#pragma omp parallel for num_threads(usable_threads(threads, (count * k + 16383) / 16384)) schedule(static)
  for (int64_t i = 0; i < count; i++) {
    int64_t id = ids_are_64 ? ((const int64_t*)ids)[i] : ((const int32_t*)ids)[i];
    const Unit* from = (const Unit*)packed + id / PANEL * steps * PANEL + id % PANEL;
    typename E::T* to = (typename E::T*)out + i * k;
    for (int64_t j = 0; j < k; j++) to[j] = E::part(from[j / E::STEP * PANEL], (int)(j % E::STEP));
  }
}

}  // namespace
