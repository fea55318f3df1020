// The levels: what a kernel may rely on. One struct per level, used as a template argument, so that
// the name of every kernel function says which instructions it holds.
#pragma once

#include "../core/config.hpp"

namespace lowatt {

// The levels of this architecture, lowest first. A CPU that runs one runs those before it.
#if defined(__x86_64__)
#define LOWATT_LEVELS(each) each(sse2) each(avx2) each(avx512) each(avx512icl) each(amx)
#define LOWATT_LOWEST_LEVEL sse2
#else
#define LOWATT_LEVELS(each) each(neon64)
#define LOWATT_LOWEST_LEVEL neon64
#endif

#define LOWATT_ENUMERATOR(name) name,
enum class Level : int { LOWATT_LEVELS(LOWATT_ENUMERATOR) };
#undef LOWATT_ENUMERATOR

#define LOWATT_ONE(name) +1
inline constexpr int level_count = LOWATT_LEVELS(LOWATT_ONE);
#undef LOWATT_ONE

namespace arch {

#if defined(__x86_64__)

// Any x86-64.
struct sse2 {
  static constexpr Level level = Level::sse2;
};
// AVX2, FMA, BMI1/2, LZCNT, POPCNT, F16C (Haswell, Zen 1).
struct avx2 {
  static constexpr Level level = Level::avx2;
};
// AVX-512 F, BW, VL, DQ, CD (Skylake server).
struct avx512 {
  static constexpr Level level = Level::avx512;
};
// With VNNI, VBMI, VBMI2, BITALG, VPOPCNTDQ (Ice Lake, Zen 4).
struct avx512icl {
  static constexpr Level level = Level::avx512icl;
};
// With AMX-TILE, AMX-INT8, AMX-BF16 and AVX512_BF16 (Sapphire Rapids).
struct amx {
  static constexpr Level level = Level::amx;
};

#else

// Any AArch64: Advanced SIMD.
struct neon64 {
  static constexpr Level level = Level::neon64;
};

#endif

using lowest = LOWATT_LOWEST_LEVEL;

}  // namespace arch

LOWATT_ALWAYS_INLINE constexpr const char* level_name(Level level) noexcept {
#define LOWATT_CASE(name) \
  case Level::name:       \
    return #name;
  switch (level) { LOWATT_LEVELS(LOWATT_CASE) }
#undef LOWATT_CASE
  return "unknown";
}

}  // namespace lowatt
