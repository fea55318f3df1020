// A computation on encrypted integers as its owner sees it before it runs: what it costs, how wide
// its messages become and how much noise they gather; and the scheme that it needs.
//
// A message is w bits: a ciphertext stands for one of 2^w consecutive integers, which ones is known
// without a key. Ciphertexts are added and multiplied with plain integers almost for free; anything
// else is a lookup (a programmable bootstrap), which is what time goes to. Integers are kept modulo
// 2^(w+1), so that sums may leave every window on their way: only what a lookup reads, and what is
// read out in the end, has to lie in one.
#pragma once

#include <concepts>
#include <span>

#include "../core/array.hpp"
#include "../core/status.hpp"

namespace lowatt {

// What a server knows of a homomorphic encryption scheme: no secret key. Functions may be called by
// several threads at once.
//   add, subtract, negate, add_constant, multiply_constant    without a bootstrap
//   lookup(a, lowest, table)   table[a - lowest], for a in [lowest, lowest + table.size() - 1]. The
//                              table has at most 2^width() integers, each one modulo
//                              2^(width() + 1); the same lookup twice gives one ciphertext twice
//   noise_limit()              how many times the variance of one fresh ciphertext (encrypted or
//                              looked up) the input of a lookup may have
template <class S>
concept Scheme = std::copyable<typename S::Ciphertext> &&
    requires(const S& scheme, const typename S::Ciphertext& a, std::int64_t k,
             std::span<const std::int64_t> table) {
  { scheme.width() } -> std::convertible_to<int>;
  { scheme.noise_limit() } -> std::convertible_to<double>;
  { scheme.add(a, a) } -> std::same_as<typename S::Ciphertext>;
  { scheme.subtract(a, a) } -> std::same_as<typename S::Ciphertext>;
  { scheme.negate(a) } -> std::same_as<typename S::Ciphertext>;
  { scheme.add_constant(a, k) } -> std::same_as<typename S::Ciphertext>;
  { scheme.multiply_constant(a, k) } -> std::same_as<typename S::Ciphertext>;
  { scheme.lookup(a, k, table) } -> std::same_as<typename S::Ciphertext>;
};

}  // namespace lowatt

LOWATT_API_BEGIN

// Integers that a number may be, both ends included.
struct Interval {
  std::int64_t lowest = 0, highest = 0;

  constexpr std::int64_t size() const noexcept { return highest - lowest + 1; }
  bool operator==(const Interval&) const = default;
};

// Bits of a message that tells the interval's integers apart.
constexpr int width_of(const Interval& interval) noexcept {
  const auto span = static_cast<std::uint64_t>(interval.highest - interval.lowest);
  return span == 0 ? 0 : 64 - __builtin_clzll(span);
}

// No table is made that is wider than this, nor an interval that reaches farther than
// integer_limit: both are far beyond what can be bootstrapped, and near enough that planning ends.
inline constexpr int widest_lookup = 20;
inline constexpr std::int64_t integer_limit = std::int64_t{1} << 30;

// The noise of a linear combination of fresh ciphertexts, in multiples of the variance of one. With
// independent noise it is the sum of the squared coefficients. Fresh ciphertexts are numbered as
// they appear; all that take part have numbers in [first, last].
struct Noise {
  double variance = 0;
  std::int64_t first = 0, last = -1;
  // Equal for equal combinations, whatever constants were added, and for others by a chance of
  // 2^-64: the sum of coefficients times a random number for each ciphertext.
  std::uint64_t fingerprint = 0;

  constexpr Noise times(std::int64_t k) const noexcept {
    const auto factor = static_cast<double>(k);
    return {factor * factor * variance, first, last, fingerprint * static_cast<std::uint64_t>(k)};
  }
};

// Of a + b, or more. Combinations whose numbers lie apart share no ciphertext, and variances of
// independent noise add. Others may share some, in which coefficients add: the norm of a sum is at
// most the sum of the norms (2a has four times a's variance, not twice).
inline Noise noise_of_sum(const Noise& a, const Noise& b) noexcept {
  const bool apart = a.last < b.first || b.last < a.first;
  const double common = apart ? 0 : 2 * __builtin_sqrt(a.variance * b.variance);
  return {a.variance + b.variance + common, a.first < b.first ? a.first : b.first,
          a.last > b.last ? a.last : b.last, a.fingerprint + b.fingerprint};
}

// A random number that x stands for (the finaliser of splitmix64: every bit of x changes all).
constexpr std::uint64_t scrambled(std::uint64_t x) noexcept {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// The numbers of ciphertexts by the fingerprints of what was looked up.
class FingerprintTable {
 public:
  // Where the number of this fingerprint is kept, -1 if it is a new one; null when memory runs out.
  std::int64_t* find(std::uint64_t fingerprint) noexcept {
    if (2 * count_ >= slots_.size() && !grow()) return nullptr;
    Slot& slot = slot_of(slots_, fingerprint);
    count_ += slot.is_used ? 0 : 1;
    if (!slot.is_used) slot = {fingerprint, -1, true};
    return &slot.number;
  }

 private:
  struct Slot {
    std::uint64_t fingerprint;
    std::int64_t number;
    bool is_used;
  };

  // Fingerprints are as good as random: their lowest bits say where to begin.
  static Slot& slot_of(Array<Slot>& slots, std::uint64_t fingerprint) noexcept {
    const auto mask = static_cast<std::uint64_t>(slots.size()) - 1;
    std::uint64_t i = fingerprint & mask;
    const auto at = [&]() -> Slot& { return slots[static_cast<Index>(i)]; };
    while (at().is_used && at().fingerprint != fingerprint) i = (i + 1) & mask;
    return at();
  }
  bool grow() noexcept {
    Array<Slot> larger(slots_.empty() ? 64 : 2 * slots_.size());
    if (larger.empty()) return false;
    for (const Slot& slot : slots_)
      if (slot.is_used) slot_of(larger, slot.fingerprint) = slot;
    slots_ = static_cast<Array<Slot>&&>(larger);
    return true;
  }

  Array<Slot> slots_;  // a power of two of them, at most half of them used
  Index count_ = 0;
};

// What a circuit came to: operations as its template asks for them, and what its scheme must have.
struct CircuitCost {
  std::int64_t additions = 0;  // of two ciphertexts, subtractions too
  std::int64_t negations = 0, constant_additions = 0, constant_products = 0;
  std::int64_t absolutes = 0, relus = 0, functions = 0, maxima = 0;  // one lookup each
  std::int64_t products = 0;                                         // two lookups each
  int width = 0;     // of the widest number that is looked up or read out
  double noise = 0;  // largest variance of such a number, in multiples of a fresh ciphertext's

  constexpr std::int64_t bootstraps() const noexcept {
    return absolutes + relus + functions + maxima + 2 * products;
  }
  constexpr std::int64_t operations() const noexcept {
    return additions + negations + constant_additions + constant_products + absolutes + relus +
           functions + maxima + products;
  }
  bool operator==(const CircuitCost&) const = default;

  // Both, one after the other.
  constexpr CircuitCost& operator+=(const CircuitCost& other) noexcept {
    additions += other.additions;
    negations += other.negations;
    constant_additions += other.constant_additions;
    constant_products += other.constant_products;
    absolutes += other.absolutes;
    relus += other.relus;
    functions += other.functions;
    maxima += other.maxima;
    products += other.products;
    width = width > other.width ? width : other.width;
    noise = noise > other.noise ? noise : other.noise;
    return *this;
  }
};

// Whether numbers of such a width and noise can be looked up; the sentence says what they need.
inline Status check_message(int width, double noise, int scheme_width,
                            double noise_limit) noexcept {
  if (width > scheme_width)
    return failure(StatusCode::out_of_capacity,
                   "the circuit needs messages of %d bits; the scheme has %d", width, scheme_width);
  if (!(noise <= noise_limit))
    return failure(StatusCode::out_of_capacity,
                   "the circuit sums up %g times the noise variance of a fresh ciphertext; "
                   "at %d bits the scheme allows %g",
                   noise, scheme_width, noise_limit);
  return {};
}

// The same before a circuit runs, from what planning says (CountingScheme).
template <Scheme S>
Status check_circuit(const CircuitCost& cost, const S& scheme) noexcept {
  return check_message(cost.width, cost.noise, scheme.width(), scheme.noise_limit());
}

// A scheme without ciphertexts: running a template on it plans the circuit.
struct CountingScheme {
  struct Ciphertext {};

  constexpr int width() const noexcept { return 62; }  // no limit
  constexpr double noise_limit() const noexcept { return __builtin_inf(); }
  Ciphertext add(const Ciphertext&, const Ciphertext&) const noexcept { return {}; }
  Ciphertext subtract(const Ciphertext&, const Ciphertext&) const noexcept { return {}; }
  Ciphertext negate(const Ciphertext&) const noexcept { return {}; }
  Ciphertext add_constant(const Ciphertext&, std::int64_t) const noexcept { return {}; }
  Ciphertext multiply_constant(const Ciphertext&, std::int64_t) const noexcept { return {}; }
  Ciphertext lookup(const Ciphertext&, std::int64_t, std::span<const std::int64_t>) const noexcept {
    return {};
  }
};

LOWATT_API_END
