// y = x W^T + bias + residual with 8- or 4-bit weights. The rows of x are quantised here, each by itself: 8 bits, one
// scale a row. Products are summed as integers, exactly.
//
// A weight is packed once: panels of 32 output columns, and in a panel k runs along memory.
//   8 bits: for each quad of k the 32 columns' quads side by side; then the columns' 32 scales (float32).
//   4 bits: for each group of k first the 32 columns' scales (bfloat16), then, for each 8 of k, the columns' units: the
//   low halves of a unit's bytes are the first quad, the high halves the second.
// A number is scale * (stored - ZERO). k is padded to a whole number of units, or of groups.
#pragma once

#include <utility>

#include "integers.h"
#include "linear.h"

namespace {

constexpr int UNIT_ROW = PANEL * 4;  // bytes of one row of units of a panel

struct Int8 {
  static constexpr int ZERO = 128, QUADS = 1;  // quads of a unit
  static constexpr bool GROUPED = false;
  static constexpr int ROWS = TILE_ROWS;
  static int64_t padded(int64_t k, int64_t) { return (k + 3) / 4 * 4; }
  static int64_t panel_bytes(int64_t k, int64_t group) { return padded(k, group) / 4 * UNIT_ROW + PANEL * 4; }
  static int64_t group_of(int64_t k, int64_t group) { return padded(k, group); }
};

struct Int4 {
  static constexpr int ZERO = 8, QUADS = 2;
  static constexpr bool GROUPED = true;
  static constexpr int ROWS = TILE_ROWS / 2;  // sums of a group, and sums of all groups
  static int64_t padded(int64_t k, int64_t group) { return (k + group - 1) / group * group; }
  static int64_t panel_bytes(int64_t k, int64_t group) {
    return padded(k, group) / group * (group / 8 * UNIT_ROW + PANEL * 2);
  }
  static int64_t group_of(int64_t, int64_t group) { return group; }
};

// The rows of x, quantised.
struct QuantisedRows {
  RowQuad* quads;  // [tile][quad][row of the tile]
  int32_t* zeros;  // [tile][group][row of the tile]: what the sum of a group starts from
  float* scales;   // [row]
};

template <class E, class Q>
static void quantise_rows(const LinearArgs& args, int64_t group, const Heights& heights, int64_t tile, int8_t* one,
                          const QuantisedRows& rows) {
  int64_t k = args.in_features, padded = Q::padded(k, group), quads = padded / 4, first = heights.first(tile);
  int64_t group_quads = Q::group_of(k, group) / 4;
  int height = heights.height(tile);
  RowQuad* out = rows.quads + first * quads;
  int32_t* zeros = rows.zeros + first * (quads / group_quads);
  for (int r = 0; r < height; r++) {
    const typename E::T* x = (const typename E::T*)args.x + (first + r) * args.x_stride;
    rows.scales[first + r] = quantise_row<E>(x, k, padded, one);
    for (int64_t quad = 0; quad < quads; quad++) out[quad * height + r] = row_quad(one + quad * 4);
    for (int64_t g = 0; g < quads / group_quads; g++) {
      int32_t sum = 0;
      for (int64_t i = 0; i < group_quads * 4; i++) sum += one[g * group_quads * 4 + i];
      zeros[g * height + r] = -Q::ZERO * sum;
    }
  }
}

template <class Q, int MR>
struct IntSums {
  V at[MR][TILE_VECS];
};

template <class Q, int MR>
TW_INLINE void start_sums(const int32_t* zeros, IntSums<Q, MR>& sums) {
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < TILE_VECS; v++) sums.at[r][v] = iset1(zeros[r]);
}

// sums += `units` rows of units of TILE_COLUMNS columns, at b, times MR rows.
template <class Q, int MR>
TW_INLINE void multiply_units(const RowQuad* a, const char* b, int64_t units, LinesAhead& ahead,
                              IntSums<Q, MR>& sums) {
  while (units > 0) {
    LinesAhead::ask(ahead);
    int64_t some = units < 4 ? units : 4;
    for (int64_t unit = 0; unit < some; unit++, b += UNIT_ROW, a += MR * Q::QUADS) {
#pragma GCC unroll 2
      for (int half = 0; half < Q::QUADS; half++) {
        Quads columns[TILE_VECS];
#pragma GCC unroll 16
        for (int v = 0; v < TILE_VECS; v++) {
          V bytes = iload(b + v * W * 4);
          columns[v] = quads(Q::QUADS == 1 ? bytes : (half ? high_nibbles(bytes) : low_nibbles(bytes)));
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
          for (int v = 0; v < TILE_VECS; v++) sums.at[r][v] = mac(sums.at[r][v], a + half * MR + r, columns[v]);
      }
    }
    units -= some;
  }
}

// MR rows against TILE_COLUMNS columns of a panel: out[r * PANEL + column], without bias and residual.
template <class Q, int MR>
TW_INLINE void quantised_columns(const RowQuad* a, const int32_t* zeros, const float* row_scales, const char* b,
                                 int64_t k, int64_t group, int part, LinesAhead& ahead, float* out) {
  int64_t units = Q::group_of(k, group) / (4 * Q::QUADS), groups = Q::padded(k, group) / Q::group_of(k, group);
  F totals[MR][TILE_VECS];
  IntSums<Q, MR> sums;
  for (int64_t g = 0; g < groups; g++) {
    F scales[TILE_VECS];
    if (Q::GROUPED) {
#pragma GCC unroll 16
      for (int v = 0; v < TILE_VECS; v++) scales[v] = load_bf16((const uint16_t*)b + part + v * W);
      b += PANEL * 2;
    }
    start_sums<Q, MR>(zeros, sums);
    multiply_units<Q, MR>(a, b + part * 4, units, ahead, sums);
    zeros += MR;
    a += units * Q::QUADS * MR;
    b += units * UNIT_ROW;
    if (!Q::GROUPED)
      for (int v = 0; v < TILE_VECS; v++) scales[v] = load((const float*)b + part + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
      for (int v = 0; v < TILE_VECS; v++) {
        F sum = to_float(sums.at[r][v]);
        totals[r][v] = g == 0 ? mul(sum, scales[v]) : fma(sum, scales[v], totals[r][v]);
      }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
    for (int v = 0; v < TILE_VECS; v++)
      store(out + r * PANEL + part + v * W, mul(totals[r][v], set1(row_scales[r])));
}

template <class Q, int MR>
static __attribute__((noinline)) void quantised_tile(const RowQuad* a, const int32_t* zeros, const float* row_scales,
                                                     const char* panel, int64_t k, int64_t group, LinesAhead ahead,
                                                     float* out) {
  for (int part = 0; part < PANEL; part += TILE_COLUMNS) {
    quantised_columns<Q, MR>(a, zeros, row_scales, panel, k, group, part, ahead, out);
    ahead.each = 0;
  }
}

using QuantisedTile = void (*)(const RowQuad*, const int32_t*, const float*, const char*, int64_t, int64_t, LinesAhead,
                               float*);

template <class Q, int... HEIGHTS>
static QuantisedTile pick_quantised_tile(int height, std::integer_sequence<int, HEIGHTS...>) {
  static const QuantisedTile tiles[] = {quantised_tile<Q, HEIGHTS + 1>...};
  return tiles[height - 1];
}

// Bias and residual, and the one rounding. `sums`: as quantised_columns leaves them.
template <class E>
static void finish_rows(const LinearArgs& args, const float* sums, int height, int64_t row, int64_t column) {
  typedef typename E::T T;
  int64_t beyond = args.out_features < column + PANEL ? args.out_features : column + PANEL;
  for (int64_t at = column; at < beyond; at += W) {
    int n = beyond - at < W ? (int)(beyond - at) : W;
    F bias = args.bias ? E::load_n((const T*)args.bias + at, n) : zero();
    for (int r = 0; r < height; r++) {
      F y = add(load(sums + r * PANEL + at - column), bias);
      if (args.residual) y = add(y, E::load_n((const T*)args.residual + (row + r) * args.residual_stride + at, n));
      if (args.y_is_float)
        store_n((float*)args.y + (row + r) * args.y_stride + at, y, n);
      else
        E::store_n((T*)args.y + (row + r) * args.y_stride + at, y, n);
    }
  }
}

// One block of rows, already quantised, against one panel.
template <class E, class Q>
static void quantised_block(const LinearArgs& args, int64_t group, const QuantisedRows& rows, const Heights& heights,
                            int64_t from, int64_t to, int64_t panel) {
  constexpr int LINES = 4 * UNIT_ROW / 64, LINES_ALONE = LINES + Q::GROUPED;  // with a group's scales
  int64_t k = args.in_features, quads = Q::padded(k, group) / 4, groups = Q::padded(k, group) / Q::group_of(k, group);
  int64_t panel_bytes = Q::panel_bytes(k, group);
  const char* weight = (const char*)args.weight + panel * panel_bytes;
  bool alone = to - from == 1;
  int64_t calls = alone ? CALLS_ALONE : quads / (4 * Q::QUADS);
  const char* next = weight + (alone ? calls * LINES_ALONE * 64 : panel_bytes);
  for (int64_t tile = from; tile < to; tile++) {
    int lines = alone ? LINES_ALONE : lines_ahead(tile - from, to - from, LINES), height = heights.height(tile);
    int64_t row = heights.first(tile);
    float sums[TILE_ROWS * PANEL];
    pick_quantised_tile<Q>(height, std::make_integer_sequence<int, Q::ROWS>())(
        rows.quads + row * quads, rows.zeros + row * groups, rows.scales + row, weight, k, group,
        LinesAhead(next, lines, calls), sums);
    finish_rows<E>(args, sums, height, row, panel * PANEL);
    next += lines * 64 * calls;
  }
}

template <class E, class Q>
static void quantised_some(const LinearArgs& args, int64_t group, int threads, const QuantisedRows& rows,
                           int8_t* ones) {
  int64_t padded = Q::padded(args.in_features, group), panels = (args.out_features + PANEL - 1) / PANEL;
  Heights heights(args.rows, Q::ROWS);
  int64_t tile_bytes = Q::ROWS * padded / 4 * (int64_t)sizeof(RowQuad);
  int64_t block_tiles = (256 << 10) / tile_bytes + 1;  // a block of rows stays in the second-level cache
  int64_t blocks = (heights.tiles + block_tiles - 1) / block_tiles;
  threads = usable_threads(threads, blocks * panels);
  Shares gathering(heights.tiles, threads), work(blocks * panels, threads);
#pragma omp parallel num_threads(threads)
  {
    int me = omp_get_thread_num();
    for (int64_t tile; (tile = gathering.take(me)) >= 0;)
      quantise_rows<E, Q>(args, group, heights, tile, ones + me * padded, rows);
#pragma omp barrier
    for (int64_t piece; (piece = work.take(me)) >= 0;) {
      int64_t block = piece / panels, from = block * heights.tiles / blocks, to = (block + 1) * heights.tiles / blocks;
      quantised_block<E, Q>(args, group, rows, heights, from, to, piece % panels);
    }
  }
}

template <class E, class Q>
static void quantised_linear_of(LinearArgs args, int64_t group, int threads) {
  static thread_local Scratch scratch;
  int64_t y_bytes = args.y_is_float ? 4 : (int64_t)sizeof(typename E::T), t_bytes = sizeof(typename E::T);
  int64_t rows = args.rows, most = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
  int64_t padded = Q::padded(args.in_features, group), groups = padded / Q::group_of(args.in_features, group);
  size_t quads_bytes = (size_t)(most * padded / 4) * sizeof(RowQuad), zeros_bytes = (size_t)(most * groups) * 4;
  char* at = scratch.get(quads_bytes + zeros_bytes + most * 4 + (size_t)(threads < 1 ? 1 : threads) * padded);
  QuantisedRows parts{(RowQuad*)at, (int32_t*)(at + quads_bytes), (float*)(at + quads_bytes + zeros_bytes)};
  auto* ones = (int8_t*)(at + quads_bytes + zeros_bytes + most * 4);
  for (int64_t row = 0; row < rows; row += most) {
    args.rows = rows - row < most ? rows - row : most;
    quantised_some<E, Q>(args, group, threads, parts, ones);
    args.x = (const char*)args.x + args.rows * args.x_stride * t_bytes;
    args.y = (char*)args.y + args.rows * args.y_stride * y_bytes;
    if (args.residual) args.residual = (const char*)args.residual + args.rows * args.residual_stride * t_bytes;
  }
}

// --- packing ---

// 8 bits: the largest number of a column becomes 127.
template <class E>
static void quantise_column(const typename E::T* w, int64_t k, int64_t group, int column, char* panel) {
  F most = zero();
  for (int64_t i = 0; i < k; i += W) most = vmax(most, vabs(E::load_n(w + i, k - i < W ? (int)(k - i) : W)));
  float largest = max_lanes(most), scale = largest / 127.0f;
  F inverse = set1(largest > 0 ? 127.0f / largest : 0.0f);
  for (int64_t i = 0; i < k; i += W) {
    int n = k - i < W ? (int)(k - i) : W;
    int8_t some[W];
    store_int8(some, mul(E::load_n(w + i, n), inverse));
    for (int j = 0; j < n; j++) panel[(i + j) / 4 * UNIT_ROW + column * 4 + (i + j) % 4] = (char)(some[j] + Int8::ZERO);
  }
  memcpy(panel + Int8::padded(k, group) / 4 * UNIT_ROW + column * 4, &scale, 4);
}

// Panels are filled from `columns` rows of k numbers at w; what is left of a panel stands for zeros.
template <class E>
static void quantise_panel(Int8, const typename E::T* w, int64_t columns, int64_t k, int64_t group, char* panel) {
  memset(panel, 0, Int8::panel_bytes(k, group));
  for (int64_t column = 0; column < columns; column++)
    quantise_column<E>(w + column * k, k, group, (int)column, panel);
}

TW_INLINE F clamp_int4(F x) { return vmax(set1(-8.0f), vmin(set1(7.0f), round_even(x))); }

constexpr int ABREAST = 16;  // columns that are quantised to 4 bits together, so that their sums need no reduction

// numbers[i * ABREAST + column] = w[column * stride + i], and zeros from `columns` and from `left` on.
template <class E>
static void lay_abreast(const typename E::T* w, int64_t stride, int64_t columns, int64_t left, int64_t group,
                        float* numbers) {
  float rows[ABREAST][128];
  const uint32_t* starts[ABREAST];
  for (int64_t column = 0; column < ABREAST; column++) {
    const typename E::T* from = w + column * stride;
    starts[column] = (const uint32_t*)rows[column];
    for (int64_t i = 0; i < group; i += W) {
      int64_t n = column < columns ? left - i : 0;
      store(rows[column] + i, n >= W ? E::load(from + i) : (n > 0 ? E::load_n(from + i, (int)n) : zero()));
    }
  }
  for (int64_t i = 0; i < group; i += 16) transpose_16<ABREAST>(starts, i, 16, (uint32_t*)numbers + i * ABREAST);
}

// For each of W columns the scale that quantises a group with the least squared error: of nine ways to round, each with
// its best scale. Sums run along the group, so every instruction set finds the same scales for bfloat16 numbers.
TW_INLINE F best_scales(const float* numbers, int64_t group) {
  F extreme = zero(), best = zero(), gained = set1(-1.0f);
  for (int64_t i = 0; i < group; i++) {
    F x = load(numbers + i * ABREAST);
    extreme = where_above(vabs(x), vabs(extreme), x, extreme);
  }
  for (int way = 0; way < 9; way++) {
    F inverse = div(set1(-(7.0f + 0.25f * (float)way)), extreme), wq = zero(), qq = zero();
    for (int64_t i = 0; i < group; i++) {
      F x = load(numbers + i * ABREAST), q = clamp_int4(mul(x, inverse));
      wq = fma(x, q, wq);
      qq = fma(q, q, qq);
    }
    F gain = div(mul(wq, wq), qq);  // NaN in a column of zeros
    best = where_above(gain, gained, div(wq, qq), best);
    gained = where_above(gain, gained, gain, gained);
  }
  uint16_t rounded[W];
  store_bf16(rounded, best);
  return load_bf16(rounded);
}

// W columns of one group, from `column` on.
TW_INLINE void quantise_group(const float* numbers, int64_t group, int64_t column, char* out) {
  F scales = best_scales(numbers, group);
  F inverse = where_above(vabs(scales), zero(), div(set1(1.0f), scales), zero());
  store_bf16((uint16_t*)out + column, scales);
  out += PANEL * 2 + column * 4;
  for (int64_t i = 0; i < group; i += 8, out += UNIT_ROW) {
    constexpr int NIBBLES[] = {7, 3, 6, 2, 5, 1, 4, 0};  // of a unit, the highest first
    V unit = iset1(0);
    for (int number : NIBBLES) {
      F q = clamp_int4(mul(load(numbers + (i + number) * ABREAST), inverse));
      unit = iadd(next_nibble(unit), to_int(add(q, set1((float)Int4::ZERO))));
    }
    istore(out, unit);
  }
}

template <class E>
static void quantise_panel(Int4, const typename E::T* w, int64_t columns, int64_t k, int64_t group, char* panel) {
  float numbers[128 * ABREAST];
  for (int64_t from = 0; from < k; from += group, panel += PANEL * 2 + group / 8 * UNIT_ROW)
    for (int64_t first = 0; first < PANEL; first += ABREAST) {
      lay_abreast<E>(w + first * k + from, k, columns - first, k - from, group, numbers);
      for (int64_t part = 0; part < ABREAST; part += W) quantise_group(numbers + part, group, first + part, panel);
    }
}

template <class E, class Q>
static void quantise_of(const void* weight, int64_t n, int64_t k, int64_t group, void* out, int threads) {
  int64_t panels = (n + PANEL - 1) / PANEL, panel_bytes = Q::panel_bytes(k, group);
#pragma omp parallel for num_threads(usable_threads(threads, panels)) schedule(static)
  for (int64_t panel = 0; panel < panels; panel++) {
    int64_t first = panel * PANEL, columns = n - first < PANEL ? n - first : PANEL;
    quantise_panel<E>(Q(), (const typename E::T*)weight + first * k, columns, k, group,
                      (char*)out + panel * panel_bytes);
  }
}

TW_INLINE float stored_number(Int8, const char* panel, int64_t k, int64_t group, int64_t column, int64_t i) {
  float scale;
  memcpy(&scale, panel + Int8::padded(k, group) / 4 * UNIT_ROW + column * 4, 4);
  return scale * (float)((int)(uint8_t)panel[i / 4 * UNIT_ROW + column * 4 + i % 4] - Int8::ZERO);
}

TW_INLINE float stored_number(Int4, const char* panel, int64_t, int64_t group, int64_t column, int64_t i) {
  panel += i / group * (PANEL * 2 + group / 8 * UNIT_ROW);
  i %= group;
  uint32_t scale_bits = (uint32_t)((const uint16_t*)panel)[column] << 16;
  float scale;
  memcpy(&scale, &scale_bits, 4);
  int both = (uint8_t)panel[PANEL * 2 + i / 8 * UNIT_ROW + column * 4 + i % 4];
  return scale * (float)((i % 8 < 4 ? both & 15 : both >> 4) - Int4::ZERO);
}

// Rows of a quantised weight as the numbers they stand for, rounded to E.
template <class E, class Q>
static void dequantise_rows_of(const void* packed, int64_t k, int64_t group, const void* ids, bool ids_are_64,
                               int64_t count, void* out, int threads) {
  int64_t panel_bytes = Q::panel_bytes(k, group);
#pragma omp parallel for num_threads(usable_threads(threads, (count * k + 16383) / 16384)) schedule(static)
  for (int64_t row = 0; row < count; row++) {
    int64_t id = ids_are_64 ? ((const int64_t*)ids)[row] : ((const int32_t*)ids)[row];
    const char* panel = (const char*)packed + id / PANEL * panel_bytes;
    for (int64_t i = 0; i < k; i += W) {
      int n = k - i < W ? (int)(k - i) : W;
      float some[W] = {0};
      for (int j = 0; j < n; j++) some[j] = stored_number(Q(), panel, k, group, id % PANEL, i + j);
      E::store_n((typename E::T*)out + row * k + i, load(some), n);
    }
  }
}

}  // namespace
