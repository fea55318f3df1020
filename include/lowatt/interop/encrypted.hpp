// An encrypted integer that the plain references run on (core/arithmetic.hpp), on any Scheme.
//
//   lowatt::Circuit circuit(server_key);                       // one per row of attention, say
//   const auto a = circuit.input(ciphertext, {-3, 3});         // each ciphertext once
//   const auto b = relu(a - other) * 2;
//   const auto& result = circuit.output(b);                    // when circuit.status().ok()
//
// Additions and plain factors are free, abs, relu, max and lookup() are one bootstrap each, a
// product is two: a * b = floor((a + b)^2 / 4) - floor((a - b)^2 / 4). No step depends on a value.
//
// A number knows the integers that it may be, from the ranges of the inputs on, and bounds its
// noise, given that inputs and lookups of different combinations have independent noise. What a
// scheme is too narrow or too noisy for is refused: before anything runs by check_circuit() (the
// same template on CountingScheme says what it needs), and again while it runs, where the first
// violation ends all lookups and stays in status().
#pragma once

#include <type_traits>

#include "../core/arithmetic.hpp"
#include "circuit.hpp"

LOWATT_API_BEGIN

template <Scheme S>
class EncryptedInteger;

// One computation: its scheme, what it has cost so far, what went wrong. One thread at a time.
template <Scheme S>
class Circuit {
 public:
  using Ciphertext = typename S::Ciphertext;

  explicit Circuit(const S& scheme) noexcept : scheme_(&scheme) {}
  Circuit(const Circuit&) = delete;  // numbers refer to their circuit
  Circuit& operator=(const Circuit&) = delete;

  // A fresh ciphertext that holds some integer of `range`. Numbers of one ciphertext are copies of
  // one input: two inputs are taken to have independent noise.
  EncryptedInteger<S> input(const Ciphertext& ciphertext, const Interval& range) {
    return EncryptedInteger<S>(*this, ciphertext, bounded(range), numbered(fresh_count_++));
  }

  // A result, which must fit a message like what lookups read. Without meaning unless status() is
  // ok; valid as long as the number.
  const Ciphertext& output(const EncryptedInteger<S>& number) noexcept {
    check(number.interval_, number.noise_);
    return number.ciphertext_;
  }

  const CircuitCost& cost() const noexcept { return cost_; }

  // The first violation. Numbers mean nothing after one.
  const Status& status() const noexcept { return status_; }

 private:
  friend class EncryptedInteger<S>;

  void fail(const Status& status) noexcept {
    if (status_.ok()) status_ = status;
  }

  static Noise numbered(std::int64_t number) noexcept {
    return {1, number, number, scrambled(static_cast<std::uint64_t>(number) + 1)};
  }
  // Of what a lookup gives. Lookups of one combination have noise in common: all of it where the
  // tables are the same, and more or less of it where they have entries in common.
  Noise looked_up_noise(const Noise& input) noexcept {
    std::int64_t* number = looked_up_.find(input.fingerprint);
    if (number == nullptr) {
      fail(failure(StatusCode::out_of_memory, "no memory for the numbers of lookups"));
      return {};
    }
    if (*number < 0) *number = fresh_count_++;
    return numbered(*number);
  }

  Interval bounded(const Interval& interval) noexcept {
    if (interval.lowest > interval.highest)
      fail(failure(StatusCode::invalid_argument, "no integer lies in the range %lld to %lld",
                   static_cast<long long>(interval.lowest),
                   static_cast<long long>(interval.highest)));
    else if (interval.lowest < -integer_limit || interval.highest > integer_limit)
      fail(failure(StatusCode::out_of_capacity,
                   "the circuit has numbers of more than %d bits; no lookup has more than %d",
                   width_of({0, integer_limit}) - 1, widest_lookup));
    else
      return interval;
    return {};
  }

  void check(const Interval& interval, const Noise& noise) noexcept {
    const int width = width_of(interval);
    cost_.width = width > cost_.width ? width : cost_.width;
    cost_.noise = noise.variance > cost_.noise ? noise.variance : cost_.noise;
    fail(check_message(width, noise.variance, scheme_->width(), scheme_->noise_limit()));
  }

  // The integer modulo 2^(width + 1) that a table holds for x.
  std::int64_t wrapped(std::int64_t x) const noexcept {
    const int unused = 63 - scheme_->width();
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(x) << unused) >> unused;
  }

  // One bootstrap: f of a number, with f asked for every integer that the number may be.
  template <class F>
  EncryptedInteger<S> looked_up(const EncryptedInteger<S>& number, const F& f) {
    static_assert(std::is_integral_v<decltype(f(std::int64_t{}))>,
                  "tables of lookups hold integers: round what f gives");
    const Interval from = number.interval_;
    check(from, number.noise_);
    // A table even when the scheme is too narrow for it, so that cost() stays complete.
    if (width_of(from) > widest_lookup) {
      fail(failure(StatusCode::out_of_capacity,
                   "the circuit needs messages of %d bits; no lookup has more than %d",
                   width_of(from), widest_lookup));
      return number;
    }
    Array<std::int64_t> table(from.size());
    if (table.empty()) {
      fail(failure(StatusCode::out_of_memory, "no memory for a table of %lld entries",
                   static_cast<long long>(from.size())));
      return number;
    }
    Interval to{};
    for (Index i = 0; i < table.size(); ++i) {
      const auto entry = static_cast<std::int64_t>(f(from.lowest + i));
      if (i == 0 || entry < to.lowest) to.lowest = entry;
      if (i == 0 || entry > to.highest) to.highest = entry;
      table[i] = wrapped(entry);
    }
    to = bounded(to);
    const Noise noise = looked_up_noise(number.noise_);
    if (!status_.ok()) return EncryptedInteger<S>(*this, number.ciphertext_, to, noise);
    return EncryptedInteger<S>(
        *this,
        scheme_->lookup(number.ciphertext_, from.lowest,
                        {table.data(), static_cast<std::size_t>(table.size())}),
        to, noise);
  }

  const S* scheme_;
  CircuitCost cost_{};
  Status status_{};
  std::int64_t fresh_count_ = 0;
  FingerprintTable looked_up_;
};

// An ArithmeticWithProduct. Numbers of one expression belong to one circuit, which outlives them.
template <Scheme S>
class EncryptedInteger {
 public:
  using Constant = std::int64_t;

  // The integers that it may be.
  const Interval& interval() const noexcept { return interval_; }
  // A bound of its noise variance, in multiples of a fresh ciphertext's.
  double noise() const noexcept { return noise_.variance; }

  friend EncryptedInteger operator+(const EncryptedInteger& a, const EncryptedInteger& b) {
    ++a.cost().additions;
    return sum(a, b);
  }
  friend EncryptedInteger operator-(const EncryptedInteger& a, const EncryptedInteger& b) {
    ++a.cost().additions;
    return difference(a, b);
  }
  friend EncryptedInteger operator-(const EncryptedInteger& a) {
    ++a.cost().negations;
    return EncryptedInteger(*a.circuit_, a.scheme().negate(a.ciphertext_),
                            {-a.interval_.highest, -a.interval_.lowest}, a.noise_.times(-1));
  }
  friend EncryptedInteger operator+(const EncryptedInteger& a, Constant k) {
    ++a.cost().constant_additions;
    Interval moved{};
    if (__builtin_add_overflow(a.interval_.lowest, k, &moved.lowest) ||
        __builtin_add_overflow(a.interval_.highest, k, &moved.highest))
      moved = out_of_bounds;
    return EncryptedInteger(*a.circuit_, a.scheme().add_constant(a.ciphertext_, k),
                            a.bounded(moved), a.noise_);
  }
  friend EncryptedInteger operator*(const EncryptedInteger& a, Constant k) {
    ++a.cost().constant_products;
    const Interval& from = a.interval_;
    Interval scaled{};
    if (__builtin_mul_overflow(k < 0 ? from.highest : from.lowest, k, &scaled.lowest) ||
        __builtin_mul_overflow(k < 0 ? from.lowest : from.highest, k, &scaled.highest))
      scaled = out_of_bounds;
    return EncryptedInteger(*a.circuit_, a.scheme().multiply_constant(a.ciphertext_, k),
                            a.bounded(scaled), a.noise_.times(k));
  }
  // Where a mechanism has real numbers, integers need steps of their own.
  template <std::floating_point F>
  friend EncryptedInteger operator+(const EncryptedInteger&, F) = delete;
  template <std::floating_point F>
  friend EncryptedInteger operator*(const EncryptedInteger&, F) = delete;

  friend EncryptedInteger abs(const EncryptedInteger& a) {
    ++a.cost().absolutes;
    return a.looked_up([](std::int64_t x) { return x < 0 ? -x : x; });
  }
  friend EncryptedInteger relu(const EncryptedInteger& a) {
    ++a.cost().relus;
    return positive_part(a);
  }
  friend EncryptedInteger max(const EncryptedInteger& a, const EncryptedInteger& b) {
    ++a.cost().maxima;
    EncryptedInteger result = sum(b, positive_part(difference(a, b)));
    // Nearer than what the sum says.
    result.interval_ = {larger(a.interval_.lowest, b.interval_.lowest),
                        larger(a.interval_.highest, b.interval_.highest)};
    return result;
  }
  template <class F>
  friend EncryptedInteger lookup(const EncryptedInteger& a, const F& f) {
    ++a.cost().functions;
    return a.looked_up(f);
  }
  // The two squares differ by 4ab, so that rounding both down drops the same from both.
  friend EncryptedInteger operator*(const EncryptedInteger& a, const EncryptedInteger& b) {
    ++a.cost().products;
    const auto quarter_square = [](std::int64_t x) { return x * x / 4; };
    EncryptedInteger result =
        difference(sum(a, b).looked_up(quarter_square), difference(a, b).looked_up(quarter_square));
    const Interval& x = a.interval_;
    const Interval& y = b.interval_;
    const std::int64_t corners[] = {x.lowest * y.lowest, x.lowest * y.highest, x.highest * y.lowest,
                                    x.highest * y.highest};
    Interval nearer{corners[0], corners[0]};
    for (const std::int64_t corner : corners) {
      nearer.lowest = corner < nearer.lowest ? corner : nearer.lowest;
      nearer.highest = larger(corner, nearer.highest);
    }
    result.interval_ = a.bounded(nearer);
    return result;
  }

 private:
  friend class Circuit<S>;

  static constexpr Interval out_of_bounds{-2 * integer_limit, 2 * integer_limit};

  EncryptedInteger(Circuit<S>& circuit, const typename S::Ciphertext& ciphertext,
                   const Interval& interval, const Noise& noise)
      : circuit_(&circuit), ciphertext_(ciphertext), interval_(interval), noise_(noise) {}

  CircuitCost& cost() const noexcept { return circuit_->cost_; }
  const S& scheme() const noexcept { return *circuit_->scheme_; }
  Interval bounded(const Interval& interval) const noexcept { return circuit_->bounded(interval); }
  template <class F>
  EncryptedInteger looked_up(const F& f) const {
    return circuit_->looked_up(*this, f);
  }

  static constexpr std::int64_t larger(std::int64_t a, std::int64_t b) noexcept {
    return a > b ? a : b;
  }

  // What the operations are made of, uncounted.
  static EncryptedInteger sum(const EncryptedInteger& a, const EncryptedInteger& b) {
    a.must_share_circuit(b);
    const Interval interval{a.interval_.lowest + b.interval_.lowest,
                            a.interval_.highest + b.interval_.highest};
    return EncryptedInteger(*a.circuit_, a.scheme().add(a.ciphertext_, b.ciphertext_),
                            a.bounded(interval), noise_of_sum(a.noise_, b.noise_));
  }
  static EncryptedInteger difference(const EncryptedInteger& a, const EncryptedInteger& b) {
    a.must_share_circuit(b);
    const Interval interval{a.interval_.lowest - b.interval_.highest,
                            a.interval_.highest - b.interval_.lowest};
    return EncryptedInteger(*a.circuit_, a.scheme().subtract(a.ciphertext_, b.ciphertext_),
                            a.bounded(interval), noise_of_sum(a.noise_, b.noise_.times(-1)));
  }
  static EncryptedInteger positive_part(const EncryptedInteger& a) {
    return a.looked_up([](std::int64_t x) { return x < 0 ? std::int64_t{0} : x; });
  }

  void must_share_circuit(const EncryptedInteger& b) const noexcept {
    if (circuit_ != b.circuit_)
      circuit_->fail(
          failure(StatusCode::invalid_argument, "two numbers are of different circuits"));
  }

  Circuit<S>* circuit_;
  typename S::Ciphertext ciphertext_;
  Interval interval_;
  Noise noise_;
};

static_assert(ArithmeticWithProduct<EncryptedInteger<CountingScheme>>);

LOWATT_API_END
