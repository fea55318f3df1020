// Register-only loops, compiled once per level by the units bench/CMakeLists.txt generates.
#pragma once

#include <lowatt/simd/levels.hpp>
#include <lowatt/simd/tiles_amx.hpp>

#include "ceiling.hpp"

namespace bench {

// Runs `repeats` times sixteen independent steps of `work`; returns a number that depends on them.
using CeilingLoop = int (*)(Work work, long repeats);

// Hides a register's value from the optimiser without an instruction.
template <class T>
LOWATT_ALWAYS_INLINE void hide_value(T& value) {
  __asm__ volatile("" : "+x"(value));
}

template <class L, class Step>
LOWATT_ALWAYS_INLINE int repeat(long repeats, typename lowatt::Ops<L>::Register start, Step step) {
  using Register = typename lowatt::Ops<L>::Register;
  constexpr int chains = 8;  // enough to cover latencies, few enough for sixteen registers
  Register sum[chains];
  for (Register& s : sum) s = start;
  for (long i = 0; i < repeats; ++i)
    for (int round = 0; round < 2; ++round)
      for (Register& s : sum) s = step(s);
  alignas(64) std::int32_t lanes[16] = {};
  unsigned result = 0;
  for (const Register& s : sum) {
    lowatt::Ops<L>::store(lanes, s);
    result += static_cast<unsigned>(lanes[0]);
  }
  return static_cast<int>(result);
}

// Sixteen products a time, on four sums.
template <class L>
int repeat_tile_products(long repeats) {
#if LOWATT_HAS_TILES
  lowatt::tiles::configure(16, 64);
  _tile_zero(4);
  _tile_zero(6);
  for (long i = 0; i < repeats; ++i)
    for (int round = 0; round < 4; ++round) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 6);
    }
  lowatt::tiles::release();
#else
  static_cast<void>(repeats);
#endif
  return 0;
}

template <class L>
int ceiling_loop(Work work, long repeats) {
  using Op = lowatt::Ops<L>;
  using Register = typename Op::Register;
  using Float = typename Op::Float;
  Register a = Op::fill_u8(3), b = Op::fill_u8(2);
  const auto as_float = [](Register r) {
    return __builtin_bit_cast(typename Float::register_type, r);
  };
  const auto as_bits = [](Float f) {
    return __builtin_bit_cast(Register, static_cast<typename Float::register_type>(f));
  };
  switch (work) {
    case Work::multiply_add:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            return as_bits(Op::multiply_add(as_float(a), as_float(b), as_float(s)));
          });
    case Work::minimum_dot:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            return Op::narrow_add(s, Op::min_u8(a, b), b);
          });
    case Work::minimum_dot2:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            return Op::dot2(s, Op::min_s16(a, b), b);
          });
    case Work::dot:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            return Op::dot4(s, a, b);
          });
    case Work::popcount:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            if constexpr (Op::counts_by_nibbles)
              return Op::add_u8(s, Op::add_u8(Op::shuffle16(a, b), Op::shuffle16(b, a)));
            else
              return Op::add_u8(s, Op::popcount_u8(Op::bit_xor(a, b)));
          });
    case Work::level_pair:
      // By fields a pair takes what two nibbles of bits do.
      if constexpr (Op::counts_by_nibbles) return ceiling_loop<L>(Work::popcount, repeats);
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            if constexpr (Op::looks_up_64)
              return Op::add_u8(s, Op::lookup_64(a, b));
            else
              return Op::add_u8(Op::add_u8(s, Op::min_u8(a, b)), Op::min_u8(b, s));
          });
    case Work::level_minimum:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            return Op::add_u8(s, Op::min_u8(a, b));
          });
    case Work::absolute_sum:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            return as_bits(Float(as_float(s)) +
                           xsimd::abs(Float(as_float(a)) - Float(as_float(b))));
          });
    case Work::inhibited_sum:
      return repeat<L>(
          repeats, Op::zero(), [&](Register s) __attribute__((always_inline)) {
            hide_value(a);
            const Float value(as_float(a)), limit(as_float(b));
            return as_bits(Float(as_float(s)) +
                           (value - xsimd::max(xsimd::min(value, limit), -limit)));
          });
    case Work::tile_product:
      return repeat_tile_products<L>(repeats);
  }
  return 0;
}

}  // namespace bench
