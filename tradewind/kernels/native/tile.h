// The register tile that every product is made of, and the work sharing between threads.
#pragma once

#include "elements.h"

namespace {

constexpr int PANEL = 32;  // columns of a packed panel
#if TW_LEVEL >= 3
constexpr int TILE_ROWS = 12, TILE_VECS = 2;  // 24 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 4, TILE_VECS = 2;  // 8 of 16
#endif
constexpr int TILE_COLUMNS = TILE_VECS * W;

// The sums of MR rows by NV vectors of columns.
template <int MR, int NV = TILE_VECS>
struct Sums {
  F at[MR][NV];
};

// What to ask memory for while a tile is computed, into the second-level cache: called every 4 steps. The bytes that are
// wanted next are asked for at several places at once: the processor's own prefetchers follow each of these streams, and
// one alone does not keep memory busy while there is much to compute.
struct LinesAhead {
  const char* next;
  int streams, each;    // each: lines of a stream at a call
  int64_t calls, left;  // that ask for one piece of memory; then comes the following piece
  int64_t apart;        // bytes from stream to stream

  LinesAhead(const char* from, int lines, int64_t calls_)
      : next(from), streams(lines % 4 == 0 ? 4 : (lines % 3 == 0 ? 3 : 1)), each(lines / streams), calls(calls_),
        left(calls_), apart(calls_ * each * 64) {}

  TW_INLINE void ask(LinesAhead& self) {
    for (int stream = 0; stream < self.streams; stream++)
      for (int line = 0; line < self.each; line++)
        __builtin_prefetch(self.next + stream * self.apart + 64 * line, 0, 2);
    self.next += 64 * self.each;
    if (--self.left == 0) self.left = self.calls, self.next += (self.streams - 1) * self.apart;
  }
};

// A tile that is alone reads its weights once: it asks for pieces of this many calls, one piece ahead of itself. Several
// tiles together ask for the panel that comes after theirs.
constexpr int CALLS_ALONE = 64;

// sums[r][column] += sum over steps of a[step, r] * b[step, column], in the order of the steps: nothing about one sum
// depends on MR or NV or on the other rows. a[step, r] is at a[step * STEP_STRIDE + r * ROW_STRIDE]; the columns of a step
// lie side by side, and the next step's `b_stride` bytes further on.
template <class E, int STEP_STRIDE, int ROW_STRIDE, int MR, int NV, class Ahead>
TW_INLINE void multiply(const typename E::A* a, const char* b, int64_t b_stride, int64_t steps, Ahead& ahead,
                        Sums<MR, NV>& sums) {
  constexpr int VEC_BYTES = W * (int)sizeof(typename E::Unit);
  while (steps > 0) {
    Ahead::ask(ahead);
    int64_t group = steps < 4 ? steps : 4;
    for (int64_t step = 0; step < group; step++) {
      typename E::B columns[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) columns[v] = E::load_b(b + v * VEC_BYTES);
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) sums.at[r][v] = E::mac(sums.at[r][v], a + r * ROW_STRIDE, columns[v]);
      a += STEP_STRIDE;
      b += b_stride;
    }
    steps -= group;
  }
}

#if TW_LEVEL >= 3
// out[i * STRIDE + row] = rows[row][from + i] for 16 rows and i < count, at most 16; a null row counts as zeros.
template <int STRIDE>
TW_INLINE void transpose_16(const uint32_t* const* rows, int64_t from, int64_t count, uint32_t* out) {
  __m512i a[16], b[16];
  __mmask16 part = first_lanes(count < 16 ? (int)count : 16);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) a[i] = rows[i] ? _mm512_maskz_loadu_epi32(part, rows[i] + from) : _mm512_setzero_si512();
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
    a[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd);
  }
  if (count >= 16) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * STRIDE, a[i]);
  } else {
    for (int i = 0; i < count; i++) _mm512_storeu_si512(out + i * STRIDE, a[i]);
  }
}
#else
template <int STRIDE>
TW_INLINE void transpose_16(const uint32_t* const* rows, int64_t from, int64_t count, uint32_t* out) {
  for (int row = 0; row < 16; row++)
    for (int64_t i = 0; i < 16 && i < count; i++) {
      uint32_t value = 0;
      if (rows[row]) memcpy(&value, (const char*)rows[row] + (from + i) * 4, 4);  // rows need not be aligned
      out[i * STRIDE + row] = value;
    }
}
#endif

// Rows split into tiles of nearly equal height, so that 13 rows become 7 and 6 and not 12 and 1.
struct Heights {
  int64_t rows, tiles;
  explicit Heights(int64_t rows_, int most = TILE_ROWS) : rows(rows_), tiles((rows_ + most - 1) / most) {}
  int64_t first(int64_t tile) const {
    int64_t least = rows / tiles, extra = rows % tiles;
    return tile * least + (tile < extra ? tile : extra);
  }
  int height(int64_t tile) const { return (int)(first(tile + 1) - first(tile)); }
};

// Memory of the calling thread that only ever grows.
struct Scratch {
  char* bytes = nullptr;
  size_t size = 0;
  ~Scratch() { free(bytes); }
  char* get(size_t wanted) {
    if (wanted > size) {
      free(bytes);
      size = (wanted + wanted / 4 + 4095) / 4096 * 4096;
      bytes = (char*)aligned_alloc(4096, size);
      if (!bytes) abort();
    }
    return bytes;
  }
};

// `total` pieces of work for `threads` threads: each takes its own contiguous share in order, then what others have
// left. Which thread does a piece never changes its result.
constexpr int MAX_THREADS = 256;
struct Shares {
  struct alignas(64) Share {
    int64_t next, end;
  } shares[MAX_THREADS];
  int threads;
  Shares(int64_t total, int threads_) : threads(threads_) {
    for (int i = 0; i < threads; i++) shares[i] = {total * i / threads, total * (i + 1) / threads};
  }
  // The next piece for thread `me`, or -1.
  int64_t take(int me) {
    for (int i = 0; i < threads; i++) {
      Share& share = shares[(me + i) % threads];
      if (__atomic_load_n(&share.next, __ATOMIC_RELAXED) >= share.end) continue;
      int64_t piece = __atomic_fetch_add(&share.next, 1, __ATOMIC_RELAXED);
      if (piece < share.end) return piece;
    }
    return -1;
  }
};

TW_INLINE int usable_threads(int threads, int64_t pieces) {
  int64_t most = pieces < MAX_THREADS ? pieces : MAX_THREADS;
  return (int)(threads < most ? (threads > 0 ? threads : 1) : (most > 0 ? most : 1));
}

}  // namespace
