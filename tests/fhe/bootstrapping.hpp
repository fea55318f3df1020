// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// Programmable bootstrapping (Chillotti, Gama, Georgieva, Izabachene 2018/421): a ciphertext under
// the small key is read as exponents of X, and a polynomial whose coefficients are a table is
// turned by X^-phase without knowing the phase: one bit of the small key after the other decides,
// by a product with its encryption (GGSW), whether the polynomial is turned by that bit's exponent.
// The coefficient that ends up in front is the table's entry, under the large key and with noise
// that does not depend on the input's.
#pragma once
#include <span>
#include <vector>

#include "parameters.hpp"
#include "polynomial.hpp"
#include "torus.hpp"

namespace lowatt::fhe {

class BootstrappingKey {
 public:
  BootstrappingKey(const Parameters& parameters, std::span<const Torus> large_key,
                   std::span<const Torus> small_key, std::uint64_t seed);

  // `table` has polynomial_size entries: the torus element for each phase in [0, 1/2), in steps of
  // 1 / (2 * polynomial_size). `input` ends with its body, as `output` will.
  void apply(std::span<const SmallTorus> input, std::span<const Torus> table,
             std::vector<Torus>& output) const;

  std::size_t bytes() const { return rows_.size() * sizeof(Complex); }

 private:
  struct Scratch;

  // Writes the rows of one bit.
  void encrypt(Torus bit, const Complexes& key_values, double noise, Random& random,
               Complex* values) const;

  // accumulator += bit * (X^exponent * accumulator - accumulator), for a bit of the small key.
  void turn_if(std::size_t bit, std::size_t exponent, Scratch& scratch) const;

  std::size_t polynomial_size_;
  std::size_t components_;  // glwe_dimension + 1; the last one is the body
  Decomposition decomposition_;
  Transform transform_;
  // The values of GLWE ciphertexts in turns (torus elements as reals from -1/2 to 1/2): per bit of
  // the small key (glwe_dimension + 1) * levels rows of glwe_dimension + 1 polynomials.
  Complexes rows_;
};

}  // namespace lowatt::fhe
