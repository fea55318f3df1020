#include "keys.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace lowatt::fhe {
namespace {

Torus encode(std::int64_t message, int width) {
  return static_cast<Torus>(message) << (63 - width);
}

std::vector<Torus> random_bits(std::size_t count, Random& random) {
  std::vector<Torus> bits(count);
  for (Torus& bit : bits) bit = random.bit();
  return bits;
}

const Parameters& checked(const Parameters& parameters) {
  check(parameters);
  return parameters;
}

}  // namespace

ClientKey::ClientKey(const Parameters& parameters, std::uint64_t seed)
    : parameters_(checked(parameters)),
      seed_(seed),
      random_(seed, client_stream),
      small_key_(random_bits(parameters.lwe_dimension, random_)),
      large_key_(random_bits(parameters.large_dimension(), random_)) {}

Ciphertext ClientKey::encrypt(std::int64_t message) {
  Ciphertext result;
  result.elements.resize(large_key_.size() + 1);
  Torus body = encode(message, parameters_.width) + random_.noise(parameters_.glwe_noise);
  for (std::size_t i = 0; i < large_key_.size(); ++i) {
    result.elements[i] = random_.uniform();
    body += result.elements[i] * large_key_[i];
  }
  result.elements.back() = body;
  return result;
}

Torus ClientKey::phase(const Ciphertext& ciphertext) const {
  if (ciphertext.elements.size() != large_key_.size() + 1) {
    throw std::invalid_argument("ciphertext has " + std::to_string(ciphertext.elements.size()) +
                                " elements, but under this key it has " +
                                std::to_string(large_key_.size() + 1) + ".");
  }
  Torus phase = ciphertext.elements.back();
  for (std::size_t i = 0; i < large_key_.size(); ++i)
    phase -= ciphertext.elements[i] * large_key_[i];
  return phase;
}

std::int64_t ClientKey::decrypt(const Ciphertext& ciphertext, std::int64_t lowest) const {
  const int shift = 63 - parameters_.width;
  const Torus above_lowest = phase(ciphertext) - encode(lowest, parameters_.width);
  return lowest + static_cast<std::int64_t>((above_lowest + (Torus{1} << (shift - 1))) >> shift);
}

double ClientKey::noise(const Ciphertext& ciphertext, std::int64_t message) const {
  return to_real(phase(ciphertext) - encode(message, parameters_.width));
}

ServerKey::ServerKey(const ClientKey& client)
    : parameters_(client.parameters_),
      key_switching_(parameters_, client.large_key_, client.small_key_, client.seed_),
      bootstrapping_(parameters_, client.large_key_, client.small_key_, client.seed_) {}

void ServerKey::check(const Ciphertext& ciphertext) const {
  if (ciphertext.elements.size() == parameters_.large_dimension() + 1) return;
  throw std::invalid_argument("ciphertext has " + std::to_string(ciphertext.elements.size()) +
                              " elements, but under this key it has " +
                              std::to_string(parameters_.large_dimension() + 1) + ".");
}

Ciphertext ServerKey::add(const Ciphertext& a, const Ciphertext& b) const {
  check(a);
  check(b);
  Ciphertext sum = a;
  for (std::size_t i = 0; i < sum.elements.size(); ++i) sum.elements[i] += b.elements[i];
  return sum;
}

Ciphertext ServerKey::subtract(const Ciphertext& a, const Ciphertext& b) const {
  check(a);
  check(b);
  Ciphertext difference = a;
  for (std::size_t i = 0; i < difference.elements.size(); ++i)
    difference.elements[i] -= b.elements[i];
  return difference;
}

Ciphertext ServerKey::negate(const Ciphertext& a) const {
  return multiply_constant(a, -1);
}

Ciphertext ServerKey::add_constant(const Ciphertext& a, std::int64_t constant) const {
  check(a);
  Ciphertext sum = a;
  sum.elements.back() += encode(constant, parameters_.width);
  return sum;
}

Ciphertext ServerKey::multiply_constant(const Ciphertext& a, std::int64_t constant) const {
  check(a);
  Ciphertext product = a;
  for (Torus& element : product.elements) element *= static_cast<Torus>(constant);
  return product;
}

Ciphertext ServerKey::lookup(const Ciphertext& input, std::int64_t lowest,
                             std::span<const std::int64_t> table) const {
  check(input);
  const std::size_t most = std::size_t{1} << parameters_.width;
  if (table.empty() || table.size() > most) {
    throw std::invalid_argument(
        "table has " + std::to_string(table.size()) + " entries, but a lookup at width " +
        std::to_string(parameters_.width) + " takes 1 to " + std::to_string(most) + ".");
  }
  // A box of the polynomial per integer; half a box up, so that noise of either sign stays within
  // it.
  Ciphertext moved = add_constant(input, -lowest);
  moved.elements.back() += Torus{1} << (62 - parameters_.width);
  const std::size_t box = parameters_.polynomial_size / most;
  std::vector<Torus> polynomial(parameters_.polynomial_size);
  for (std::size_t j = 0; j < polynomial.size(); ++j) {
    polynomial[j] = encode(table[std::min(j / box, table.size() - 1)], parameters_.width);
  }
  std::vector<SmallTorus> switched;
  key_switching_.apply(moved.elements, switched);
  Ciphertext result;
  bootstrapping_.apply(switched, polynomial, result.elements);
  return result;
}

}  // namespace lowatt::fhe
