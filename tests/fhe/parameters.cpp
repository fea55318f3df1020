#include "parameters.hpp"

#include <bit>
#include <sstream>
#include <stdexcept>

namespace lowatt::fhe {
namespace {

// One failure in 2^40 lookups where TFHE-rs publishes a set for it, which is cheaper, else one in
// 2^64. Widths above 8 bits are not published.
constexpr Parameters sets[] = {
    {"V1_0_MESSAGE_1_CARRY_1_2M40", 2, 750, 3, 512, 1.5140301927925663e-05, 1.9524392655548086e-11,
     17, 1, 4, 3, 3.0 * 3.0, -40.004},
    {"V0_11_MESSAGE_1_CARRY_2_2M64", 3, 858, 2, 1024, 2.348996819227123e-06, 2.845267479601915e-15,
     23, 1, 5, 3, 7.0 * 7.0, -64.415},
    {"V1_0_MESSAGE_2_CARRY_2_2M40", 4, 796, 1, 2048, 6.8462551852215656e-06, 2.845267479601915e-15,
     23, 1, 3, 5, 5.0 * 5.0, -40.489},
    {"V0_11_MESSAGE_1_CARRY_3_2M64", 4, 859, 1, 2048, 2.3088161607134664e-06, 2.845267479601915e-15,
     23, 1, 3, 5, 15.0 * 15.0, -64.088},
    {"V0_11_MESSAGE_3_CARRY_2_2M64", 5, 935, 1, 4096, 6.221794297398788e-07, 2.168404344971009e-19,
     22, 1, 3, 6, 4.0 * 4.0, -64.064},
    {"V0_11_MESSAGE_1_CARRY_4_2M64", 5, 902, 1, 4096, 1.0994794733558207e-06, 2.168404344971009e-19,
     15, 2, 3, 6, 31.0 * 31.0, -64.069},
    {"V1_0_MESSAGE_3_CARRY_3_2M40", 6, 925, 1, 8192, 7.393437385253331e-07, 2.168404344971009e-19,
     15, 2, 3, 6, 9.0 * 9.0, -40.298},
    {"V0_11_MESSAGE_1_CARRY_5_2M64", 6, 981, 1, 8192, 2.8134175707144757e-07, 2.168404344971009e-19,
     15, 2, 3, 6, 63.0 * 63.0, -64.068},
    {"V0_11_MESSAGE_3_CARRY_4_2M64", 7, 1061, 1, 16384, 7.07600596055958e-08, 2.168404344971009e-19,
     15, 2, 3, 7, 18.0 * 18.0, -64.037},
    {"V0_11_MESSAGE_1_CARRY_6_2M64", 7, 1054, 1, 16384, 7.984352743330102e-08,
     2.168404344971009e-19, 11, 3, 3, 7, 127.0 * 127.0, -64.054},
    {"V1_0_MESSAGE_4_CARRY_4_2M40", 8, 1096, 1, 32768, 3.8683927681857106e-08,
     2.168404344971009e-19, 15, 2, 4, 5, 17.0 * 17.0, -40.107},
    {"V0_11_MESSAGE_2_CARRY_6_2M64", 8, 1114, 1, 32768, 2.8356668849263424e-08,
     2.168404344971009e-19, 9, 4, 2, 11, 85.0 * 85.0, -64.001},
};

void require(bool good, const char* name, double value, const char* rule) {
  if (good) return;
  std::ostringstream message;
  message << "TFHE parameter " << name << " is " << value << " but must be " << rule << ".";
  throw std::invalid_argument(message.str());
}

}  // namespace

std::span<const Parameters> parameter_sets() {
  return sets;
}

const Parameters* smallest_set(int width, double squared_norm) {
  for (const Parameters& set : sets) {
    if (set.width >= width && set.noise_limit >= squared_norm) return &set;
  }
  return nullptr;
}

void check(const Parameters& p) {
  const auto size = static_cast<double>(p.polynomial_size);
  require(p.polynomial_size >= 4 && p.polynomial_size <= 32768 &&
              std::has_single_bit(p.polynomial_size),
          "polynomial_size", size, "a power of two from 4 to 32768");
  require(p.width >= 1 && p.width < 16 && (std::size_t{1} << p.width) <= p.polynomial_size, "width",
          p.width, "from 1 to 15, and 2^width at most polynomial_size");
  require(p.lwe_dimension > 0, "lwe_dimension", static_cast<double>(p.lwe_dimension), "positive");
  require(p.glwe_dimension > 0, "glwe_dimension", static_cast<double>(p.glwe_dimension),
          "positive");
  require(p.lwe_noise >= 0 && p.lwe_noise < 0.1, "lwe_noise", p.lwe_noise,
          "at least 0 and below 0.1");
  require(p.glwe_noise >= 0 && p.glwe_noise < 0.1, "glwe_noise", p.glwe_noise,
          "at least 0 and below 0.1");
  require(p.bootstrap_base_bits > 0 && p.bootstrap_base_bits <= 31, "bootstrap_base_bits",
          p.bootstrap_base_bits, "from 1 to 31");
  require(p.bootstrap_levels > 0 && p.bootstrap_levels * p.bootstrap_base_bits < 64,
          "bootstrap_levels", p.bootstrap_levels,
          "positive, and bootstrap_levels * bootstrap_base_bits below 64");
  require(p.key_switch_base_bits > 0 && p.key_switch_base_bits <= 31, "key_switch_base_bits",
          p.key_switch_base_bits, "from 1 to 31");
  // The key's gadget factors 2^-(level * base_bits) are written in 32 bits.
  require(p.key_switch_levels > 0 && p.key_switch_levels * p.key_switch_base_bits <= 32,
          "key_switch_levels", p.key_switch_levels,
          "positive, and key_switch_levels * key_switch_base_bits at most 32");
  require(p.noise_limit >= 1, "noise_limit", p.noise_limit, "at least 1");
}

}  // namespace lowatt::fhe
