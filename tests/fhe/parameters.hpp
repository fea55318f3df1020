// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// Parameter sets for TFHE with 64-bit torus elements, binary keys and normally distributed noise,
// in the order of TFHE-rs' "ks_pbs": ciphertexts lie under the large key, a lookup first switches
// to the small key and then bootstraps. The sets are TFHE-rs' published ones for 128 bits of
// security: https://github.com/zama-ai/tfhe-rs, folder
// tfhe/src/shortint/parameters/classic/gaussian, files p_fail_2_minus_40/ks_pbs.rs (V1_0_...,
// commit 407f8c40e6) and p_fail_2_minus_64/ks_pbs.rs (V0_11_..., commit 1bd0e2ae21). Security lies
// in the pairs (lwe_dimension, lwe_noise) and (glwe_dimension * polynomial_size, glwe_noise), which
// are theirs unchanged.
#pragma once
#include <cstddef>
#include <span>

namespace lowatt::fhe {

struct Parameters {
  const char* name;             // TFHE-rs' name, without KS_PBS_GAUSSIAN
  int width;                    // bits of a message: TFHE-rs' message and carry bits together
  std::size_t lwe_dimension;    // n, of the small key
  std::size_t glwe_dimension;   // k
  std::size_t polynomial_size;  // N; the large key has k * N bits
  double lwe_noise;             // standard deviations as parts of the torus
  double glwe_noise;
  int bootstrap_base_bits;
  int bootstrap_levels;
  int key_switch_base_bits;
  int key_switch_levels;
  double noise_limit;          // squared 2-norm of the linear work between two lookups
  double log2_lookup_failure;  // published probability that a lookup at noise_limit goes wrong

  std::size_t large_dimension() const { return glwe_dimension * polynomial_size; }
};

// Ascending width, then ascending cost.
std::span<const Parameters> parameter_sets();

// The cheapest set for messages of so many bits or more and linear work of that squared 2-norm;
// nullptr when there is none.
const Parameters* smallest_set(int width, double squared_norm);

// Throws std::invalid_argument that names the parameter and its value.
void check(const Parameters& parameters);

}  // namespace lowatt::fhe
