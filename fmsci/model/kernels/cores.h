/* The arithmetic in the header ARITHMETIC, once for each kind of x86-64 core: a register of it holds LANES numbers. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__x86_64__) || !defined(__GNUC__) || defined(__clang__)
#error "written for GCC on x86-64; elsewhere fmsci takes torch's operations"
#endif

#define EIGHT 8
#define INLINE static inline __attribute__((always_inline))

INLINE ptrdiff_t smaller(ptrdiff_t one, ptrdiff_t other) { return one < other ? one : other; }

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(x) x##_8
#define LANES 8
#define PAST_CACHES(pointer, value) __builtin_ia32_movntps256(pointer, value)
#include "registers.h"
#include ARITHMETIC
#undef NAME
#undef LANES
#undef PAST_CACHES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define NAME(x) x##_16
#define LANES 16
#define PAST_CACHES(pointer, value) __builtin_ia32_movntps512(pointer, value)
#include "registers.h"
#include ARITHMETIC
#undef NAME
#undef LANES
#undef PAST_CACHES
#pragma GCC pop_options

#define BY_CORE(function, ...) ((lanes) == 16 ? function##_16(__VA_ARGS__) : function##_8(__VA_ARGS__))
