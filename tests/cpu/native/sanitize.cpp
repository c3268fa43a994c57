// Runs every kernel on odd shapes in memory of exactly the right size, to be built with the address and undefined
// behaviour sanitizers:
//
//   cmake -S . -B /tmp/sanitize -DTRADEWIND_SANITIZE=ON && cmake --build /tmp/sanitize && /tmp/sanitize/sanitize
//
// Results are checked elsewhere (tests/cpu/native); here only that they are finite.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <algorithm>

#include "decoder_step.h"

extern "C" int tw_highest_level();

// One row for each exported kernel: its name, and its parameters as kernels.cpp has them.
#define KERNELS(X, set)                                                                                               \
  X(set, pack, int, const void*, int64_t, int64_t, void*, int)                                                        \
  X(set, linear, int, const void*, int64_t, int64_t, int64_t, const void*, int64_t, const void*, const void*, int64_t, \
    void*, int64_t, int, int)                                                                                         \
  X(set, masked_logits, int, const void*, int64_t, int64_t, int64_t, const void*, int64_t, const void*,               \
    const uint32_t*, int64_t, float*, int)                                                                            \
  X(set, unpack_rows, int, const void*, int64_t, const void*, int, int64_t, void*, int)                               \
  X(set, quantise, int, int, int64_t, const void*, int64_t, int64_t, void*, int)                                      \
  X(set, quantised_linear, int, int, int64_t, const void*, int64_t, int64_t, int64_t, const void*, int64_t,           \
    const void*, const void*, int64_t, void*, int64_t, int, int)                                                      \
  X(set, dequantise_rows, int, int, int64_t, const void*, int64_t, const void*, int, int64_t, void*, int)             \
  X(set, lossless_count, const void*, int64_t, int64_t, int64_t*, int)                                                \
  X(set, lossless_pack, const void*, int64_t, int64_t, void*, int)                                                    \
  X(set, lossless_linear, const void*, int64_t, int64_t, int64_t, const void*, int64_t, const void*, const void*,     \
    int64_t, void*, int64_t, int, int)                                                                                \
  X(set, lossless_masked_logits, const void*, int64_t, int64_t, int64_t, const void*, int64_t, const void*,           \
    const uint32_t*, int64_t, float*, int)                                                                            \
  X(set, lossless_rows, const void*, int64_t, int64_t, const void*, int, int64_t, void*, int)                         \
  X(set, attention, int, const void*, int64_t, const void*, const void*, int64_t, int64_t, int64_t, const int32_t*,   \
    const int32_t*, const int32_t*, int64_t, int64_t, void*, int, int, int, int, float, int64_t, float, int64_t, int, \
    int)                                                                                                              \
  X(set, add_rms_norm, int, const void*, int64_t, const void*, int64_t, const void*, void*, void*, int64_t, int64_t,  \
    int64_t, float, int)                                                                                              \
  X(set, qk_norm_rope_write, int, void*, int64_t, int64_t, const void*, int, const int64_t*, const float*, void*,     \
    void*, int64_t, int64_t, int64_t, int, int, int, int, const void*, const void*, float, int, int)                  \
  X(set, silu_mul, int, const void*, int64_t, int64_t, int64_t, void*, int)                                           \
  X(set, gather_rows, const void*, int64_t, const void*, int, int64_t, void*, int)                                    \
  X(set, mask_logits, float*, int64_t, const int64_t*, int64_t, const uint32_t*, int64_t, int)                        \
  X(set, sample, const float*, int64_t, int64_t, const double*, const int64_t*, const double*, const double*,         \
    const double*, int64_t*, int)                                                                                     \
  X(set, decoder_layers, int, const void*, int64_t, const void*, const void*, void*, void*, int)
#define FIELD(set, name, ...) void (*name)(__VA_ARGS__);
#define PROTOTYPE(set, name, ...) extern "C" void tw_##name##_##set(__VA_ARGS__);
#define ADDRESS(set, name, ...) tw_##name##_##set,
#define DECLARE(set)        \
  KERNELS(PROTOTYPE, set)   \
  static const Kernels set##_kernels = {KERNELS(ADDRESS, set)};

struct Kernels {
  KERNELS(FIELD, none)
};

DECLARE(portable)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512_vnni)
DECLARE(avx512_bf16)
#endif

// Numbers of a dtype in a block of its own on the heap: 0 float32, 1 bfloat16, 2 float16.
struct Numbers {
  int dtype;
  std::vector<char> bytes;
  Numbers(int dtype_, int64_t count) : dtype(dtype_), bytes((size_t)(count * (dtype_ == 0 ? 4 : 2))) {
    for (int64_t i = 0; i < count; i++) {
      float x = (float)(rand() % 2000 - 1000) / 1000.0f;
      uint32_t bits;
      memcpy(&bits, &x, 4);
      uint16_t half = dtype == 1 ? (uint16_t)(bits >> 16) : (uint16_t)(0x3000 + rand() % 0xc00);
      if (dtype == 0) memcpy(bytes.data() + i * 4, &x, 4);
      else memcpy(bytes.data() + i * 2, &half, 2);
    }
  }
  char* data() { return bytes.data(); }
  void check(const char* what) const {
    for (size_t i = 0; i < bytes.size() / (dtype == 0 ? 4 : 2); i++) {
      uint32_t bits = 0;
      bool finite;
      memcpy(&bits, bytes.data() + i * (dtype == 0 ? 4 : 2), dtype == 0 ? 4 : 2);
      if (dtype == 0) finite = (bits & 0x7f800000) != 0x7f800000;
      else finite = dtype == 1 ? (bits & 0x7f80) != 0x7f80 : (bits & 0x7c00) != 0x7c00;
      if (!finite) {
        printf("%s: not finite\n", what);
        exit(1);
      }
    }
  }
};

static void linears(const Kernels& kernels, int dtype, int threads) {
  for (int64_t n : {1, 31, 33, 70})
    for (int64_t k : {1, 7, 64, 131}) {
      int64_t padded = dtype == 1 ? k + k % 2 : k;
      Numbers weight(dtype, n * k), packed(dtype, (n + 31) / 32 * 32 * padded), bias(dtype, n);
      kernels.pack(dtype, weight.data(), n, k, packed.data(), threads);
      std::vector<int32_t> ids = {0, (int32_t)n - 1};
      Numbers back(dtype, 2 * k);
      kernels.unpack_rows(dtype, packed.data(), k, ids.data(), 0, 2, back.data(), threads);
      if (memcmp(back.data(), weight.data(), back.bytes.size() / 2)) exit(2);
      for (int64_t rows : {1, 2, 5, 12, 13, 29}) {
        Numbers x(dtype, rows * k), residual(dtype, rows * n), y(dtype, rows * n), logits(0, rows * n);
        kernels.linear(dtype, x.data(), k, rows, k, packed.data(), n, bias.data(), residual.data(), n, y.data(), n, 0,
                       threads);
        kernels.linear(dtype, x.data(), k, rows, k, packed.data(), n, nullptr, nullptr, n, logits.data(), n, 1,
                       threads);
        y.check("linear");
        logits.check("linear");
        for (uint32_t word : {0u, 0x80000001u, ~0u}) {  // only row 0 may say anything, or all may say some, or everything
          int64_t words = (n + 31) / 32;
          std::vector<uint32_t> bits(rows * words, word);
          for (int64_t i = 0; i < words; i++) bits[i] = ~0u;
          Numbers masked(0, rows * n);
          kernels.masked_logits(dtype, x.data(), k, rows, k, packed.data(), n, bias.data(), bits.data(), words,
                                (float*)masked.data(), threads);
        }
      }
    }
}

static void quantised(const Kernels& kernels, int dtype, int threads) {
  for (int64_t group : {0, 32, 128})
    for (int64_t n : {1, 33, 70})
      for (int64_t k : {1, 7, 64, 131}) {
        int bits = group ? 4 : 8;
        int64_t panel = group ? (k + group - 1) / group * (group / 2 * 32 + 64) : (k + 3) / 4 * 128 + 128;
        Numbers weight(dtype, n * k), bias(dtype, n), back(dtype, 2 * k);
        std::vector<char> packed((size_t)((n + 31) / 32 * panel));
        kernels.quantise(dtype, bits, group, weight.data(), n, k, packed.data(), threads);
        std::vector<int32_t> ids = {0, (int32_t)n - 1};
        kernels.dequantise_rows(dtype, bits, group, packed.data(), k, ids.data(), 0, 2, back.data(), threads);
        back.check("dequantise_rows");
        for (int64_t rows : {1, 2, 7, 13, 29}) {
          Numbers x(dtype, rows * k), residual(dtype, rows * n), y(dtype, rows * n);
          kernels.quantised_linear(dtype, bits, group, x.data(), k, rows, k, packed.data(), n, bias.data(),
                                   residual.data(), n, y.data(), n, 0, threads);
          y.check("quantised_linear");
        }
      }
}

static void lossless(const Kernels& kernels, int threads) {
  for (int64_t n : {1, 33, 70})
    for (int64_t k : {1, 7, 64, 131, 600}) {
      int64_t panels = (n + 31) / 32, table = ((panels + 1) * 8 + 63) / 64 * 64, panel = 128 + (k + 3) / 4 * 192;
      Numbers weight(1, n * k), bias(1, n), back(1, 2 * k);
      for (int64_t i = 0; i < n * k; i += 37) ((uint16_t*)weight.data())[i] = (uint16_t)(i % 3 ? 0 : 0x1234);
      std::vector<int64_t> before(panels + 1);
      kernels.lossless_count(weight.data(), n, k, before.data(), threads);
      for (int64_t i = 0; i < panels; i++) before[i + 1] += before[i];
      std::vector<char> packed((size_t)(table + panels * panel + before[panels] * 8));
      memcpy(packed.data(), before.data(), before.size() * 8);
      kernels.lossless_pack(weight.data(), n, k, packed.data(), threads);
      std::vector<int32_t> ids = {0, (int32_t)n - 1};
      kernels.lossless_rows(packed.data(), n, k, ids.data(), 0, 2, back.data(), threads);
      if (memcmp(back.data(), weight.data(), back.bytes.size() / 2)) exit(2);
      for (int64_t rows : {1, 2, 5, 12, 13, 29}) {
        Numbers x(1, rows * k), residual(1, rows * n), y(1, rows * n);
        kernels.lossless_linear(x.data(), k, rows, k, packed.data(), n, bias.data(), residual.data(), n, y.data(), n, 0,
                                threads);
        y.check("lossless_linear");
        std::vector<uint32_t> bits(rows * panels, 0x80000001u);
        for (int64_t row = 1; row < rows; row++) bits[row * panels] = 0;
        Numbers masked(0, rows * n);
        kernels.lossless_masked_logits(x.data(), k, rows, k, packed.data(), n, bias.data(), bits.data(), panels,
                                       (float*)masked.data(), threads);
      }
    }
}

// Page rows of 8-bit numbers: head_dim bytes and a scale.
static std::vector<uint8_t> int8_rows(int64_t rows, int head_dim) {
  std::vector<uint8_t> bytes((size_t)(rows * (head_dim + 4)));
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = (uint8_t)rand();
  for (int64_t row = 0; row < rows; row++) {
    float scale = 0.01f;
    memcpy(bytes.data() + row * (head_dim + 4) + head_dim, &scale, 4);
  }
  return bytes;
}

static void attentions(const Kernels& kernels, int dtype, int threads) {
  for (int head_dim : {2, 8, 34, 80, 256})
    for (int group : {1, 7, 64})
      for (int block_tokens : {1, 5, 16}) {
        if (group == 64 && head_dim > 34) continue;  // slow, and no other code runs
        int kv_heads = 2, heads = kv_heads * group;
        std::vector<int32_t> contexts = {1, 64, 1100, 37}, news = {1, 3, 1, 37}, starts = {0};
        int64_t entries = 0, blocks = 0;
        for (int32_t context : contexts) entries = std::max<int64_t>(entries, (context + block_tokens - 1) / block_tokens);
        std::vector<int32_t> tables((size_t)entries * contexts.size(), 1 << 30);
        for (size_t row = 0; row < contexts.size(); row++) {
          starts.push_back(starts.back() + news[row]);
          for (int i = 0; i < (contexts[row] + block_tokens - 1) / block_tokens; i++)
            tables[row * entries + i] = (int32_t)blocks++;
        }
        int64_t page = (int64_t)kv_heads * block_tokens * head_dim;
        Numbers pool(dtype, blocks * 2 * page), q(dtype, (int64_t)starts.back() * heads * head_dim);
        Numbers out(dtype, (int64_t)starts.back() * heads * head_dim);
        int64_t size = dtype == 0 ? 4 : 2;
        for (int64_t window : {0, 9})
          kernels.attention(dtype, q.data(), (int64_t)heads * head_dim, pool.data(), pool.data() + page * size, 2 * page,
                            (int64_t)block_tokens * head_dim, head_dim, starts.data(), contexts.data(), tables.data(),
                            entries, (int64_t)contexts.size(), out.data(), heads, kv_heads, head_dim, block_tokens, 0.3f,
                            window, window ? 5.0f : 0.0f, 1100, 0, threads);
        out.check("attention");
        int64_t row = head_dim + 4, byte_page = (int64_t)kv_heads * block_tokens * row;
        std::vector<uint8_t> bytes = int8_rows(blocks * 2 * kv_heads * block_tokens, head_dim);
        kernels.attention(dtype, q.data(), (int64_t)heads * head_dim, bytes.data(), bytes.data() + byte_page,
                          2 * byte_page, block_tokens * row, row, starts.data(), contexts.data(), tables.data(), entries,
                          (int64_t)contexts.size(), out.data(), heads, kv_heads, head_dim, block_tokens, 0.3f, 0, 0.0f,
                          1100, 1, threads);
        out.check("attention over 8-bit pages");
      }
}

static void rowwise(const Kernels& kernels, int dtype, int threads) {
  for (int64_t size : {1, 8, 37, 1000}) {
    int64_t rows = 45;
    Numbers x(dtype, rows * size), residual(dtype, rows * size), weight(dtype, size), normed(dtype, rows * size);
    kernels.add_rms_norm(dtype, x.data(), size, residual.data(), size, weight.data(), normed.data(), residual.data(),
                         size, rows, size, 1e-5f, threads);
    normed.check("add_rms_norm");
    Numbers gate_up(dtype, rows * 2 * size);
    kernels.silu_mul(dtype, gate_up.data(), 2 * size, rows, size, normed.data(), threads);
    normed.check("silu_mul");
    std::vector<int64_t> ids = {rows - 1, 0};
    Numbers some(dtype, 2 * size);
    kernels.gather_rows(x.data(), size * (dtype == 0 ? 4 : 2), ids.data(), 1, 2, some.data(), threads);
  }
  for (int head_dim : {2, 8, 34, 128}) {
    int heads = 6, kv_heads = 2, block_tokens = 4;
    int64_t tokens = 9, width = (heads + 2 * kv_heads) * head_dim, page = (int64_t)kv_heads * block_tokens * head_dim;
    Numbers qkv(dtype, tokens * width), k_pages(dtype, 3 * page), v_pages(dtype, 3 * page), norm(dtype, head_dim);
    Numbers cos_sin(0, 16 * head_dim);
    std::vector<int64_t> places = {11, 0, 3, 4, 5, 8, 7, 1, 2};
    std::vector<int32_t> positions = {15, 0, 1, 2, 3, 4, 5, 6, 7};
    for (bool normed : {false, true})
      kernels.qk_norm_rope_write(dtype, qkv.data(), width, tokens, positions.data(), 0, places.data(),
                                 (float*)cos_sin.data(), k_pages.data(), v_pages.data(), page,
                                 (int64_t)block_tokens * head_dim, head_dim, block_tokens, heads, kv_heads, head_dim,
                                 normed ? norm.data() : nullptr, normed ? norm.data() : nullptr, 1e-6f, 0, threads);
    std::vector<uint8_t> keys = int8_rows(3 * kv_heads * block_tokens, head_dim), values = keys;
    int64_t row = head_dim + 4;
    kernels.qk_norm_rope_write(dtype, qkv.data(), width, tokens, positions.data(), 0, places.data(),
                               (float*)cos_sin.data(), keys.data(), values.data(), kv_heads * block_tokens * row,
                               block_tokens * row, row, block_tokens, heads, kv_heads, head_dim, nullptr, nullptr, 1e-6f,
                               1, threads);
    qkv.check("qk_norm_rope_write");
    k_pages.check("qk_norm_rope_write");
  }
}

// A weight as decoder_layers wants it. bits: 0 for dtype itself.
struct PackedLinear {
  Numbers bias;
  std::vector<char> packed;
  LayerLinear layer;
  PackedLinear(const Kernels& kernels, int dtype, int bits, int64_t n, int64_t k, int threads) : bias(dtype, n) {
    int64_t group = bits == 4 ? 32 : 0, panels = (n + 31) / 32;
    Numbers weight(dtype, n * k);
    if (bits == 0) {
      packed.resize((size_t)(panels * 32 * (dtype == 1 ? k + k % 2 : k) * (dtype == 0 ? 4 : 2)));
      kernels.pack(dtype, weight.data(), n, k, packed.data(), threads);
    } else {
      packed.resize((size_t)(panels * (bits == 4 ? (k + 31) / 32 * (32 / 2 * 32 + 64) : (k + 3) / 4 * 128 + 128)));
      kernels.quantise(dtype, bits, group, weight.data(), n, k, packed.data(), threads);
    }
    layer = {packed.data(), bias.data(), n, k, bits, group};
  }
};

static void layers_in_one_call(const Kernels& kernels, int dtype, int bits, bool int8_pages, int head_dim, int threads) {
  const int64_t hidden = 37, ffn = 51, heads = 6, kv_heads = 2, block_tokens = 5, layers = 2, entries = 9, rows = 3;
  int64_t width = (heads + 2 * kv_heads) * head_dim;
  PackedLinear qkv(kernels, dtype, bits, width, hidden, threads), out(kernels, dtype, bits, hidden, heads * head_dim, threads);
  PackedLinear gate_up(kernels, dtype, bits, 2 * ffn, hidden, threads), down(kernels, dtype, bits, hidden, ffn, threads);
  Numbers norm(dtype, hidden), head_norm(dtype, head_dim), cos_sin(0, 64 * head_dim);
  DecoderLayer first{qkv.layer, out.layer, gate_up.layer, down.layer, norm.data(), norm.data(), nullptr, nullptr, 0};
  DecoderLayer second = first;
  second.q_norm = second.k_norm = head_norm.data();
  second.window = 9;
  DecoderLayer both[] = {first, second};
  DecoderShape shape{hidden, ffn, heads, kv_heads, head_dim, (float*)cos_sin.data(), 1e-6f, 0.3f};

  std::vector<int32_t> contexts = {1, 41, 13}, news = {1, 7, 1}, starts = {0}, positions, tables;
  std::vector<int64_t> places;
  for (int64_t row = 0; row < rows; row++) {
    starts.push_back(starts.back() + news[row]);
    for (int64_t i = 0; i < entries; i++)  // beyond the context a table holds garbage
      tables.push_back(i < (contexts[row] + block_tokens - 1) / block_tokens ? (int32_t)(row * entries + i) : 1 << 30);
    for (int32_t position = contexts[row] - news[row]; position < contexts[row]; position++) {
      positions.push_back(position);
      places.push_back((row * entries + position / block_tokens) * block_tokens + position % block_tokens);
    }
  }
  int64_t page_row = int8_pages ? head_dim + 4 : head_dim, page = kv_heads * block_tokens * page_row;
  std::vector<uint8_t> bytes = int8_rows(rows * entries * layers * 2 * kv_heads * block_tokens, head_dim);
  Numbers pool(dtype, rows * entries * layers * 2 * page);
  DecoderStep step{starts.back(), rows, 41, positions.data(), places.data(), starts.data(), contexts.data(),
                   tables.data(), entries, int8_pages ? (void*)bytes.data() : pool.data(), layers * 2 * page, 2 * page,
                   page, block_tokens * page_row, page_row, block_tokens, int8_pages ? 1 : (dtype == 0 ? 4 : 2), 0,
                   int8_pages};
  Numbers x(dtype, starts.back() * hidden), residual(dtype, starts.back() * hidden);
  kernels.decoder_layers(dtype, both, layers, &shape, &step, x.data(), residual.data(), threads);
  x.check("decoder_layers");
  residual.check("decoder_layers");
}

static void decoder_layers(const Kernels& kernels, int dtype, int threads) {
  for (int bits : {0, 8, 4})
    for (bool int8_pages : {false, true})
      for (int head_dim : {8, 34}) layers_in_one_call(kernels, dtype, bits, int8_pages, head_dim, threads);
}

// Every filter and none, on spread logits and on equal ones.
static void sampling(const Kernels& kernels, int threads) {
  const double temperature[] = {0, 1, 0.1, 1, 3, 1, 0.7}, top_p[] = {1, 1, 0.9, 0.999999, 0.5, 1, 0.3};
  const double min_p[] = {0, 0, 0, 0, 1e-9, 0.1, 0}, uniform[] = {0, 0.999999, 0.5, 0, 0.9, 0.1, 0.3};
  const int64_t top_k[] = {0, 0, 0, 0, 1 << 20, 3, 700};
  for (int64_t vocab : {1, 31, 512, 513, 5000})
    for (float spread : {0.0f, 20.0f}) {
      Numbers logits(0, 7 * vocab);
      float* numbers = (float*)logits.data();
      for (int64_t i = 0; i < 7 * vocab; i++) numbers[i] *= spread;
      for (int64_t first : {0, 6}) {  // seven rows, and one alone
        std::vector<int64_t> tokens(7 - first);
        kernels.sample(numbers + first * vocab, vocab, 7 - first, temperature + first, top_k + first, top_p + first,
                       min_p + first, uniform + first, tokens.data(), threads);
        for (int64_t token : tokens)
          if (token < 0 || token >= vocab) exit(3);
      }
      std::vector<uint32_t> bits((vocab + 31) / 32, 0x5aa5f00f);
      std::vector<int64_t> rows = {6};
      kernels.mask_logits(numbers, vocab, rows.data(), 1, bits.data(), (int64_t)bits.size(), threads);
    }
}

static void all(const char* name, const Kernels& kernels) {
  for (int dtype = 0; dtype < 3; dtype++)
    for (int threads : {1, 2, 5}) {
      linears(kernels, dtype, threads);
      quantised(kernels, dtype, threads);
      attentions(kernels, dtype, threads);
      rowwise(kernels, dtype, threads);
      decoder_layers(kernels, dtype, threads);
      if (dtype == 0) sampling(kernels, threads);
      if (dtype == 1) lossless(kernels, threads);
    }
  printf("%s: clean\n", name);
  fflush(stdout);
}

// The pool's threads are alive at the end and hold their scratch memory.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() { return "detect_leaks=0"; }

int main() {
  all("portable", portable_kernels);
#if defined(__x86_64__)
  int highest = tw_highest_level();
  if (highest >= 2) all("avx2", avx2_kernels);
  if (highest >= 3) all("avx512", avx512_kernels);
  if (highest >= 4) all("avx512_vnni", avx512_vnni_kernels);
  if (highest >= 5) all("avx512_bf16", avx512_bf16_kernels);
#endif
}
