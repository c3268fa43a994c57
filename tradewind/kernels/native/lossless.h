// y = x W^T + bias + residual with bfloat16 weights that are kept in 12 bits, without loss.
//
// Nearly all weights of a column lie within 16 neighbouring exponents. So a weight is its sign, its 7 bits of mantissa,
// and 4 bits that count from the least of the 16, which each column has for itself. What lies outside is an exception,
// and kept beside. A panel's numbers are put together, as linear.h has them, in registers or in the caches, right before
// they are multiplied, and are summed in the same order: results are those of the bfloat16 weight, to the bit.
//
// Packed: how many exceptions there are before those of each panel (panels + 1 of 64 bits, filled up to whole lines);
// the panels; the exceptions, in the order of their places. A panel: what its columns' exponents are counted from, in
// bfloat16's place, for the numbers of a step (64 words); then, for each two steps, three planes of 32 words. The two
// steps' numbers are four times 32: a word of plane p holds one of the p-th 32 where a bfloat16 has it (sign, four other
// bits, 4 bits of exponent, mantissa), and the other bits of the three planes are one of the last 32: its exponent; its
// mantissa but for the last three bits; its sign and those three.
#pragma once

#include <type_traits>
#include <utility>

#include "linear.h"

namespace {

constexpr int STEP_NUMBERS = PANEL * Bf16::STEP, PLANE = STEP_NUMBERS / 2, PLANES = 3;
constexpr int LOSSLESS_EXPONENTS = 16;

struct Exception {
  uint32_t place, bits;  // place: step * STEP_NUMBERS + column * 2 + which of the pair
};

TW_INLINE int64_t pair_steps(int64_t k) { return (k + Bf16::STEP - 1) / Bf16::STEP; }

// Where the parts of a packed weight are.
struct LosslessWeight {
  int64_t panels, steps;
  char* at;

  LosslessWeight(const void* packed, int64_t n, int64_t k)
      : panels((n + PANEL - 1) / PANEL), steps(pair_steps(k)), at((char*)packed) {}
  int64_t* before() const { return (int64_t*)at; }
  int64_t panel_bytes() const { return (STEP_NUMBERS + (steps + 1) / 2 * PLANES * PLANE) * 2; }
  char* panels_at() const { return at + ((panels + 1) * 8 + 63) / 64 * 64; }
  uint16_t* panel(int64_t index) const { return (uint16_t*)(panels_at() + index * panel_bytes()); }
  Exception* exceptions() const { return (Exception*)(panels_at() + panels * panel_bytes()); }
};

constexpr uint16_t IN_PLACE = 0x87ff;

#if TW_LEVEL >= 3
// The numbers of two steps, from their planes.
struct TwoSteps {
  __m512i at[4];

  inline __attribute__((always_inline)) TwoSteps(const uint16_t* bases, const uint16_t* planes) {
    __m512i mask = _mm512_set1_epi16((short)IN_PLACE), third = load(planes + 2 * PLANE);
    at[0] = _mm512_and_si512(load(planes), mask);
    at[1] = _mm512_and_si512(load(planes + PLANE), mask);
    at[2] = _mm512_and_si512(third, mask);
    at[3] = _mm512_and_si512(_mm512_srli_epi16(load(planes), 4), _mm512_set1_epi16(0x780));
    at[3] = either(at[3], _mm512_srli_epi16(load(planes + PLANE), 8), 0x78);
    at[3] = either(at[3], _mm512_srli_epi16(third, 11), 7);
    at[3] = either(at[3], _mm512_slli_epi16(third, 1), 0x8000);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) at[i] = _mm512_add_epi16(at[i], load(bases + i % 2 * PLANE));
  }
  static inline __attribute__((always_inline)) __m512i load(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static inline __attribute__((always_inline)) __m512i either(__m512i x, __m512i y, int mask) {  // x | (y & mask)
    return _mm512_ternarylogic_epi32(x, y, _mm512_set1_epi16((short)mask), 0xf8);
  }
};
#endif

// out: the numbers of `steps` steps, whose planes begin at `planes`; those of a step too many, if they are odd.
TW_INLINE void restore(const uint16_t* bases, const uint16_t* planes, int64_t steps, uint16_t* out) {
  for (int64_t step = 0; step < steps; step += 2, planes += PLANES * PLANE, out += 2 * STEP_NUMBERS) {
#if TW_LEVEL >= 3
    TwoSteps two(bases, planes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) _mm512_storeu_si512(out + i * PLANE, two.at[i]);
#else
    const uint16_t *second = planes + PLANE, *third = second + PLANE;
#pragma GCC ivdep
    for (int i = 0; i < PLANE; i++) {
      uint16_t last = (uint16_t)((planes[i] >> 4 & 0x780) | (second[i] >> 8 & 0x78) | (third[i] >> 11 & 7) |
                                 (third[i] << 1 & 0x8000));
      out[i] = (uint16_t)((planes[i] & IN_PLACE) + bases[i]);
      out[PLANE + i] = (uint16_t)((second[i] & IN_PLACE) + bases[PLANE + i]);
      out[2 * PLANE + i] = (uint16_t)((third[i] & IN_PLACE) + bases[i]);
      out[3 * PLANE + i] = (uint16_t)(last + bases[PLANE + i]);
    }
#endif
  }
}

// The numbers of a panel, some steps after the other.
struct RestoredPanel {
  const uint16_t *bases, *planes;
  const Exception *exception, *last;
  int64_t place = 0;

  RestoredPanel(const LosslessWeight& weight, int64_t panel)
      : bases(weight.panel(panel)), planes(bases + STEP_NUMBERS),
        exception(weight.exceptions() + weight.before()[panel]),
        last(weight.exceptions() + weight.before()[panel + 1]) {}

  // `steps`: even, but for the last time. `out` has room for an even number of them.
  void next(int64_t steps, uint16_t* out) {
    restore(bases, planes, steps, out);
    int64_t beyond = place + steps * STEP_NUMBERS;
    for (; exception < last && exception->place < beyond; exception++)
      out[exception->place - place] = (uint16_t)exception->bits;
    planes += steps / 2 * PLANES * PLANE;
    place = beyond;
  }
  // Of the next `most` steps: an even number of them that certainly come before the next exception.
  int64_t clear_steps(int64_t most) const {
    int64_t clear = exception < last ? (exception->place - place) / STEP_NUMBERS : most;
    return (clear < most ? clear : most) / 2 * 2;
  }
  void skip_two() {
    planes += PLANES * PLANE;
    place += 2 * STEP_NUMBERS;
  }
};

#if TW_LEVEL >= 3
// sums += a panel's columns times MR rows. Two registers are a step of them: they need no way through memory, but for
// steps with exceptions.
template <class E, int MR>
TW_INLINE void multiply_restored(const typename E::A* a, RestoredPanel& from, int64_t steps, LinesAhead& ahead,
                                 Sums<MR> (&sums)[1]) {
  int64_t step = 0;
  while (step < steps) {
    for (int64_t clear = step + from.clear_steps(steps - step); step < clear; step += 2, a += 2 * MR) {
      if (step % 4 == 0) LinesAhead::ask(ahead);
      TwoSteps two(from.bases, from.planes);
      from.skip_two();
#pragma GCC unroll 2
      for (int which = 0; which < 2; which++)
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++)
#pragma GCC unroll 2
          for (int v = 0; v < 2; v++)
            sums[0].at[r][v] = E::mac(sums[0].at[r][v], a + which * MR + r, E::of_pairs(two.at[which * 2 + v]));
    }
    if (step == steps) return;
    alignas(64) uint16_t numbers[2 * STEP_NUMBERS];
    int64_t some = steps - step < 2 ? 1 : 2;
    LinesAhead nothing(nullptr, 0, 1);
    from.next(some, numbers);
    multiply<E, MR, 1>(a, (const char*)numbers, STEP_NUMBERS * 2, some, nothing, sums[0]);
    step += some;
    a += some * MR;
  }
}
#else
constexpr int64_t STEPS_AT_ONCE = 64;  // their numbers stay in the first-level cache

// sums += a panel's columns times MR rows, some steps after the other, by way of memory.
template <class E, int MR, int PARTS>
TW_INLINE void multiply_restored(const typename E::A* a, RestoredPanel& from, int64_t steps, LinesAhead& ahead,
                                 Sums<MR> (&sums)[PARTS]) {
  constexpr int64_t UNIT_BYTES = sizeof(typename E::Unit);
  alignas(64) uint16_t numbers[STEPS_AT_ONCE * STEP_NUMBERS];
  LinesAhead nothing(nullptr, 0, 1);
  for (int64_t step = 0; step < steps; step += STEPS_AT_ONCE) {
    int64_t some = steps - step < STEPS_AT_ONCE ? steps - step : STEPS_AT_ONCE;
    from.next(some, numbers);
#pragma GCC unroll 16
    for (int part = 0; part < PARTS; part++)
      multiply<E, MR, 1>(a + step * MR, (const char*)numbers + part * TILE_COLUMNS * UNIT_BYTES, PANEL * UNIT_BYTES,
                         some, part ? nothing : ahead, sums[part]);
  }
}
#endif

// A tile that restores the panel that it multiplies.
template <class E, int MR>
static __attribute__((noinline)) void lossless_tile(const LinearArgs& args, const typename E::A* a, int64_t row,
                                                    int64_t panel, const LosslessWeight& weight, LinesAhead ahead) {
  constexpr int PARTS = PANEL / TILE_COLUMNS;
  Sums<MR> sums[PARTS];
#pragma GCC unroll 16
  for (int part = 0; part < PARTS; part++)
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
      for (int v = 0; v < TILE_VECS; v++) sums[part].at[r][v] = zero();
  RestoredPanel from(weight, panel);
  multiply_restored<E, MR>(a, from, weight.steps, ahead, sums);
#pragma GCC unroll 16
  for (int part = 0; part < PARTS; part++)
    finish_tile<E, MR>(args, sums[part], row, panel * PANEL + part * TILE_COLUMNS);
}

template <class E>
using LosslessTile = void (*)(const LinearArgs&, const typename E::A*, int64_t, int64_t, const LosslessWeight&,
                              LinesAhead);

template <class E, int... HEIGHTS>
static LosslessTile<E> pick_lossless_tile(int height, std::integer_sequence<int, HEIGHTS...>) {
  static const LosslessTile<E> tiles[] = {lossless_tile<E, HEIGHTS + 1>...};
  return tiles[height - 1];
}

template <class E>
static LosslessTile<E> lossless_tile_of(int height) {
  return pick_lossless_tile<E>(height, std::make_integer_sequence<int, TILE_ROWS>());
}

// Whether each tile restores what it multiplies. Where vectors are narrow, tiles are low, and there are many: then those
// of a block share what has been restored once.
constexpr bool EACH_RESTORES = TW_LEVEL >= 3;

// A weight in 12 bits, for linear_with. `room`: for a panel's numbers, `stride` of them for each thread.
template <class E>
struct LosslessPanels {
  LosslessWeight weight;
  uint16_t* room;
  int64_t stride;

  // As NumberPanels has them.
  void tile(const LinearArgs& args, const typename E::A* a, int height, int64_t row, int64_t panel,
            LinesAhead ahead) const {
    lossless_tile_of<E>(height)(args, a, row, panel, weight, ahead);
  }

  void block(const LinearArgs& args, const typename E::A* a, const Heights& heights, int64_t from, int64_t to,
             int64_t panel, int me) const {
    constexpr int LINES = PLANES * PLANE * 2 * 2 / 64;  // of four steps
    const char* here = (const char*)weight.panel(panel);
    uint16_t* numbers = room + me * stride;
    bool alone = to - from == 1, apart = EACH_RESTORES || alone;
    if (!apart) RestoredPanel(weight, panel).next(weight.steps, numbers);
    int64_t calls = alone ? CALLS_ALONE : (weight.steps + 3) / 4;
    const char* next = here + (alone ? calls * LINES * 64 : weight.panel_bytes());
    for (int64_t index = from; index < to; index++) {
      int lines = alone ? LINES : lines_ahead(index - from, to - from, LINES), height = heights.height(index);
      int64_t row = heights.first(index);
      const typename E::A* rows = a + row * weight.steps;
      LinesAhead ahead(next, lines, calls);
      if (apart)
        tile(args, rows, height, row, panel, ahead);
      else
        linear_tile_of<E>(height)(args, rows, row, panel * PANEL, (const char*)numbers, ahead);
      next += lines * 64 * calls;
    }
  }
};

template <class E>
static LosslessPanels<E> lossless_panels(const LinearArgs& args, int threads) {
  static thread_local Scratch scratch;
  LosslessWeight weight(args.weight, args.out_features, args.in_features);
  int64_t stride = EACH_RESTORES || args.rows <= TILE_ROWS ? 0 : (weight.steps + 1) / 2 * 2 * STEP_NUMBERS;
  return {weight, (uint16_t*)scratch.get((size_t)(stride * 2 * (threads < 1 ? 1 : threads))), stride};
}

template <class E>
static void lossless_linear_of(const LinearArgs& args, int threads) {
  linear_with<E>(args, threads, lossless_panels<E>(args, threads));
}

// --- packing ---

// The least of the neighbouring exponents that hold most of a row's k weights.
static int least_exponent(const uint16_t* w, int64_t k) {
  int32_t counts[4][256] = {{0}};  // apart, so that equal ones beside each other do not wait for one another
  for (int64_t i = 0; i < k; i++) counts[i % 4][w[i] >> 7 & 0xff]++;
  for (int e = 0; e < 256; e++) counts[0][e] += counts[1][e] + counts[2][e] + counts[3][e];
  int64_t inside = 0;
  for (int e = 0; e < LOSSLESS_EXPONENTS; e++) inside += counts[0][e];
  int64_t most = inside;
  int least = 0;
  for (int e = 1; e + LOSSLESS_EXPONENTS <= 256; e++) {
    inside += counts[0][e + LOSSLESS_EXPONENTS - 1] - counts[0][e - 1];
    if (inside > most) most = inside, least = e;
  }
  return least;
}

TW_INLINE bool is_exception(uint16_t bits, int least) {
  return (unsigned)((bits >> 7 & 0xff) - least) >= (unsigned)LOSSLESS_EXPONENTS;
}

// counts[p + 1]: the exceptions of panel p.
static void lossless_count_of(const uint16_t* weight, int64_t n, int64_t k, int64_t* counts, int threads) {
  int64_t panels = (n + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(usable_threads(threads, panels)) schedule(static)
  for (int64_t panel = 0; panel < panels; panel++) {
    int64_t found = 0;
    for (int64_t row = panel * PANEL; row < n && row < (panel + 1) * PANEL; row++) {
      const uint16_t* w = weight + row * k;
      int least = least_exponent(w, k);
      for (int64_t i = 0; i < k; i++) found += is_exception(w[i], least);
    }
    counts[panel + 1] = found;
  }
}

// Two steps' numbers, counted from their exponents, into their planes.
static void fill_planes(const uint16_t* numbers, uint16_t* planes) {
  uint16_t *second = planes + PLANE, *third = second + PLANE;
  const uint16_t* last = numbers + 3 * PLANE;
#pragma GCC ivdep
  for (int i = 0; i < PLANE; i++) {
    planes[i] = (uint16_t)(numbers[i] | (last[i] << 4 & 0x7800));
    second[i] = (uint16_t)(numbers[PLANE + i] | (last[i] << 8 & 0x7800));
    third[i] = (uint16_t)(numbers[2 * PLANE + i] | (last[i] << 11 & 0x3800) | (last[i] >> 1 & 0x4000));
  }
}

// A step's numbers, less their exponents' least. What lies outside is listed, from `exception` on, and becomes 0.
static Exception* count_exponents(const uint16_t* bits, const uint16_t* bases, int64_t step, Exception* exception,
                                  uint16_t* numbers) {
  uint16_t any = 0;
  for (int i = 0; i < STEP_NUMBERS; i++) {
    uint16_t counted = (uint16_t)((bits[i] & 0x7fff) - bases[i]);
    uint16_t outside = (uint16_t)(counted & (uint16_t)~(LOSSLESS_EXPONENTS * 128 - 1));
    numbers[i] = outside ? 0 : (uint16_t)((bits[i] & 0x8000) | counted);
    any |= outside;
  }
  if (any)
    for (int i = 0; i < STEP_NUMBERS; i++)
      if (is_exception(bits[i], bases[i] >> 7)) *exception++ = {(uint32_t)(step * STEP_NUMBERS + i), bits[i]};
  return exception;
}

// `room`: for the numbers of an even number of steps.
static void lossless_pack_panel(const uint16_t* w, int64_t columns, int64_t k, uint16_t* room, uint16_t* panel,
                                Exception* exception) {
  int64_t steps = pair_steps(k);
  for (int64_t i = 0; i < STEP_NUMBERS; i++) {
    int64_t column = i / Bf16::STEP;
    panel[i] = column < columns ? (uint16_t)(least_exponent(w + column * k, k) << 7) : 0;
  }
  pack_panel<Bf16>(w, columns, k, 0, (Bf16::Unit*)room);
  // What fills up the last steps is no exception.
  for (int64_t i = k % 2; i < STEP_NUMBERS && k % 2; i += 2) room[(steps - 1) * STEP_NUMBERS + i] = panel[i];
  memcpy(room + steps * STEP_NUMBERS, panel, (size_t)(steps % 2) * STEP_NUMBERS * 2);
  uint16_t* planes = panel + STEP_NUMBERS;
  for (int64_t step = 0; step < steps; step += 2, planes += PLANES * PLANE) {
    uint16_t numbers[2 * STEP_NUMBERS];
    for (int64_t i = 0; i < 2; i++)
      exception = count_exponents(room + (step + i) * STEP_NUMBERS, panel, step + i, exception,
                                  numbers + i * STEP_NUMBERS);
    fill_planes(numbers, planes);
  }
}

// The table of how many exceptions there are before each panel's must be in `packed` already.
static void lossless_pack_of(const uint16_t* w, int64_t n, int64_t k, void* packed, int threads) {
  LosslessWeight weight(packed, n, k);
#pragma omp parallel num_threads(usable_threads(threads, weight.panels))
  {
    Scratch scratch;
    auto* room = (uint16_t*)scratch.get((size_t)(weight.steps + 1) * STEP_NUMBERS * 2);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < weight.panels; panel++) {
      int64_t first = panel * PANEL, columns = n - first < PANEL ? n - first : PANEL;
      lossless_pack_panel(w + first * k, columns, k, room, weight.panel(panel),
                          weight.exceptions() + weight.before()[panel]);
    }
  }
}

// Rows of a packed weight as they were before packing.
static void lossless_rows_of(const void* packed, int64_t n, int64_t k, const void* ids, bool ids_are_64, int64_t count,
                             uint16_t* out, int threads) {
  LosslessWeight weight(packed, n, k);
#pragma omp parallel for num_threads(usable_threads(threads, (count * k + 16383) / 16384)) schedule(static)
  for (int64_t row = 0; row < count; row++) {
    int64_t id = ids_are_64 ? ((const int64_t*)ids)[row] : ((const int32_t*)ids)[row];
    RestoredPanel from(weight, id / PANEL);
    for (int64_t step = 0; step < weight.steps; step += 2) {
      uint16_t numbers[2 * STEP_NUMBERS];
      from.next(weight.steps - step < 2 ? 1 : 2, numbers);
      for (int64_t i = step * Bf16::STEP; i < k && i < (step + 2) * Bf16::STEP; i++)
        out[row * k + i] = numbers[(i / Bf16::STEP - step) * STEP_NUMBERS + id % PANEL * Bf16::STEP + i % Bf16::STEP];
    }
  }
}

}  // namespace
