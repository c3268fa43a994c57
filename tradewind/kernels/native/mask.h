// What a grammar forbids: logits that become -infinity.
#pragma once

#include <math.h>
#include <omp.h>

#include "rowwise.h"

namespace {

// Bit t % 32 of word t / 32 of a mask says whether token t is allowed. Most words are all ones or all zeros.
static void mask_logits_of(float* logits, int64_t vocab, const int64_t* rows, int64_t count, const uint32_t* bits,
                           int64_t words, int threads) {
  // Reading a bit is a fraction of what computing a number costs.
#pragma omp parallel for num_threads(threads_for(threads, count, vocab / 8)) schedule(static)
  for (int64_t m = 0; m < count; m++) {
    float* row = logits + rows[m] * vocab;
    for (int64_t start = 0; start < vocab; start += 32) {
      uint32_t word = bits[m * words + start / 32];
      if (word == ~0u) continue;
      int n = vocab - start < 32 ? (int)(vocab - start) : 32;
      for (int i = 0; i < n; i++) row[start + i] = word >> i & 1 ? row[start + i] : -INFINITY;
    }
  }
}

}  // namespace
