// Causal attention over paged keys and values, with an online softmax.
//
// Exactness: keys are taken in tiles of KEYS at fixed positions of the sequence, and tiles in splits of SPLIT keys. Each
// split starts from nothing, and splits are merged in order. So a query's result depends on its own sequence alone: not
// on which queries share the tile, nor on how the splits fell to threads. A key that a query may not see enters with
// weight zero, which changes no bit of a sum.
//
// P says how pages are read and multiplied: DensePages or Int8Pages.
#pragma once

#include "attention_dense.h"
#include "attention_int8.h"

namespace {

// The queries of a unit, as the tiles want them.
template <class P>
static void gather_queries(const AttentionArgs& args, const QueryUnit& unit, const typename P::Space& space) {
  typedef typename P::Out::T T;
  int64_t group = args.heads / args.kv_heads;
  Heights heights(unit.last - unit.first, P::ROWS);
  for (int64_t tile = 0; tile < heights.tiles; tile++)
    for (int r = 0; r < heights.height(tile); r++) {
      int64_t f = unit.first + heights.first(tile) + r, token = args.query_starts[unit.row] + f / group;
      const T* q = (const T*)args.q + token * args.q_stride + (unit.kv_head * group + f % group) * args.head_dim;
      P::gather_query(q, args.head_dim, heights.height(tile), r, heights.first(tile), space);
    }
}

// One split of a unit: leaves sums, most and weight_sums in the space. `following`: whose first tile is wanted next, or
// null.
template <class P>
static void attend_split(const AttentionArgs& args, const QueryUnit& unit, const typename P::Space& space,
                         int64_t split, const QueryUnit* following) {
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, queries = unit.last - unit.first;
  memset(space.sums, 0, sizeof(float) * queries * padded);
  memset(space.weight_sums, 0, sizeof(float) * queries);
  for (int64_t f = 0; f < queries; f++) space.most[f] = -INFINITY;
  int64_t base = unit.low / KEYS * KEYS, end = (split + 1) * SPLIT;
  if (base < split * SPLIT) base = split * SPLIT;
  if (end > unit.high + 1) end = unit.high + 1;
  typedef Places<typename P::Number> TilePlaces;
  TilePlaces places[2];
  find_tile(args, unit, base, places[0]);
  Heights heights(queries, P::ROWS);
  for (int now = 0; base < end; base += KEYS, now = 1 - now) {
    TilePlaces& next = places[1 - now];
    if (base + KEYS <= unit.high || !following)
      find_tile(args, unit, base + KEYS, next);
    else
      find_tile(args, *following, following->low / KEYS * KEYS, next);
    RowsAhead ahead{(const char* const*)&next, P::row_bytes(args.head_dim), 0, 0};
    P::load_tile(args, unit, places[now], ahead, space);
    for (int64_t tile = 0; tile < heights.tiles; tile++)
      P::tile(heights.height(tile))(args, unit, space, places[now], heights.first(tile), base, ahead);
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

static void start_totals(const AttentionArgs& args, const QueryUnit& unit, const RunningSums& space) {
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL, queries = unit.last - unit.first;
  memset(space.totals, 0, sizeof(float) * queries * padded);
  memset(space.total_weights, 0, sizeof(float) * queries);
  for (int64_t f = 0; f < queries; f++) space.total_most[f] = -INFINITY;
}

template <class E>
static void write_out(const AttentionArgs& args, const QueryUnit& unit, const RunningSums& space) {
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
template <class P>
static void attend_unit(const AttentionArgs& args, const Units& units, int64_t number,
                        const typename P::Space& space) {
  QueryUnit unit = units.at(number), following = units.at(number + 1 < units.count() ? number + 1 : number);
  int64_t padded = (args.head_dim + PANEL - 1) / PANEL * PANEL;
  gather_queries<P>(args, unit, space);
  start_totals(args, unit, space);
  for (int64_t split = unit.low / SPLIT; split <= unit.high / SPLIT; split++) {
    attend_split<P>(args, unit, space, split, &following);
    for (int64_t f = 0; f < unit.last - unit.first; f++)
      merge_split(space.totals + f * padded, space.total_most[f], space.total_weights[f], space.sums + f * padded,
                  space.most[f], space.weight_sums[f], padded);
  }
  write_out<typename P::Out>(args, unit, space);
}

// Partial results of all splits of all units, where there are too few units to keep the threads busy.
struct Partials {
  float* at;
  int64_t splits, padded;
  int64_t stride() const { return padded + 2; }
  size_t bytes(int64_t units) const { return sizeof(float) * units * splits * QUERIES * stride(); }
  float* of(int64_t unit, int64_t split) const { return at + (unit * splits + split) * QUERIES * stride(); }
};

static void keep_partial(const RunningSums& space, int64_t queries, const Partials& partials, float* out) {
  for (int64_t f = 0; f < queries; f++, out += partials.stride()) {
    memcpy(out, space.sums + f * partials.padded, sizeof(float) * partials.padded);
    out[partials.padded] = space.most[f];
    out[partials.padded + 1] = space.weight_sums[f];
  }
}

template <class E>
static void merge_partials(const AttentionArgs& args, const QueryUnit& unit, int64_t number, const RunningSums& space,
                           const Partials& partials) {
  int64_t padded = partials.padded;
  start_totals(args, unit, space);
  for (int64_t split = unit.low / SPLIT; split <= unit.high / SPLIT; split++) {
    const float* part = partials.of(number, split);
    for (int64_t f = 0; f < unit.last - unit.first; f++, part += partials.stride())
      merge_split(space.totals + f * padded, space.total_most[f], space.total_weights[f], part, part[padded],
                  part[padded + 1], padded);
  }
  write_out<E>(args, unit, space);
}

template <class P>
static void attend_by_split(const AttentionArgs& args, const Units& units, int64_t number, int64_t split,
                            const typename P::Space& space, const Partials& partials) {
  QueryUnit unit = units.at(number);
  if (split < unit.low / SPLIT || split > unit.high / SPLIT) return;
  gather_queries<P>(args, unit, space);
  attend_split<P>(args, unit, space, split, nullptr);
  keep_partial(space, unit.last - unit.first, partials, partials.of(number, split));
}

template <class P>
static void attention_of(const AttentionArgs& args, int64_t max_context, int threads) {
  static thread_local Scratch own, for_starts, for_partials;
  typename P::Space measure;
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
    typename P::Space space;
    space.lay_out((uintptr_t)own.get(space_bytes), args.head_dim);
    int me = omp_get_thread_num();
    for (int64_t piece; (piece = work.take(me)) >= 0;) {
      if (by_split)
        attend_by_split<P>(args, units, piece / partials.splits, piece % partials.splits, space, partials);
      else
        attend_unit<P>(args, units, piece, space);
    }
#pragma omp barrier
    for (int64_t number; (number = merging.take(me)) >= 0;)
      merge_partials<typename P::Out>(args, units.at(number), number, space, partials);
  }
}

}  // namespace