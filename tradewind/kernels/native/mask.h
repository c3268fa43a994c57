// What a grammar forbids: logits that become -infinity.
#pragma once

#include <math.h>
#include <omp.h>

#include "rowwise.h"

namespace {

// Bit i of a word says whether the i-th of up to 32 logits is allowed. Most words are all ones or all zeros.
TW_INLINE void mask_word(float* logits, uint32_t word, int n) {
  if (word == ~0u) return;
  if (word == 0)
    for (int i = 0; i < n; i += W) store_n(logits + i, set1(-INFINITY), n - i < W ? n - i : W);
  else
    for (int i = 0; i < n; i++) logits[i] = word >> i & 1 ? logits[i] : -INFINITY;
}

// Row m of `bits` is the mask of row rows[m], or (rows null) of row m: token t is bit t % 32 of word t / 32.
static void mask_logits_of(float* logits, int64_t vocab, const int64_t* rows, int64_t count, const uint32_t* bits,
                           int64_t words, int threads) {
  // Reading a bit is a fraction of what computing a number costs.
#pragma omp parallel for num_threads(threads_for(threads, count, vocab / 8)) schedule(static)
  for (int64_t m = 0; m < count; m++) {
    float* row = logits + (rows ? rows[m] : m) * vocab;
    for (int64_t start = 0; start < vocab; start += 32)
      mask_word(row + start, bits[m * words + start / 32], vocab - start < 32 ? (int)(vocab - start) : 32);
  }
}

}  // namespace
