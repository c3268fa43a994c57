// What the processor can run. Compiled without any instruction-set flag.

#define TW_API extern "C" __attribute__((visibility("default")))

// Changes with every change of an exported signature or of the packed layout; the loader compares it.
TW_API int tw_abi() { return 8; }

// The highest level (see vec.h) that this processor and operating system can run.
TW_API int tw_highest_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni && __builtin_cpu_supports("avx512bf16")) return 5;
  if (vnni) return 4;
  if (avx512) return 3;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return 2;
#endif
  return 1;
}

// The fastest level. Intel's cores do one vdpbf16ps in the time of four fused multiply-adds, and it replaces two: there
// bf16 is widened and multiplied as float32. AMD's do one a cycle.
TW_API int tw_best_level() {
  int highest = tw_highest_level();
#if defined(__x86_64__)
  if (highest == 5 && __builtin_cpu_is("intel")) return 4;
#endif
  return highest;
}
