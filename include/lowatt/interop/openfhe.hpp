// OpenFHE's BinFHE as a Scheme for encrypted integers (encrypted.hpp).
//
//   lbcrypto::BinFHEContext context;
//   context.GenerateBinFHEContext(lbcrypto::STD128, false, 12);  // false: the largest messages
//   const auto secret = context.KeyGen();
//   context.BTKeyGen(secret);
//   const lowatt::OpenFheScheme scheme(context, 3, 4);  // 3 bits are what fits here
//   lowatt::Circuit circuit(scheme);
//   const auto a = circuit.input(scheme.encrypt(secret, -2), {-3, 3});
#pragma once

#include <binfhecontext.h>  // and with it std::vector

#include "circuit.hpp"

LOWATT_API_BEGIN

// The plaintext modulus is 2^(width + 1), at most context.GetMaxPlaintextSpace(): OpenFHE's own
// limit. It publishes no bound of noise: noise_limit (how many times the variance of one fresh
// ciphertext a lookup may read) is for the caller to derive from the parameters. The context
// outlives the scheme.
class OpenFheScheme {
 public:
  struct Ciphertext {
    lbcrypto::LWECiphertext lwe;  // shared between copies, never changed
  };

  OpenFheScheme(lbcrypto::BinFHEContext& context, int width, double noise_limit)
      : context_(&context),
        arithmetic_(context.GetLWEScheme()),
        modulus_(context.GetParams()->GetLWEParams()->Getq().ConvertToInt()),
        width_(width),
        noise_limit_(noise_limit) {}

  int width() const { return width_; }
  double noise_limit() const { return noise_limit_; }

  Ciphertext add(const Ciphertext& a, const Ciphertext& b) const {
    Ciphertext result = copy(a);
    arithmetic_->EvalAddEq(result.lwe, b.lwe);
    return result;
  }
  Ciphertext subtract(const Ciphertext& a, const Ciphertext& b) const {
    Ciphertext result = copy(a);
    arithmetic_->EvalSubEq(result.lwe, b.lwe);
    return result;
  }
  Ciphertext negate(const Ciphertext& a) const { return multiply_constant(a, -1); }
  Ciphertext add_constant(const Ciphertext& a, std::int64_t k) const {
    return shifted(a, remainder(k) * step());
  }
  Ciphertext multiply_constant(const Ciphertext& a, std::int64_t k) const {
    Ciphertext result = copy(a);
    // Negative factors stay small ones, so that noise does: modulo the ciphertext's modulus.
    const auto q = static_cast<std::int64_t>(modulus_);
    arithmetic_->EvalMultConstEq(
        result.lwe, lbcrypto::NativeInteger(static_cast<std::uint64_t>((k % q + q) % q)));
    return result;
  }

  // Messages fill the lower half of the plaintext space; the upper half holds the negated table,
  // which OpenFHE recognises and evaluates by one bootstrap.
  Ciphertext lookup(const Ciphertext& a, std::int64_t lowest,
                    std::span<const std::int64_t> table) const {
    std::vector<lbcrypto::NativeInteger> entries(modulus_, lbcrypto::NativeInteger(0));
    const std::uint64_t half = modulus_ / 2;
    for (std::uint64_t i = 0; i < half; ++i) {
      const std::uint64_t message = i / step();
      const std::uint64_t entry = message < table.size() ? remainder(table[message]) * step() : 0;
      entries[i] = lbcrypto::NativeInteger(entry);
      entries[i + half] = lbcrypto::NativeInteger(modulus_ - entry);
    }
    // EvalFunc moves its input up by beta, which is half a step at the largest plaintext space
    // only.
    const std::uint64_t beta = context_->GetBeta().ConvertToInt();
    return {context_->EvalFunc(
        shifted(a, remainder(-lowest) * step() + modulus_ + step() / 2 - beta).lwe, entries)};
  }

  // The client's side.
  Ciphertext encrypt(const lbcrypto::LWEPrivateKey& secret, std::int64_t x) const {
    return {context_->Encrypt(secret, static_cast<lbcrypto::LWEPlaintext>(remainder(x)),
                              lbcrypto::LARGE_DIM, plaintext_modulus())};
  }
  std::int64_t decrypt(const lbcrypto::LWEPrivateKey& secret, const Ciphertext& a,
                       std::int64_t lowest) const {
    lbcrypto::LWEPlaintext message = 0;
    context_->Decrypt(secret, a.lwe, &message, plaintext_modulus());
    return lowest +
           static_cast<std::int64_t>(remainder(static_cast<std::int64_t>(message) - lowest));
  }

 private:
  std::uint64_t plaintext_modulus() const { return std::uint64_t{2} << width_; }
  std::uint64_t step() const { return modulus_ / plaintext_modulus(); }
  std::uint64_t remainder(std::int64_t x) const {
    return static_cast<std::uint64_t>(x) & (plaintext_modulus() - 1);
  }
  static Ciphertext copy(const Ciphertext& a) {
    return {std::make_shared<lbcrypto::LWECiphertextImpl>(*a.lwe)};
  }
  Ciphertext shifted(const Ciphertext& a, std::uint64_t amount) const {
    Ciphertext result = copy(a);
    arithmetic_->EvalAddConstEq(result.lwe, lbcrypto::NativeInteger(amount % modulus_));
    return result;
  }

  lbcrypto::BinFHEContext* context_;
  std::shared_ptr<lbcrypto::LWEEncryptionScheme> arithmetic_;
  std::uint64_t modulus_;  // of ciphertexts
  int width_;
  double noise_limit_;
};

static_assert(Scheme<OpenFheScheme>);

LOWATT_API_END
