// Logits of rows that may choose among some tokens only: what a mask forbids is -infinity, and panels of the weight in
// which it forbids everything are left out.
#pragma once

#include "linear.h"
#include "mask.h"

namespace {

static_assert(PANEL == 32, "a word of a mask is a panel of the weight");
// Rows of a tile: few, so that most tiles have no row that needs the panel; enough to hide how long a product takes.
constexpr int MASKED_TILE_ROWS = 2;

struct RowMasks {
  const uint32_t* bits;  // one row of words for each row of logits
  int64_t words;

  uint32_t word(int64_t row, int64_t panel) const { return bits[row * words + panel]; }
  bool needs(int64_t from, int64_t to, int64_t panel) const {
    uint32_t any = 0;
    for (int64_t row = from; row < to; row++) any |= word(row, panel);
    return any != 0;
  }
};

// One panel of all rows, which are gathered in tiles.
template <class E, class Panels>
static void masked_panel(const LinearArgs& args, const Panels& weight, const typename E::A* a, const Heights& heights,
                         const RowMasks& masks, int64_t panel) {
  int64_t steps = (args.in_features + E::STEP - 1) / E::STEP, start = panel * PANEL;
  int width = args.out_features - start < PANEL ? (int)(args.out_features - start) : PANEL;
  for (int64_t tile = 0; tile < heights.tiles; tile++) {
    int64_t from = heights.first(tile), to = heights.first(tile + 1);
    if (masks.needs(from, to, panel))
      weight.tile(args, a + from * steps, (int)(to - from), from, panel, LinesAhead(nullptr, 0, 1));
    for (int64_t row = from; row < to; row++)
      mask_word((float*)args.y + row * args.y_stride + start, masks.word(row, panel), width);
  }
}

// args: y is float. Each number that is allowed is the one that linear_with gives.
template <class E, class Panels>
static void masked_logits_with(const LinearArgs& args, const Panels& weight, const uint32_t* bits, int64_t words,
                               int threads) {
  static thread_local Scratch scratch;
  int64_t steps = (args.in_features + E::STEP - 1) / E::STEP, panels = (args.out_features + PANEL - 1) / PANEL;
  RowMasks masks{bits, words};
  Heights heights(args.rows, MASKED_TILE_ROWS);
  int64_t needed = 0;
  for (int64_t tile = 0; tile < heights.tiles; tile++)
    for (int64_t panel = 0; panel < panels; panel++)
      needed += masks.needs(heights.first(tile), heights.first(tile + 1), panel);
  if (needed * 2 > heights.tiles * panels) {  // the whole product is laid out better
    linear_with<E>(args, threads, weight);
    mask_logits_of((float*)args.y, args.out_features, nullptr, args.rows, bits, words, threads);
    return;
  }
  auto* a = (typename E::A*)scratch.get((size_t)(args.rows * steps + 16) * sizeof(typename E::A));
  for (int64_t tile = 0; tile < heights.tiles; tile++)
    gather_rows<E>(args, heights.first(tile), heights.height(tile), a + heights.first(tile) * steps);
  threads = usable_threads(threads, panels);
  Shares work(panels, threads);
#pragma omp parallel num_threads(threads)
  for (int64_t panel, me = omp_get_thread_num(); (panel = work.take((int)me)) >= 0;)
    masked_panel<E>(args, weight, a, heights, masks, panel);
}

template <class E>
static void masked_logits_of(const LinearArgs& args, const uint32_t* bits, int64_t words, int threads) {
  masked_logits_with<E>(args, NumberPanels<E>(), bits, words, threads);
}

}  // namespace
