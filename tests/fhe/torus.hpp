// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// The torus, that is the reals modulo 1, in 64 bits: an integer t stands for t / 2^64. Ciphertexts
// under the small key, whose noise exceeds 2^-26 in all sets, have 32 bits: half the memory and
// time of key switching.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

namespace lowatt::fhe {

using Torus = std::uint64_t;
using SmallTorus = std::uint32_t;

// The representative of t nearest to zero, as a real number.
inline double to_real(Torus t) {
  return std::ldexp(static_cast<double>(static_cast<std::int64_t>(t)), -64);
}

// Streams of random numbers of one seed.
constexpr std::uint32_t client_stream = 0, key_switching_stream = 1, first_bootstrapping_stream = 2;

// The bits of a secret key, and the random numbers of all others. A seeded generator, so that tests
// can be repeated: whoever knows the seed, or enough of what it made, knows the keys.
class Random {
 public:
  Random(std::uint64_t seed, std::uint32_t stream) {
    std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                           stream};
    engine_.seed(sequence);
  }

  Torus uniform() { return engine_(); }
  Torus bit() { return engine_() >> 63; }
  Torus noise(double standard_deviation) {
    return static_cast<Torus>(std::llround(std::ldexp(normal_(engine_) * standard_deviation, 64)));
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

// Writes t as the sum over levels j = 1, 2, ... of digit_j / base^j, with digits from -base/2 to
// base/2 - 1, up to an error of at most half of 1 / base^levels.
class Decomposition {
 public:
  Decomposition(int base_bits, int levels) : base_bits_(base_bits), levels_(levels) {
    offset_ = Torus{1} << (63 - base_bits * levels);
    for (int level = 1; level <= levels; ++level)
      offset_ += Torus{1} << (63 - base_bits * (level - 1));
  }

  int levels() const { return levels_; }
  Torus factor(int level) const { return Torus{1} << shift(level); }

  // Adding this first rounds to the last level, and makes all digits positive by base / 2: no
  // carries.
  Torus offset() const { return offset_; }
  std::int64_t digit(Torus with_offset, int level) const {
    const Torus base = Torus{1} << base_bits_;
    return static_cast<std::int64_t>((with_offset >> shift(level)) & (base - 1)) -
           static_cast<std::int64_t>(base / 2);
  }

  // The same as a function from torus elements to reals, which compilers vectorise: an integer in
  // the low bits of 2^52 is that much more than 2^52.
  auto real_digit(int level) const {
    const Torus mask = (Torus{1} << base_bits_) - 1;
    return [mask, by = shift(level),
            less = 0x1p52 + static_cast<double>(mask / 2 + 1)](Torus with_offset) {
      return std::bit_cast<double>(((with_offset >> by) & mask) | std::bit_cast<Torus>(0x1p52)) -
             less;
    };
  }

 private:
  int shift(int level) const { return 64 - base_bits_ * level; }

  int base_bits_, levels_;
  Torus offset_ = 0;
};

}  // namespace lowatt::fhe
