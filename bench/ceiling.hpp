// The rate at which this machine retires the instructions that bound a kernel, measured at the
// level that the kernel runs at: what the percentages of ceiling in the benchmarks are percentages
// of.
#pragma once

#include <lowatt/arch/tags.hpp>

namespace bench {

// The register operations of a kernel's inner loop, without its loads and stores.
enum class Work {
  multiply_add,   // fp32 products and sums
  minimum_dot,    // unsigned byte minimum or saturating difference, then a dot product with bytes
  minimum_dot2,   // the same with 16-bit values
  dot,            // exact dot product of unsigned with signed bytes
  popcount,       // xor, popcount of bytes, sum of bytes
  level_pair,     // distance of two levels in each byte, sum of bytes
  level_minimum,  // minimum of levels, sum of bytes
  absolute_sum,   // fp32 difference, magnitude, sum
  inhibited_sum,  // fp32 minimum, maximum, difference, sum
  tile_product    // level amx: 16 x 16 sums, 64 bytes deep; one product counts as one register
};

// Nanoseconds that one register's worth of `work` takes at best.
double nanoseconds_per_register(lowatt::Level level, Work work);

// Bytes in a register of `level`.
int register_bytes(lowatt::Level level);

}  // namespace bench
