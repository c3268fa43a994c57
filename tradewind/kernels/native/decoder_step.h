// What decoder_layers is called with. These mirror the structures of decoder_layers/cpu.py.
#pragma once

#include <stdint.h>

struct LayerLinear {
  const void *data, *bias;
  int64_t out_features, in_features;
  int64_t bits, group;  // bits: 8 or 4, 12 (lossless.h), or 0 for a weight of the activations' dtype
};

struct DecoderLayer {
  LayerLinear qkv, out, gate_up, down;
  const void *input_norm, *post_norm, *q_norm, *k_norm;
  int64_t window;
};

struct DecoderShape {
  int64_t hidden, ffn, heads, kv_heads, head_dim;
  const float* cos_sin;
  float eps, scale;
};

struct DecoderStep {
  int64_t tokens, rows, max_context;
  const void* positions;
  const int64_t* places;
  const int32_t *query_starts, *context_lens, *tables;
  int64_t table_stride;
  void* pool;  // [block, layer, 2, kv head, token, number]
  int64_t block_stride, layer_stride, kv_stride, head_stride, token_stride, block_tokens, page_number_bytes;
  int64_t positions_are_64, int8_pages;
};
