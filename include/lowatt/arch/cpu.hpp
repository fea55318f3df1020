// What this CPU and its operating system can run, and the LOWATT_ARCH override.
//
// On x86-64 cpuid and xgetbv are read here rather than through __builtin_cpu_supports: compilers
// differ in the names they know, and registers that the system does not save must not be used.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "tags.hpp"

LOWATT_API_BEGIN

namespace detail {

#if defined(__x86_64__)

struct CpuidRegisters {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline CpuidRegisters cpuid(unsigned leaf, unsigned subleaf) noexcept {
  CpuidRegisters r{};
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// Register state that the operating system saves (XCR0); 0 where it saves none beyond SSE.
inline std::uint64_t saved_state(const CpuidRegisters& leaf1) noexcept {
  constexpr unsigned osxsave = 1u << 27;
  if ((leaf1.ecx & osxsave) == 0) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr bool has_all(unsigned value, unsigned bits) noexcept {
  return (value & bits) == bits;
}

// Linux gives a process the 8 KiB of tile registers only when it asks, once, for all its threads;
// other systems are taken to refuse.
inline bool tile_registers_granted() noexcept {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

inline Level probe_cpu() noexcept {
  const CpuidRegisters leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0), extended = cpuid(0x80000001u, 0);
  const std::uint64_t saved = saved_state(leaf1);

  constexpr unsigned fma = 1u << 12, popcnt = 1u << 23, avx = 1u << 28, f16c = 1u << 29;
  constexpr unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8, lzcnt = 1u << 5;
  constexpr std::uint64_t ymm_state = 0x6, zmm_state = 0xe6;
  if ((saved & ymm_state) != ymm_state || !has_all(leaf1.ecx, fma | popcnt | avx | f16c) ||
      !has_all(leaf7.ebx, bmi1 | avx2 | bmi2) || !has_all(extended.ecx, lzcnt))
    return Level::sse2;

  constexpr unsigned f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31;
  if ((saved & zmm_state) != zmm_state || !has_all(leaf7.ebx, f | dq | cd | bw | vl))
    return Level::avx2;

  constexpr unsigned vbmi = 1u << 1, vbmi2 = 1u << 6, vnni = 1u << 11, bitalg = 1u << 12,
                     vpopcntdq = 1u << 14;
  if (!has_all(leaf7.ecx, vbmi | vbmi2 | vnni | bitalg | vpopcntdq)) return Level::avx512;

  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
  constexpr unsigned avx512_bf16 = 1u << 5;
  constexpr std::uint64_t tile_state = 0x60000;
  if ((saved & tile_state) != tile_state || !has_all(leaf7.edx, amx_bf16 | amx_tile | amx_int8) ||
      !has_all(cpuid(7, 1).eax, avx512_bf16) || !tile_registers_granted())
    return Level::avx512icl;
  return Level::amx;
}

#else

inline Level probe_cpu() noexcept {
  return Level::neon64;
}

#endif

}  // namespace detail

// The highest level that this CPU and its system run; they run all lower ones too.
inline Level cpu_level() noexcept {
  static const Level level = detail::probe_cpu();
  return level;
}

// The level called `name`, or false.
inline bool parse_level(const char* name, Level& level) noexcept {
  for (int i = 0; i < level_count; ++i) {
    if (std::strcmp(name, level_name(static_cast<Level>(i))) != 0) continue;
    level = static_cast<Level>(i);
    return true;
  }
  return false;
}

LOWATT_API_END
