// The levels: what a kernel may rely on. One struct per level, used as a template argument, so that
// the name of every kernel function says which instructions it holds.
#pragma once

#include "../core/config.hpp"

namespace lowatt {

enum class Level : int { sse2 = 0, avx2 = 1, avx512 = 2, avx512icl = 3, amx = 4 };
inline constexpr int level_count = 5;

namespace arch {

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

}  // namespace arch

LOWATT_ALWAYS_INLINE constexpr const char* level_name(Level level) noexcept {
  switch (level) {
    case Level::sse2:
      return "sse2";
    case Level::avx2:
      return "avx2";
    case Level::avx512:
      return "avx512";
    case Level::avx512icl:
      return "avx512icl";
    case Level::amx:
      return "amx";
  }
  return "unknown";
}

}  // namespace lowatt
