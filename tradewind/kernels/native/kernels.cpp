// Compiled once per instruction set (TW_LEVEL, TW_NAME); the exported names end in the name of the set.
//
// The ABI is plain C: pointers, 64-bit strides in elements, 32-bit flags. dtype: 0 float32, 1 bfloat16, 2 float16.
// int8_pages: rows of pages are 8-bit numbers and a scale (attention_int8.h), not numbers of dtype.
// `threads`: how many threads of the OpenMP pool to use. Callers check shapes and types.
#include "decoder_layers.h"
#include "masked_logits.h"
#include "sample.h"

#define TW_JOIN2(a, b) a##_##b
#define TW_JOIN(a, b) TW_JOIN2(a, b)
#define TW_EXPORT(name) extern "C" __attribute__((visibility("default"))) void TW_JOIN(name, TW_NAME)

#define TW_BY_DTYPE(function, ...)                  \
  switch (dtype) {                                  \
    case 0: return function<F32>(__VA_ARGS__);      \
    case 1: return function<Bf16>(__VA_ARGS__);     \
    default: return function<F16>(__VA_ARGS__);     \
  }

TW_EXPORT(tw_pack)(int dtype, const void* weight, int64_t n, int64_t k, void* out, int threads) {
  TW_BY_DTYPE(pack_of, weight, n, k, out, threads)
}

TW_EXPORT(tw_linear)
(int dtype, const void* x, int64_t x_stride, int64_t rows, int64_t k, const void* weight, int64_t n, const void* bias,
 const void* residual, int64_t residual_stride, void* y, int64_t y_stride, int y_is_float, int threads) {
  LinearArgs args{x, x_stride, rows, k, weight, n, bias, residual, residual_stride, y, y_stride, y_is_float != 0};
  TW_BY_DTYPE(linear_of, args, threads)
}

TW_EXPORT(tw_masked_logits)
(int dtype, const void* x, int64_t x_stride, int64_t rows, int64_t k, const void* weight, int64_t n, const void* bias,
 const uint32_t* bits, int64_t words, float* y, int threads) {
  LinearArgs args{x, x_stride, rows, k, weight, n, bias, nullptr, 0, y, n, true};
  TW_BY_DTYPE(masked_logits_of, args, bits, words, threads)
}

TW_EXPORT(tw_unpack_rows)
(int dtype, const void* packed, int64_t k, const void* ids, int ids_are_64, int64_t count, void* out, int threads) {
  TW_BY_DTYPE(unpack_rows_of, packed, k, ids, ids_are_64 != 0, count, out, threads)
}

// bits: 8 or 4. group: 0 for 8 bits; 32, 64 or 128 for 4.
#define TW_BY_BITS(function, ...)                                             \
  switch (dtype + (bits == 4 ? 3 : 0)) {                                      \
    case 0: return function<F32, Int8>(__VA_ARGS__);                          \
    case 1: return function<Bf16, Int8>(__VA_ARGS__);                         \
    case 2: return function<F16, Int8>(__VA_ARGS__);                          \
    case 3: return function<F32, Int4>(__VA_ARGS__);                          \
    case 4: return function<Bf16, Int4>(__VA_ARGS__);                         \
    default: return function<F16, Int4>(__VA_ARGS__);                         \
  }

TW_EXPORT(tw_quantise)
(int dtype, int bits, int64_t group, const void* weight, int64_t n, int64_t k, void* out, int threads) {
  TW_BY_BITS(quantise_of, weight, n, k, group, out, threads)
}

TW_EXPORT(tw_quantised_linear)
(int dtype, int bits, int64_t group, const void* x, int64_t x_stride, int64_t rows, int64_t k, const void* weight,
 int64_t n, const void* bias, const void* residual, int64_t residual_stride, void* y, int64_t y_stride, int y_is_float,
 int threads) {
  LinearArgs args{x, x_stride, rows, k, weight, n, bias, residual, residual_stride, y, y_stride, y_is_float != 0};
  TW_BY_BITS(quantised_linear_of, args, group, threads)
}

TW_EXPORT(tw_dequantise_rows)
(int dtype, int bits, int64_t group, const void* packed, int64_t k, const void* ids, int ids_are_64, int64_t count,
 void* out, int threads) {
  TW_BY_BITS(dequantise_rows_of, packed, k, group, ids, ids_are_64 != 0, count, out, threads)
}

// bfloat16 alone. counts: one more than there are panels.
TW_EXPORT(tw_lossless_count)(const void* weight, int64_t n, int64_t k, int64_t* counts, int threads) {
  lossless_count_of((const uint16_t*)weight, n, k, counts, threads);
}

TW_EXPORT(tw_lossless_pack)(const void* weight, int64_t n, int64_t k, void* packed, int threads) {
  lossless_pack_of((const uint16_t*)weight, n, k, packed, threads);
}

TW_EXPORT(tw_lossless_linear)
(const void* x, int64_t x_stride, int64_t rows, int64_t k, const void* weight, int64_t n, const void* bias,
 const void* residual, int64_t residual_stride, void* y, int64_t y_stride, int y_is_float, int threads) {
  lossless_linear_of<Bf16>(
      {x, x_stride, rows, k, weight, n, bias, residual, residual_stride, y, y_stride, y_is_float != 0}, threads);
}

TW_EXPORT(tw_lossless_masked_logits)
(const void* x, int64_t x_stride, int64_t rows, int64_t k, const void* weight, int64_t n, const void* bias,
 const uint32_t* bits, int64_t words, float* y, int threads) {
  LinearArgs args{x, x_stride, rows, k, weight, n, bias, nullptr, 0, y, n, true};
  masked_logits_with<Bf16>(args, lossless_panels<Bf16>(args, threads), bits, words, threads);
}

TW_EXPORT(tw_lossless_rows)
(const void* packed, int64_t n, int64_t k, const void* ids, int ids_are_64, int64_t count, void* out, int threads) {
  lossless_rows_of(packed, n, k, ids, ids_are_64 != 0, count, (uint16_t*)out, threads);
}

TW_EXPORT(tw_attention)
(int dtype, const void* q, int64_t q_stride, const void* k_pages, const void* v_pages, int64_t block_stride,
 int64_t head_stride, int64_t token_stride, const int32_t* query_starts, const int32_t* context_lens,
 const int32_t* tables, int64_t table_stride, int64_t rows, void* out, int heads, int kv_heads, int head_dim,
 int block_tokens, float scale, int64_t window, float softcap, int64_t max_context, int int8_pages, int threads) {
  AttentionArgs args{q,            q_stride, k_pages,      v_pages, block_stride, head_stride, token_stride,
                     query_starts, context_lens, tables,   table_stride, rows,    out,         heads,
                     kv_heads,     head_dim, block_tokens, scale,   window,       softcap};
  TW_BY_DTYPE(attention_over, args, int8_pages != 0, max_context, threads)
}

TW_EXPORT(tw_add_rms_norm)
(int dtype, const void* x, int64_t x_stride, const void* residual, int64_t residual_stride, const void* weight,
 void* normed, void* sum, int64_t sum_stride, int64_t rows, int64_t size, float eps, int threads) {
  NormArgs args{x, x_stride, residual, residual_stride, weight, normed, sum, sum_stride, rows, size, eps};
  TW_BY_DTYPE(add_rms_norm_of, args, threads)
}

TW_EXPORT(tw_qk_norm_rope_write)
(int dtype, void* qkv, int64_t stride, int64_t tokens, const void* positions, int positions_are_64,
 const int64_t* places, const float* cos_sin, void* k_pages, void* v_pages, int64_t block_stride, int64_t head_stride,
 int64_t token_stride, int block_tokens, int heads, int kv_heads, int head_dim, const void* q_norm, const void* k_norm,
 float eps, int int8_pages, int threads) {
  RopeArgs args{qkv,     stride,       tokens,      positions,    positions_are_64 != 0, places,
                cos_sin, k_pages,      v_pages,     block_stride, head_stride,           token_stride,
                block_tokens, heads,   kv_heads,    head_dim,     q_norm,                k_norm, eps,
                int8_pages != 0};
  TW_BY_DTYPE(qk_norm_rope_write_of, args, threads)
}

TW_EXPORT(tw_silu_mul)
(int dtype, const void* gate_up, int64_t stride, int64_t rows, int64_t size, void* out, int threads) {
  TW_BY_DTYPE(silu_mul_of, gate_up, stride, rows, size, out, threads)
}

TW_EXPORT(tw_gather_rows)
(const void* table, int64_t row_bytes, const void* ids, int ids_are_64, int64_t count, void* out, int threads) {
  gather_rows_of(table, row_bytes, ids, ids_are_64 != 0, count, out, threads);
}

TW_EXPORT(tw_mask_logits)
(float* logits, int64_t vocab, const int64_t* rows, int64_t count, const uint32_t* bits, int64_t words, int threads) {
  mask_logits_of(logits, vocab, rows, count, bits, words, threads);
}

TW_EXPORT(tw_sample)
(const float* logits, int64_t vocab, int64_t rows, const double* temperature, const int64_t* top_k, const double* top_p,
 const double* min_p, const double* uniform, int64_t* tokens, int threads) {
  sample_of({logits, vocab, rows, temperature, top_k, top_p, min_p, uniform, tokens}, threads);
}

TW_EXPORT(tw_decoder_layers)
(int dtype, const void* layers, int64_t count, const void* shape, const void* step, void* x, void* residual,
 int threads) {
  TW_BY_DTYPE(decoder_layers_of, (const DecoderLayer*)layers, count, *(const DecoderShape*)shape,
              *(const DecoderStep*)step, x, residual, threads)
}
