// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// Key switching: from a ciphertext under the large key to one of the same phase, and more noise,
// under the small key. The digits of the large ciphertext's mask multiply encryptions of the large
// key's bits.
#pragma once
#include <span>
#include <vector>

#include "parameters.hpp"
#include "torus.hpp"

namespace lowatt::fhe {

class KeySwitchingKey {
 public:
  KeySwitchingKey(const Parameters& parameters, std::span<const Torus> large_key,
                  std::span<const Torus> small_key, std::uint64_t seed);

  // `input` ends with its body, as `output` will.
  void apply(std::span<const Torus> input, std::vector<SmallTorus>& output) const;

  std::size_t bytes() const { return rows_.size() * sizeof(SmallTorus); }

 private:
  Decomposition decomposition_;
  std::size_t row_size_;
  std::vector<SmallTorus> rows_;  // one per bit of the large key and level
};

}  // namespace lowatt::fhe
