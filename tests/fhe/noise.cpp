#include "noise.hpp"

#include <cmath>

namespace lowatt::fhe {
namespace {

// The variance of numbers spread evenly over one step.
double rounding(double step) {
  return step * step / 12;
}

// The mean square of digits from -base/2 to base/2 - 1.
double mean_square_digit(double base) {
  return (base * base + 2) / 12;
}

}  // namespace

double lookup_variance(const Parameters& p) {
  const double base = std::ldexp(1.0, p.bootstrap_base_bits);
  const auto n = static_cast<double>(p.lwe_dimension),
             large = static_cast<double>(p.large_dimension());
  const auto components = static_cast<double>(p.glwe_dimension + 1);
  const double digits = components * p.bootstrap_levels * static_cast<double>(p.polynomial_size);
  // Per bit of the small key: the key's noise times the digits, and where the bit is 1, what the
  // digits leave out.
  const double from_key = digits * mean_square_digit(base) * p.glwe_noise * p.glwe_noise;
  const double from_digits =
      rounding(std::ldexp(1.0, -p.bootstrap_base_bits * p.bootstrap_levels)) * (1 + large / 2) / 2;
  // What doubles lose in a product of digits by torus elements, whose mean square is digits *
  // base^2 / 144: as measured for sizes from 512 to 32768: 1.25 * log2(polynomial_size) * (2^-53)^2
  // of it. In the masks it is multiplied by the large key.
  const double lost = 1.25 * std::log2(static_cast<double>(p.polynomial_size)) * 0x1p-106;
  const double from_doubles = digits * base * base / 144 * lost * (1 + large / 2);
  return n * (from_key + from_digits + from_doubles);
}

double key_switching_variance(const Parameters& p) {
  const double base = std::ldexp(1.0, p.key_switch_base_bits);
  const auto large = static_cast<double>(p.large_dimension());
  const double from_key =
      large * p.key_switch_levels * mean_square_digit(base) * p.lwe_noise * p.lwe_noise;
  const double from_digits =
      large / 2 * rounding(std::ldexp(1.0, -p.key_switch_base_bits * p.key_switch_levels));
  return from_key + from_digits;
}

double exponent_variance(const Parameters& p) {
  const double step = 1 / (2 * static_cast<double>(p.polynomial_size));
  return rounding(step) * (1 + static_cast<double>(p.lwe_dimension) / 2);
}

double log2_lookup_failure(const Parameters& p, double squared_norm) {
  const double variance =
      squared_norm * lookup_variance(p) + key_switching_variance(p) + exponent_variance(p);
  const double half_step = std::ldexp(1.0, -p.width - 2);
  return std::log2(std::erfc(half_step / std::sqrt(2 * variance)));
}

}  // namespace lowatt::fhe
