// A scheme without encryption that is as strict as one with it: integers are kept modulo
// 2^(width + 1), a lookup of a number that its table does not hold throws, and so does one of more
// noise than allowed. It knows the noise exactly: which fresh ciphertexts take part, how often
// each. As with encryption, the same lookup twice gives the same ciphertext twice.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <span>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace test {

class PlainScheme {
 public:
  struct Ciphertext {
    std::int64_t integer = 0;                                // modulo 2^(width + 1)
    std::map<std::int64_t, std::int64_t> coefficients = {};  // of fresh ciphertexts
    std::int64_t constant = 0;                               // added to them

    double noise() const {
      double variance = 0;
      for (const auto& [fresh, k] : coefficients)
        variance += static_cast<double>(k) * static_cast<double>(k);
      return variance;
    }
  };

  explicit PlainScheme(int width, double noise_limit = std::numeric_limits<double>::infinity())
      : width_(width), noise_limit_(noise_limit) {}

  int width() const { return width_; }
  double noise_limit() const { return noise_limit_; }

  Ciphertext add(Ciphertext a, const Ciphertext& b) const {
    a.integer = wrapped(a.integer + b.integer);
    for (const auto& [fresh, k] : b.coefficients)
      if ((a.coefficients[fresh] += k) == 0) a.coefficients.erase(fresh);
    a.constant += b.constant;
    return a;
  }
  Ciphertext subtract(const Ciphertext& a, const Ciphertext& b) const { return add(a, negate(b)); }
  Ciphertext negate(const Ciphertext& a) const { return multiply_constant(a, -1); }
  Ciphertext add_constant(Ciphertext a, std::int64_t k) const {
    a.integer = wrapped(a.integer + k);
    a.constant += k;
    return a;
  }
  Ciphertext multiply_constant(Ciphertext a, std::int64_t k) const {
    a.integer = wrapped(a.integer * k);
    a.constant *= k;
    if (k == 0) a.coefficients.clear();
    for (auto& [fresh, coefficient] : a.coefficients) coefficient *= k;
    return a;
  }
  Ciphertext lookup(const Ciphertext& a, std::int64_t lowest,
                    std::span<const std::int64_t> table) const {
    const auto i = static_cast<std::size_t>(decrypt(a, lowest) - lowest);
    if (i >= table.size() || table.size() > (std::size_t{1} << width_))
      throw std::logic_error("a lookup outside of its table");
    if (a.noise() > noise_limit_) throw std::logic_error("a lookup with too much noise");
    const std::lock_guard lock(mutex_);
    const auto& [entry, is_new] =
        lookups_.try_emplace({a.coefficients, a.constant, lowest, {table.begin(), table.end()}});
    if (is_new) entry->second = encrypt(table[i]);
    return entry->second;
  }

  Ciphertext encrypt(std::int64_t x) const { return {wrapped(x), {{fresh_++, 1}}, 0}; }
  // The integer at `lowest` or above, as far as integers are told apart.
  std::int64_t decrypt(const Ciphertext& a, std::int64_t lowest) const {
    return lowest + ((a.integer - lowest) & ((std::int64_t{2} << width_) - 1));
  }

 private:
  std::int64_t wrapped(std::int64_t x) const { return x & ((std::int64_t{2} << width_) - 1); }

  int width_;
  double noise_limit_;
  mutable std::atomic<std::int64_t> fresh_ = 0;
  mutable std::mutex mutex_;
  mutable std::map<std::tuple<std::map<std::int64_t, std::int64_t>, std::int64_t, std::int64_t,
                              std::vector<std::int64_t>>,
                   Ciphertext>
      lookups_;
};

}  // namespace test
