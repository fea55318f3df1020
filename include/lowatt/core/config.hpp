// Compiler and mode settings that every other header builds on.
//
// Two modes:
//   static      (plain `-I include`)      kernels for the best level that this unit's flags allow;
//   dispatched  (LOWATT_DISPATCHED set)   kernels live in one unit per level, chosen at run time.
//
// One rule keeps units with different flags from sharing machine code (the linker keeps one copy of
// every inline function, whichever unit it came from). Each function in this library is either
//   1. LOWATT_ALWAYS_INLINE, so that no copy exists to be shared,
//   2. a template on a level tag (arch/tags.hpp), so that its name says its flags, or
//   3. inside LOWATT_API_BEGIN / LOWATT_API_END, an inline namespace that names mode and level.
// Units that hold kernels of one level use 1 and 2 only; a test reads their symbols.
#pragma once

#include "version.hpp"  // IWYU pragma: export

#if !defined(__x86_64__) && !defined(__AARCH64EL__)
#error "Lowatt: this release has kernels for x86-64 and little-endian AArch64 only"
#endif
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || defined(__ASSOCIATIVE_MATH__)
#error \
    "Lowatt: -ffast-math removes the NaN and rounding rules that results depend on; compile without it"
#endif

#define LOWATT_ALWAYS_INLINE inline __attribute__((always_inline))

#if defined(__cpp_exceptions)
#define LOWATT_HAS_EXCEPTIONS 1
#else
#define LOWATT_HAS_EXCEPTIONS 0
#endif

// clang before 15 has names of its own for the tile instructions.
#if defined(__AVX512BF16__) &&                                                    \
    ((defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)) || \
     (defined(__AMXTILE__) && defined(__AMXINT8__) && defined(__AMXBF16__)))
#define LOWATT_HAS_TILES 1
#else
#define LOWATT_HAS_TILES 0
#endif

// The best level that this unit's flags allow (see arch/tags.hpp for what each one holds).
#if defined(__aarch64__)
#define LOWATT_STATIC_LEVEL neon64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__BMI2__) && defined(__LZCNT__) && \
    defined(__POPCNT__) && defined(__F16C__)
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512CD__)
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && \
    defined(__AVX512BITALG__) && defined(__AVX512VPOPCNTDQ__)
#if LOWATT_HAS_TILES
#define LOWATT_STATIC_LEVEL amx
#else
#define LOWATT_STATIC_LEVEL avx512icl
#endif
#else
#define LOWATT_STATIC_LEVEL avx512
#endif
#else
#define LOWATT_STATIC_LEVEL avx2
#endif
#else
#define LOWATT_STATIC_LEVEL sse2
#endif

#define LOWATT_JOIN_(a, b) a##b
#define LOWATT_JOIN(a, b) LOWATT_JOIN_(a, b)

#if defined(LOWATT_DISPATCHED)
#define LOWATT_API_NAMESPACE dispatched
#else
#define LOWATT_API_NAMESPACE LOWATT_JOIN(static_, LOWATT_STATIC_LEVEL)
#endif

#define LOWATT_API_BEGIN \
  namespace lowatt {     \
  inline namespace LOWATT_API_NAMESPACE {
#define LOWATT_API_END \
  }                    \
  }

#include <cstddef>
#include <cstdint>

namespace lowatt {

// Extents, strides and token positions. Signed, so that differences need no care.
using Index = std::ptrdiff_t;

}  // namespace lowatt
