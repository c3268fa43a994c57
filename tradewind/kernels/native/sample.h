// From a row's logits to its token. The contract is in kernels/sample/__init__.py.
//
// What a row keeps is decided on its logits, which are ordered like its probabilities: a filter is a floor, the least
// logit that stays. Memory is read once, in blocks, for the largest logits and, where all logits count, for their mass.
// A floor below the one that is looked for follows from these; the few candidates above it decide the rest.
// A block's sums are the same whoever takes them, and all that follows goes over blocks or candidates in order.
#pragma once

#include <float.h>

#include <algorithm>

#include "rowwise.h"

namespace {

constexpr int BLOCK = 512;     // logits of a block
constexpr int FEW = 128;       // candidates that are sorted; more are divided among buckets
constexpr int BUCKETS = 1024;  // of logits

struct SampleRow {
  const float* logits;
  int64_t vocab;
  double temperature;  // 0: greedy
  int64_t top_k;       // 0: no limit
  double top_p, min_p, uniform;

  int64_t blocks() const { return (vocab + BLOCK - 1) / BLOCK; }
  bool limits() const { return top_k > 0 || min_p > 0; }
  bool filters() const { return limits() || top_p < 1; }
  bool needs_masses() const { return temperature > 0 && !limits(); }
  float scale() const { return (float)(1 / temperature); }
  // Block b, or a copy filled up with -infinity if the row ends in it.
  const float* block(int64_t b, float* copy) const {
    const float* own = logits + b * BLOCK;
    int64_t left = vocab - b * BLOCK;
    if (left >= BLOCK) return own;
    for (int64_t i = 0; i < BLOCK; i++) copy[i] = i < left ? own[i] : -INFINITY;
    return copy;
  }
};

// What is known of a row's blocks: the largest logits, of every W-th logit each, and the block's mass, that is, the sum
// of exp((logit - the block's largest) / temperature).
struct Survey {
  float* maxima;  // [block][W]
  float* masses;  // [block]
};

TW_INLINE bool is_finite(float x) { return x > -INFINITY && x < INFINITY; }

TW_INLINE F weight_of(F logit, F best, F scale) { return exp_(mul(sub(logit, best), scale)); }

// The weights of a block, exp((logit - best) / temperature), and their sum.
static float weigh_block(const float* logits, float best, float scale, float* weights) {
  F sum = zero();
  for (int i = 0; i < BLOCK; i += W) {
    F weight = weight_of(load(logits + i), set1(best), set1(scale));
    store(weights + i, weight);
    sum = add(sum, weight);
  }
  return sum_lanes(sum);
}

// The largest of n numbers, a multiple of W.
static float largest_of(const float* numbers, int64_t n) {
  F most = set1(-INFINITY);
  for (int64_t i = 0; i < n; i += W) most = vmax(most, load(numbers + i));
  return max_lanes(most);
}

// A block with a NaN counts as one with +infinity: no row may have either.
TW_INLINE float survey_maxima(const float* block, float* maxima) {
  F even = set1(-INFINITY), odd = even;
  M nan = no_lane();
  for (int i = 0; i < BLOCK; i += 2 * W) {
    F a = load(block + i), b = load(block + i + W);
    even = vmax(even, a);
    odd = vmax(odd, b);
    nan = either(nan, any_nan(a, b));
  }
  F most = lane_bits(nan) ? set1(INFINITY) : vmax(even, odd);
  store(maxima, most);
  return max_lanes(most);
}

TW_INLINE float survey_mass(const float* block, float most, float scale) {
  F base = set1(is_finite(most) ? most : 0.0f), sum = zero();
  for (int i = 0; i < BLOCK; i += W) sum = add(sum, weight_of(load(block + i), base, set1(scale)));
  return sum_lanes(sum);
}

static void survey_block(const SampleRow& row, int64_t b, const Survey& survey) {
  float copy[BLOCK];
  const float* block = row.block(b, copy);
  float most = survey_maxima(block, survey.maxima + b * W);
  if (row.needs_masses()) survey.masses[b] = survey_mass(block, most, row.scale());
}

// An integer for each float, in the same order, and back.
TW_INLINE int32_t order_of(float x) {
  int32_t bits;
  memcpy(&bits, &x, 4);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
TW_INLINE float of_order(int32_t order) {
  int32_t bits = order ^ (order >> 31 & 0x7fffffff);
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// A number that at least `wanted` of n numbers (a multiple of W) reach, and seldom many more; -FLT_MAX if so few are
// finite.
static float reached_by(const float* numbers, int64_t n, int64_t wanted) {
  int32_t low = order_of(-FLT_MAX), high = order_of(INFINITY);
  while ((int64_t)high - low > 1) {
    int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
    F least = set1(of_order(middle));
    int64_t reached = 0;
    for (int64_t i = 0; i < n; i += W) reached += __builtin_popcount(lane_bits(at_least(load(numbers + i), least)));
    (reached < wanted ? high : low) = middle;
    if (reached >= wanted && reached <= wanted + wanted / 4) break;
  }
  return of_order(low);
}

static double sum_of(const double* numbers, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += numbers[i];
  return sum;
}

// Tokens that may be kept, in vocabulary order. Behind each list is room for a block.
struct Candidates {
  float* logits;
  int32_t* ids;
  float* weights;
  double* masses;  // of each block of them
  int64_t count;

  TW_INLINE void take(Candidates& self, F x, M wanted, int32_t first) {
    uint32_t bits = lane_bits(wanted);
#if TW_LEVEL >= 3
    __m512i ids = _mm512_add_epi32(_mm512_set1_epi32(first),
                                   _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    store(self.logits + self.count, _mm512_maskz_compress_ps(wanted, x));
    _mm512_storeu_si512(self.ids + self.count, _mm512_maskz_compress_epi32(wanted, ids));
    self.count += __builtin_popcount(bits);
#else
    float lanes[W];
    store(lanes, x);
    for (; bits; bits &= bits - 1, self.count++) {
      int lane = __builtin_ctz(bits);
      self.logits[self.count] = lanes[lane];
      self.ids[self.count] = first + lane;
    }
#endif
  }

  // Of the row's finite logits, those of at least `floor`.
  void gather(const SampleRow& row, const Survey& survey, float floor) {
    float copy[BLOCK];
    F least = set1(floor > -FLT_MAX ? floor : -FLT_MAX);
    count = 0;
    for (int64_t b = 0; b < row.blocks(); b++) {
      if (!lane_bits(at_least(load(survey.maxima + b * W), least))) continue;
      const float* block = row.block(b, copy);
      for (int i = 0; i < BLOCK; i += W) {
        F x = load(block + i);
        M wanted = at_least(x, least);
        if (lane_bits(wanted)) take(*this, x, wanted, (int32_t)(b * BLOCK + i));
      }
    }
  }

  void drop_below(float floor) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
      logits[kept] = logits[i];
      ids[kept] = ids[i];
      weights[kept] = weights[i];
      kept += logits[i] >= floor;
    }
    count = kept;
  }

  int64_t blocks() const { return (count + BLOCK - 1) / BLOCK; }

  // Weighs all, and those that fill up the last block nothing. Gives the sum.
  double weigh(float best, float scale) {
    for (int64_t i = count; i < blocks() * BLOCK; i++) logits[i] = -INFINITY;
    for (int64_t b = 0; b < blocks(); b++)
      masses[b] = weigh_block(logits + b * BLOCK, best, scale, weights + b * BLOCK);
    return sum_of(masses, blocks());
  }
};

// Where one thread works.
struct SampleSpace {
  Candidates candidates;
  float *logits, *weights;  // of a part of the candidates
  double* masses;           // [block]

  explicit SampleSpace(int64_t vocab) {
    static thread_local Scratch scratch;
    size_t room = (size_t)(vocab + BLOCK) / BLOCK * BLOCK + BLOCK;
    char* at = scratch.get(5 * room * 4 + 2 * room / BLOCK * 8);
    masses = (double*)at;
    logits = (float*)(masses + 2 * room / BLOCK);
    weights = logits + room;
    candidates = {weights + room, (int32_t*)(weights + 2 * room), weights + 3 * room, masses + room / BLOCK, 0};
  }
};

// The least and the largest of n numbers.
struct Ends {
  float low = INFINITY, high = -INFINITY;
  Ends(const float* numbers, int64_t n) {
    F least = set1(low), most = set1(high);
    int64_t whole = n / W * W;
    for (int64_t i = 0; i < whole; i += W) {
      least = vmin(least, load(numbers + i));
      most = vmax(most, load(numbers + i));
    }
    low = -max_lanes(sub(zero(), least)), high = max_lanes(most);
    for (int64_t i = whole; i < n; i++) low = std::min(low, numbers[i]), high = std::max(high, numbers[i]);
  }
};

// Narrows lists of logits and weights to those of one bucket, as `edge` wants it: adds the weights of larger ones to
// `above` and gives how many are left. `to` may be where they come from.
struct Buckets {
  double high, scale;
  explicit Buckets(const Ends& ends) : high(ends.high), scale(BUCKETS / (high - ends.low)) {}
  TW_INLINE int of(const Buckets& self, float logit) {
    int bucket = (int)((self.high - logit) * self.scale);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
  }
};

static int64_t narrow(const Buckets& buckets, const float* logits, const float* weights, int64_t count, double target,
                      double& above, const SampleSpace& to) {
  double sums[BUCKETS] = {0};
  for (int64_t i = 0; i < count; i++) sums[Buckets::of(buckets, logits[i])] += weights[i];
  int bucket = 0;
  for (; bucket < BUCKETS - 1 && above + sums[bucket] < target; bucket++) above += sums[bucket];
  int64_t left = 0;
  for (int64_t i = 0; i < count; i++) {
    bool inside = Buckets::of(buckets, logits[i]) == bucket;
    to.logits[left] = logits[i];
    to.weights[left] = weights[i];
    left += inside;
  }
  return left;
}

// Of the fewest candidates that, in descending order, weigh at least `target`, the least logit; that of all if they do
// not weigh as much.
static float edge(const SampleSpace& space, double target) {
  const float *logits = space.candidates.logits, *weights = space.candidates.weights;
  int64_t count = space.candidates.count;
  double above = 0;
  while (count > FEW) {
    Ends ends(logits, count);
    if (ends.low == ends.high) return ends.low;
    count = narrow(Buckets(ends), logits, weights, count, target, above, space);
    logits = space.logits, weights = space.weights;
  }
  struct Weighted {
    float logit, weight;
  } few[FEW];
  for (int64_t i = 0; i < count; i++) few[i] = {logits[i], weights[i]};
  std::sort(few, few + count, [](const Weighted& a, const Weighted& b) { return a.logit > b.logit; });
  for (int64_t i = 0; i < count; i++)
    if ((above += few[i].weight) >= target) return few[i].logit;
  return few[count - 1].logit;
}

// The first place at which the running sum of the numbers exceeds `target`, of which it takes off what comes before. By
// rounding there may be none: then the last place that adds.
template <class T>
static int64_t first_above(const T* numbers, int64_t count, double& target) {
  int64_t last = 0;
  double running = 0, before = 0;
  for (int64_t i = 0; i < count && running <= target; i++) {
    if (numbers[i] == 0) continue;
    last = i;
    before = running;
    running += numbers[i];
  }
  target -= before;
  return last;
}

static int64_t draw_candidate(const SampleRow& row, const SampleSpace& space) {
  const Candidates& candidates = space.candidates;
  double target = row.uniform * sum_of(candidates.masses, candidates.blocks());
  int64_t block = first_above(candidates.masses, candidates.blocks(), target);
  return candidates.ids[block * BLOCK + first_above(candidates.weights + block * BLOCK, BLOCK, target)];
}

// The surveyed masses of all blocks, of exp((logit - best) / temperature).
static void level_masses(const SampleRow& row, const Survey& survey, float best, double* masses) {
  for (int64_t b = 0; b < row.blocks(); b++) {
    float most = largest_of(survey.maxima + b * W, W), lanes[W];
    store(lanes, weight_of(set1(most), set1(best), set1(row.scale())));
    masses[b] = (double)survey.masses[b] * lanes[0];
  }
}

static int64_t draw_any(const SampleRow& row, float best, const double* masses) {
  double target = row.uniform * sum_of(masses, row.blocks());
  int64_t block = first_above(masses, row.blocks(), target);
  float copy[BLOCK], weights[BLOCK];
  weigh_block(row.block(block, copy), best, row.scale(), weights);
  return block * BLOCK + first_above(weights, BLOCK, target);
}

// A floor that is not above the one which the row's limits set.
static float floor_of_limits(const SampleRow& row, const Survey& survey, float best) {
  float floor = -FLT_MAX;
  if (row.min_p > 0) floor = (float)(best + row.temperature * log(row.min_p));
  if (row.top_k > 0) floor = std::max(floor, reached_by(survey.maxima, row.blocks() * W, row.top_k));
  return std::min(floor, best);
}

// What min_p and top_k leave, and their weights. Gives their mass.
static double gather_limited(const SampleRow& row, const Survey& survey, float best, SampleSpace& space) {
  Candidates& candidates = space.candidates;
  candidates.gather(row, survey, floor_of_limits(row, survey, best));
  if (row.top_k > 0 && row.top_k < candidates.count) {
    std::fill(candidates.weights, candidates.weights + candidates.count, 1.0f);
    candidates.drop_below(edge(space, (double)row.top_k));
  }
  return candidates.weigh(best, row.scale());
}

// Tokens that weigh `wanted` of `mass` at least, the likeliest ones, and others. Together, the V tokens that are less
// likely than a V-th of what is left out cannot make up for one that is not; a few likelier ones are nearly always
// enough, and are tried first.
static void gather_nucleus(const SampleRow& row, const Survey& survey, float best, double mass, SampleSpace& space) {
  double left_out = (1 - row.top_p) * mass / row.vocab;
  for (double least : {16 * left_out, left_out}) {
    float floor = std::min(best, (float)(best + row.temperature * log(least)));
    space.candidates.gather(row, survey, floor);
    if (space.candidates.weigh(best, row.scale()) >= row.top_p * mass) return;
  }
}

static int64_t draw_filtered(const SampleRow& row, const Survey& survey, float best, double mass, SampleSpace& space) {
  if (row.limits()) mass = gather_limited(row, survey, best, space);
  else gather_nucleus(row, survey, best, mass, space);
  if (row.top_p < 1) {
    space.candidates.drop_below(edge(space, row.top_p * mass));
    space.candidates.weigh(best, row.scale());
  }
  return draw_candidate(row, space);
}

static int64_t first_equal(const SampleRow& row, const Survey& survey, float best) {
  float copy[BLOCK];
  int64_t b = 0;
  while (!lane_bits(at_least(load(survey.maxima + b * W), set1(best)))) b++;
  const float* block = row.block(b, copy);
  int i = 0;
  while (!lane_bits(at_least(load(block + i), set1(best)))) i += W;
  return b * BLOCK + i + __builtin_ctz(lane_bits(at_least(load(block + i), set1(best))));
}

static int64_t choose_token(const SampleRow& row, const Survey& survey) {
  float best = largest_of(survey.maxima, row.blocks() * W);
  if (!is_finite(best)) return -1;
  if (row.temperature == 0) return first_equal(row, survey, best);
  SampleSpace space(row.vocab);
  double mass = 0;
  if (row.needs_masses()) {
    level_masses(row, survey, best, space.masses);
    if (!row.filters()) return draw_any(row, best, space.masses);
    mass = sum_of(space.masses, row.blocks());
  }
  return draw_filtered(row, survey, best, mass, space);
}

// How each row is sampled: columns.
struct SampleArgs {
  const float* logits;
  int64_t vocab, rows;
  const double* temperature;
  const int64_t* top_k;
  const double *top_p, *min_p, *uniform;
  int64_t* tokens;

  SampleRow row(int64_t r) const {
    return {logits + r * vocab, vocab, temperature[r], top_k[r], top_p[r], min_p[r], uniform[r]};
  }
};

// Threads take rows, and where there are few, share the blocks of each first.
static void sample_of(const SampleArgs& args, int threads) {
  static thread_local Scratch scratch;
  int64_t blocks = (args.vocab + BLOCK - 1) / BLOCK, rows = args.rows;
  float* space = (float*)scratch.get((size_t)(rows * blocks * (W + 1)) * sizeof(float));
  auto survey_of = [=](int64_t r) { return Survey{space + r * blocks * W, space + rows * blocks * W + r * blocks}; };
  int used = threads_for(threads, rows * blocks, BLOCK);
  bool in_blocks = rows < 2 * used;
#pragma omp parallel num_threads(used)
  {
    if (in_blocks) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows * blocks; i++) survey_block(args.row(i / blocks), i % blocks, survey_of(i / blocks));
    }
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t b = 0; b < blocks && !in_blocks; b++) survey_block(args.row(r), b, survey_of(r));
      args.tokens[r] = choose_token(args.row(r), survey_of(r));
    }
  }
}

}  // namespace
