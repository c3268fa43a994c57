// The layers of a decoder, one after the other: the same kernels that each op calls, without a way back to the caller
// between them.
#pragma once

#include "attention.h"
#include "decoder_step.h"
#include "linear.h"
#include "lossless.h"
#include "quantised.h"
#include "rowwise.h"

namespace {

template <class E>
struct ProductType {
  typedef E M;
};
template <>
struct ProductType<F16> {
  typedef F32 M;
};

template <class E>
static void attention_over(const AttentionArgs& args, bool int8_pages, int64_t max_context, int threads) {
  if (int8_pages) return attention_of<Int8Pages<E>>(args, max_context, threads);
  attention_of<DensePages<E, typename ProductType<E>::M>>(args, max_context, threads);
}

// What a step's activations are kept in between the ops of a layer.
struct LayerSpace {
  char *normed, *qkv, *attended, *gate_up, *act;
};

template <class E>
struct LayerRun {
  const DecoderShape& shape;
  const DecoderStep& step;
  LayerSpace space;
  int threads;

  int64_t qkv_features() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }

  LayerSpace lay_out(Scratch& scratch) const {
    const int64_t number = sizeof(typename E::T);
    int64_t widths[] = {shape.hidden, qkv_features(), shape.heads * shape.head_dim, 2 * shape.ffn, shape.ffn};
    size_t sizes[5], total = 0;
    for (int i = 0; i < 5; i++) total += sizes[i] = (size_t)(step.tokens * widths[i] * number + 63) / 64 * 64;
    char* at[6] = {scratch.get(total)};
    for (int i = 0; i < 5; i++) at[i + 1] = at[i] + sizes[i];
    return {at[0], at[1], at[2], at[3], at[4]};
  }

  void linear(const LayerLinear& weight, const void* x, void* y) const {
    LinearArgs args{x,           weight.in_features, step.tokens, weight.in_features, weight.data, weight.out_features,
                    weight.bias, nullptr,            0,           y,                  weight.out_features, false};
    if (weight.bits == 8) return quantised_linear_of<E, Int8>(args, weight.group, threads);
    if (weight.bits == 4) return quantised_linear_of<E, Int4>(args, weight.group, threads);
    if constexpr (std::is_same<E, Bf16>::value)
      if (weight.bits == 12) return lossless_linear_of<E>(args, threads);
    linear_of<E>(args, threads);
  }

  void norm(const void* x, const void* added, const void* weight, void* sum) const {
    NormArgs args{x,   shape.hidden, added,       shape.hidden, weight, space.normed,
                  sum, shape.hidden, step.tokens, shape.hidden, shape.eps};
    add_rms_norm_of<E>(args, threads);
  }

  void attend(const DecoderLayer& layer, int64_t index) const {
    char* k_pages = (char*)step.pool + index * step.layer_stride * step.page_number_bytes;
    char* v_pages = k_pages + step.kv_stride * step.page_number_bytes;
    int heads = (int)shape.heads, kv_heads = (int)shape.kv_heads, head_dim = (int)shape.head_dim;
    RopeArgs rope{space.qkv,     qkv_features(), step.tokens,       step.positions,   step.positions_are_64 != 0,
                  step.places,   shape.cos_sin,  k_pages,           v_pages,          step.block_stride,
                  step.head_stride, step.token_stride, (int)step.block_tokens, heads, kv_heads,
                  head_dim,      layer.q_norm,   layer.k_norm,      shape.eps,        step.int8_pages != 0};
    qk_norm_rope_write_of<E>(rope, threads);
    AttentionArgs args{space.qkv,         qkv_features(),    k_pages,     v_pages,           step.block_stride,
                       step.head_stride,  step.token_stride, step.query_starts, step.context_lens, step.tables,
                       step.table_stride, step.rows,         space.attended, heads,          kv_heads,
                       head_dim,          (int)step.block_tokens, shape.scale, layer.window,  0.0f};
    attention_over<E>(args, step.int8_pages != 0, step.max_context, threads);
  }

  void layer(const DecoderLayer& layer, int64_t index, void* x, void* residual) const {
    norm(x, index ? residual : nullptr, layer.input_norm, residual);
    linear(layer.qkv, space.normed, space.qkv);
    attend(layer, index);
    linear(layer.out, space.attended, x);
    norm(x, residual, layer.post_norm, residual);
    linear(layer.gate_up, space.normed, space.gate_up);
    silu_mul_of<E>(space.gate_up, 2 * shape.ffn, step.tokens, shape.ffn, space.act, threads);
    linear(layer.down, space.act, x);
  }
};

// x: the embedded tokens, then what the last layer adds to `residual`.
template <class E>
static void decoder_layers_of(const DecoderLayer* layers, int64_t count, const DecoderShape& shape,
                              const DecoderStep& step, void* x, void* residual, int threads) {
  static thread_local Scratch scratch;
  LayerRun<E> run{shape, step, {}, threads};
  run.space = run.lay_out(scratch);
  for (int64_t index = 0; index < count; index++) run.layer(layers[index], index, x, residual);
}

}  // namespace
