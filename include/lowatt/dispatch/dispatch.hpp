// Which level runs: the best that CPU and build have, unless the caller or LOWATT_ARCH asks for a
// lower one. A level that the CPU or the build lacks is an error, never an illegal instruction; but
// with static choice the program around the kernels is compiled for the flags' level too.
#pragma once

#include "../arch/cpu.hpp"
#include "../core/status.hpp"
#include "../simd/levels.hpp"
#include "table.hpp"

#if defined(LOWATT_DISPATCHED)
namespace lowatt::kernels {
// Defined by the units that include dispatch/instantiate.hpp, one per level.
#define LOWATT_TABLE(name) const KernelTable& name() noexcept;
LOWATT_LEVELS(LOWATT_TABLE)
#undef LOWATT_TABLE
}  // namespace lowatt::kernels
#endif

namespace lowatt {

// A level to run at; by default LOWATT_ARCH from the environment, else the best.
struct LevelSetting {
  Level value = arch::lowest::level;
  bool given = false;

  LOWATT_ALWAYS_INLINE constexpr LevelSetting() noexcept = default;
  LOWATT_ALWAYS_INLINE constexpr LevelSetting(Level level) noexcept : value(level), given(true) {}
};

}  // namespace lowatt

LOWATT_API_BEGIN

namespace detail {

// A static build for amx has kernels of avx512icl too: whether the system grants tile registers is
// known at run time alone.
#if LOWATT_HAS_TILES
using FallbackLevel = arch::avx512icl;
#else
using FallbackLevel = arch::LOWATT_STATIC_LEVEL;
#endif

}  // namespace detail

// Whether this build has kernels for a level.
constexpr bool level_is_built(Level level) noexcept {
#if defined(LOWATT_DISPATCHED)
  static_cast<void>(level);
  return true;
#else
  return level == arch::LOWATT_STATIC_LEVEL::level || level == detail::FallbackLevel::level;
#endif
}

// Whether this program can run a level on this CPU.
inline bool level_is_available(Level level) noexcept {
  return level_is_built(level) && level <= cpu_level();
}

namespace detail {

inline const KernelTable& table_of(Level level) noexcept {
#if defined(LOWATT_DISPATCHED)
#define LOWATT_CASE(name) \
  case Level::name:       \
    return kernels::name();
  switch (level) { LOWATT_LEVELS(LOWATT_CASE) }
#undef LOWATT_CASE
  return kernels::LOWATT_LOWEST_LEVEL();
#else
  return level == arch::LOWATT_STATIC_LEVEL::level ? kernel_table<arch::LOWATT_STATIC_LEVEL>
                                                   : kernel_table<FallbackLevel>;
#endif
}

inline Status check_level(Level level, const char* source) noexcept {
  if (!level_is_built(level))
    return failure(StatusCode::unsupported,
                   "%s: %s is not in this build, which was compiled for %s alone", source,
                   level_name(level), level_name(arch::LOWATT_STATIC_LEVEL::level));
  if (level > cpu_level())
    return failure(StatusCode::unsupported, "%s: %s needs more than this CPU has, which is %s",
                   source, level_name(level), level_name(cpu_level()));
  return {};
}

// The level that runs when the caller names none.
inline Status default_level(Level& level) noexcept {
  const char* name = std::getenv("LOWATT_ARCH");
  if (name == nullptr || *name == '\0') {
#if defined(LOWATT_DISPATCHED)
    level = cpu_level();
    return {};
#else
    level = arch::LOWATT_STATIC_LEVEL::level;
    if (FallbackLevel::level == cpu_level()) level = FallbackLevel::level;
    return check_level(level, "compiler flags");
#endif
  }
  if (!parse_level(name, level))
    return failure(StatusCode::unsupported, "LOWATT_ARCH: no level is called %.64s", name);
  return check_level(level, "LOWATT_ARCH");
}

}  // namespace detail

// The kernels to run; `table` is set only on success. The environment is read once.
inline Status try_find_kernels(const LevelSetting& setting, const KernelTable*& table) noexcept {
  struct Default {
    Level level = arch::lowest::level;
    Status status = detail::default_level(level);
  };
  Level level = setting.value;
  if (setting.given) {
    if (Status status = detail::check_level(level, "level"); !status.ok()) return status;
  } else {
    static const Default chosen;
    if (!chosen.status.ok()) return chosen.status;
    level = chosen.level;
  }
  table = &detail::table_of(level);
  return {};
}

LOWATT_API_END
