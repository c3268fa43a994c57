// Compiled once per instruction set (TW_LEVEL, TW_NAME); the exported names end in the name of the set.
//
// The ABI is plain C: pointers, 64-bit strides in elements, 32-bit flags. dtype: 0 float32, 1 bfloat16, 2 float16.
// `threads`: how many threads of the OpenMP pool to use. Callers check shapes and types.
#include "linear.h"

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

TW_EXPORT(tw_unpack_rows)
(int dtype, const void* packed, int64_t k, const void* ids, int ids_are_64, int64_t count, void* out, int threads) {
  TW_BY_DTYPE(unpack_rows_of, packed, k, ids, ids_are_64 != 0, count, out, threads)
}
