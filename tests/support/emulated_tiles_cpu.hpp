// A CPU that has all of level amx but the tile registers has all of it, to a unit that includes
// this before all else (-include); kernels with emulated tiles (emulated_tiles.hpp) are linked to
// it. Only level amx is tested. A program with it must not link other units that look for the
// CPU's level: theirs would differ. On a CPU that has less the program says so, and ends with 77,
// which ctest reports as skipped.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <lowatt/arch/cpu.hpp>

namespace emulated_tiles {

// Before main().
inline const bool is_prepared = [] {
  constexpr unsigned avx512_bf16 = 1u << 5;
  const lowatt::Level level = lowatt::cpu_level();
  if (level < lowatt::Level::avx512icl || (lowatt::detail::cpuid(7, 1).eax & avx512_bf16) == 0) {
    std::printf(
        "Skipped: level amx on emulated tiles: this CPU (%s) lacks %s, which the level needs "
        "beside tiles\n",
        lowatt::level_name(level), level < lowatt::Level::avx512icl ? "avx512icl" : "avx512_bf16");
    std::exit(77);
  }
  return setenv("LOWATT_ARCH", lowatt::level_name(lowatt::Level::amx), 1) == 0;
}();

}  // namespace emulated_tiles

LOWATT_API_BEGIN

inline Level cpu_level_with_emulated_tiles() noexcept {
  return Level::amx;
}

LOWATT_API_END

#define cpu_level cpu_level_with_emulated_tiles
