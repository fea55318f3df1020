// Attention of one head on integers of a few bits, as `encrypted` runs it: plain, planned and
// encrypted alike, each by the library's own reference of one row.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "lowatt/core/softmax_row.hpp"
#include "lowatt/inhibitor/reference.hpp"
#include "lowatt/interop/encrypted.hpp"

namespace support {

enum class EncryptedKind { inhibitor, product, softmax };

// What a server may know of a head: its shape, and how numbers were quantised.
struct EncryptedShape {
  lowatt::Index tokens = 0, dim = 0;
  std::int64_t limit = 0;  // largest absolute value of an input, 2^(bits - 1) - 1
  double scale = 0;        // of scores
  double step = 0;         // what 1 stands for in Q and K
  lowatt::InhibitorConstants inhibition{};
  bool is_signed = true;
};

// Integers [tokens][dim], Q and K of one step, V of another.
struct EncryptedInputs {
  EncryptedShape shape;
  std::vector<std::int64_t> q, k, v;
};

// Standard normal numbers, quantised as the library does, to so many bits; alpha is in units of V.
EncryptedInputs random_inputs(lowatt::Index tokens, lowatt::Index dim, int bits, double alpha,
                              bool is_signed, std::uint64_t seed);

// The functions of one number that attention from products asks for. Each result has as many bits
// as the inputs: logits are in steps of Q and K, weights and their inverse in units of 1 / limit.
struct ProductTables {
  EncryptedShape shape;

  template <class A>
  A scaled(const A& dot) const {
    using lowatt::arithmetic::lookup;
    return lookup(dot, [this](std::int64_t x) {
      const std::int64_t logit = std::llround(static_cast<double>(x) * shape.step * shape.scale);
      return logit < -shape.limit ? -shape.limit : logit > shape.limit ? shape.limit : logit;
    });
  }
  // Differences from the maximum are at most 0; the table covers what an interval cannot rule out.
  template <class A>
  A weight(const A& difference) const {
    using lowatt::arithmetic::lookup;
    return lookup(difference, [this](std::int64_t x) {
      const double weight = x > 0 ? 1 : std::exp(static_cast<double>(x) * shape.step);
      return static_cast<std::int64_t>(std::llround(static_cast<double>(shape.limit) * weight));
    });
  }
  // The weight of the maximum alone is `limit`.
  template <class A>
  A inverse(const A& sum_of_weights) const {
    using lowatt::arithmetic::lookup;
    return lookup(sum_of_weights, [this](std::int64_t x) {
      const std::int64_t sum = x < shape.limit ? shape.limit : x;
      return (2 * shape.limit * shape.limit + sum) / (2 * sum);
    });
  }
};

// One row by the references in include/lowatt. Queries are [dim], keys and values [tokens][dim].
template <class A>
std::vector<A> attention_row(EncryptedKind kind, const EncryptedShape& shape, const A* query,
                             const A* keys, const A* values) {
  const lowatt::VisibleRange all{0, shape.tokens};
  const ProductTables tables{shape};
  std::vector<A> out(values, values + shape.dim);  // overwritten: some types have no zero
  switch (kind) {
    case EncryptedKind::inhibitor:
      lowatt::inhibitor_row(query, keys, values, shape.dim, shape.dim, all, shape.is_signed, false,
                            lowatt::InhibitorIntegerSteps{shape.inhibition, shape.tokens},
                            out.data());
      break;
    case EncryptedKind::product:
      lowatt::scaled_product_attention_row(query, keys, values, shape.dim, shape.dim, all, tables,
                                           out.data());
      break;
    case EncryptedKind::softmax: {
      std::vector<A> logits;
      for (lowatt::Index j = 0; j < shape.tokens; ++j)
        logits.push_back(
            tables.scaled(lowatt::dot_product(query, keys + j * shape.dim, shape.dim)));
      const auto logit = [&](lowatt::Index j) { return logits[static_cast<std::size_t>(j)]; };
      lowatt::softmax_row(logit, values, shape.dim, all, tables, out.data());
      break;
    }
  }
  return out;
}

// What a server gives back for a row.
template <lowatt::Scheme S>
struct EncryptedRow {
  std::vector<typename S::Ciphertext> out;  // means something only where status is ok
  std::vector<lowatt::Interval> intervals;  // that results lie in
  lowatt::CircuitCost cost;
  lowatt::Status status;
};

// The server's work: ciphertexts in, ciphertexts out, and no key but the scheme's.
template <lowatt::Scheme S>
EncryptedRow<S> encrypted_row(const S& scheme, EncryptedKind kind, const EncryptedShape& shape,
                              std::span<const typename S::Ciphertext> query,
                              std::span<const typename S::Ciphertext> keys,
                              std::span<const typename S::Ciphertext> values) {
  lowatt::Circuit<S> circuit(scheme);
  const auto numbers = [&](std::span<const typename S::Ciphertext> ciphertexts) {
    std::vector<lowatt::EncryptedInteger<S>> result;
    for (const auto& ciphertext : ciphertexts)
      result.push_back(circuit.input(ciphertext, {-shape.limit, shape.limit}));
    return result;
  };
  const auto q = numbers(query), k = numbers(keys), v = numbers(values);
  EncryptedRow<S> row;
  for (const auto& number : attention_row(kind, shape, q.data(), k.data(), v.data())) {
    row.out.push_back(circuit.output(number));
    row.intervals.push_back(number.interval());
  }
  row.cost = circuit.cost();
  row.status = circuit.status();
  return row;
}

// What one row will cost; all rows cost the same.
EncryptedRow<lowatt::CountingScheme> plan_row(EncryptedKind kind, const EncryptedShape& shape);

}  // namespace support
