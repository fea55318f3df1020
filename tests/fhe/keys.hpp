// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// Integers encrypted by TFHE: who holds the ClientKey encrypts and decrypts, who holds the
// ServerKey computes. The window of 2^width integers that a ciphertext's lies in is for the caller
// to keep track of. Integers are known modulo 2^(width + 1); the torus element of m is
// m / 2^(width + 1), plus noise.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "bootstrapping.hpp"
#include "key_switching.hpp"
#include "parameters.hpp"
#include "torus.hpp"

namespace lowatt::fhe {

// LWE under the large key: glwe_dimension * polynomial_size mask elements, then the body.
struct Ciphertext {
  std::vector<Torus> elements;
};

class ClientKey {
 public:
  ClientKey(const Parameters& parameters, std::uint64_t seed);

  Ciphertext encrypt(std::int64_t message);
  // The integer in [lowest, lowest + 2^width). Noise beyond the limit, or an integer from
  // elsewhere, gives a wrong one, or one up to 2^width above the window.
  std::int64_t decrypt(const Ciphertext& ciphertext, std::int64_t lowest) const;
  // The noise of an encryption of that integer, as a part of the torus. Decryption fails from 1 /
  // 2^(width + 2) on.
  double noise(const Ciphertext& ciphertext, std::int64_t message) const;

  const Parameters& parameters() const { return parameters_; }

 private:
  friend class ServerKey;

  Torus phase(const Ciphertext& ciphertext) const;

  Parameters parameters_;
  std::uint64_t seed_;
  Random random_;
  std::vector<Torus> small_key_,
      large_key_;  // bits; the large one is all polynomials of the GLWE key in a row
};

// A scheme for lowatt::EncryptedInteger. Its functions may be called by several threads at once.
class ServerKey {
 public:
  using Ciphertext = fhe::Ciphertext;

  // Uses all cores.
  explicit ServerKey(const ClientKey& client);

  int width() const { return parameters_.width; }
  // How many times the variance of a lookup's result a lookup's input may have.
  double noise_limit() const { return parameters_.noise_limit; }

  Ciphertext add(const Ciphertext& a, const Ciphertext& b) const;
  Ciphertext subtract(const Ciphertext& a, const Ciphertext& b) const;
  Ciphertext negate(const Ciphertext& a) const;
  Ciphertext add_constant(const Ciphertext& a, std::int64_t constant) const;
  Ciphertext multiply_constant(const Ciphertext& a, std::int64_t constant) const;

  // table[m - lowest] for the integer m of the input, which lies in [lowest, lowest +
  // table.size()): one key switch and one bootstrap. Throws std::invalid_argument when the table is
  // empty or has more than 2^width entries.
  Ciphertext lookup(const Ciphertext& input, std::int64_t lowest,
                    std::span<const std::int64_t> table) const;

  const Parameters& parameters() const { return parameters_; }
  std::size_t bytes() const { return key_switching_.bytes() + bootstrapping_.bytes(); }

 private:
  void check(const Ciphertext& ciphertext) const;

  Parameters parameters_;
  KeySwitchingKey key_switching_;
  BootstrappingKey bootstrapping_;
};

}  // namespace lowatt::fhe
