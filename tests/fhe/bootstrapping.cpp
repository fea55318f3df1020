#include "bootstrapping.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <future>
#include <thread>

namespace lowatt::fhe {
namespace {

// Calls take(j, coefficient j of X^exponent * x modulo X^N + 1), for exponents below 2N.
template <class Take>
void turn(const Torus* x, std::size_t size, std::size_t exponent, Take take) {
  const std::size_t first = exponent % size;
  const Torus sign = exponent < size ? 0 : ~Torus{0};  // (t ^ sign) - sign is t or -t
  for (std::size_t j = 0; j < first; ++j) take(j, (x[size - first + j] ^ ~sign) - ~sign);
  for (std::size_t j = first; j < size; ++j) take(j, (x[j - first] ^ sign) - sign);
}

}  // namespace

struct BootstrappingKey::Scratch {
  std::vector<Torus> accumulator, difference;  // components polynomials
  Complexes digits;                            // values of components * levels polynomials
  Complexes sums;                              // values of components polynomials
};

BootstrappingKey::BootstrappingKey(const Parameters& parameters, std::span<const Torus> large_key,
                                   std::span<const Torus> small_key, std::uint64_t seed)
    : polynomial_size_(parameters.polynomial_size),
      components_(parameters.glwe_dimension + 1),
      decomposition_(parameters.bootstrap_base_bits, parameters.bootstrap_levels),
      transform_(polynomial_size_) {
  const std::size_t n = polynomial_size_;
  const auto levels = static_cast<std::size_t>(decomposition_.levels());
  rows_.resize(small_key.size() * components_ * levels * components_ * n / 2);

  Complexes key_values((components_ - 1) * n / 2);
  for (std::size_t c = 0; c + 1 < components_; ++c) {
    transform_.forward([&](std::size_t j) { return static_cast<double>(large_key[c * n + j]); },
                       &key_values[c * n / 2]);
  }

  // Every bit of the small key has its own random numbers, so that any number of threads makes the
  // same key.
  const std::size_t bit_size = rows_.size() / small_key.size();
  std::atomic<std::size_t> next = 0;
  const auto encrypt_bits = [&] {
    for (std::size_t bit; (bit = next++) < small_key.size();) {
      Random random(seed, static_cast<std::uint32_t>(first_bootstrapping_stream + bit));
      encrypt(small_key[bit], key_values, parameters.glwe_noise, random, &rows_[bit * bit_size]);
    }
  };
  std::vector<std::future<void>> others(std::max(1u, std::thread::hardware_concurrency()) - 1);
  for (std::future<void>& other : others) other = std::async(std::launch::async, encrypt_bits);
  encrypt_bits();
  for (std::future<void>& other : others) other.get();  // throws what a thread threw
}

void BootstrappingKey::encrypt(Torus bit, const Complexes& key_values, double noise, Random& random,
                               Complex* values) const {
  const std::size_t n = polynomial_size_;
  std::vector<Torus> ciphertext(components_ * n), product(n);
  for (std::size_t component = 0; component < components_; ++component) {
    for (int level = 1; level <= decomposition_.levels(); ++level) {
      // An encryption of zero, and the bit times the level's factor in one of its components.
      Torus* body = &ciphertext[(components_ - 1) * n];
      for (std::size_t j = 0; j < n; ++j) body[j] = random.noise(noise);
      for (std::size_t c = 0; c + 1 < components_; ++c) {
        Torus* mask = &ciphertext[c * n];
        for (std::size_t j = 0; j < n; ++j) mask[j] = random.uniform();
        multiply_by_key(transform_, mask, &key_values[c * n / 2], product.data());
        for (std::size_t j = 0; j < n; ++j) body[j] += product[j];
      }
      ciphertext[component * n] += bit * decomposition_.factor(level);
      for (std::size_t c = 0; c < components_; ++c, values += n / 2) {
        transform_.forward([&](std::size_t j) { return to_real(ciphertext[c * n + j]); }, values);
      }
    }
  }
}

void BootstrappingKey::turn_if(std::size_t bit, std::size_t exponent, Scratch& scratch) const {
  const std::size_t n = polynomial_size_, half = n / 2;
  const std::size_t rows = components_ * static_cast<std::size_t>(decomposition_.levels());

  Complex* digits = scratch.digits.data();
  for (std::size_t c = 0; c < components_; ++c) {
    const Torus* current = &scratch.accumulator[c * n];
    Torus* difference = &scratch.difference[c * n];
    const Torus offset = decomposition_.offset();
    turn(current, n, exponent,
         [=](std::size_t j, Torus turned) { difference[j] = turned - current[j] + offset; });
    for (int level = 1; level <= decomposition_.levels(); ++level, digits += half) {
      const auto digit = decomposition_.real_digit(level);
      transform_.forward([=](std::size_t j) { return digit(difference[j]); }, digits);
    }
  }

  // Block by block, so that sums stay in the first cache.
  constexpr std::size_t most = 256;
  const Complex* encrypted = &rows_[bit * rows * components_ * half];
  for (std::size_t first = 0; first < half; first += most) {
    const std::size_t count = std::min(most, half - first);
    for (std::size_t c = 0; c < components_; ++c) {
      Complex* sums = &scratch.sums[c * half + first];
      std::fill(sums, sums + count, 0.0);
      for (std::size_t row = 0; row < rows; ++row) {
        add_product(&scratch.digits[row * half + first],
                    encrypted + (row * components_ + c) * half + first, count, sums);
      }
    }
  }

  for (std::size_t c = 0; c < components_; ++c) {
    Torus* accumulator = &scratch.accumulator[c * n];
    transform_.backward(&scratch.sums[c * half],
                        [=](std::size_t j, double turns) { accumulator[j] += to_torus(turns); });
  }
}

void BootstrappingKey::apply(std::span<const SmallTorus> input, std::span<const Torus> table,
                             std::vector<Torus>& output) const {
  static thread_local Scratch scratch;
  const std::size_t n = polynomial_size_;
  scratch.difference.resize(components_ * n);
  scratch.digits.resize(components_ * static_cast<std::size_t>(decomposition_.levels()) * n / 2);
  scratch.sums.resize(components_ * n / 2);

  // Modulus switching: the nearest multiple of 1 / 2N.
  const int shift = 32 - std::countr_zero(2 * n);
  const auto exponent = [&](SmallTorus t) {
    return static_cast<std::size_t>((t + (SmallTorus{1} << (shift - 1))) >> shift);
  };

  scratch.accumulator.assign(components_ * n, 0);
  Torus* body = &scratch.accumulator[(components_ - 1) * n];
  turn(table.data(), n, (2 * n - exponent(input.back())) % (2 * n),
       [=](std::size_t j, Torus turned) { body[j] = turned; });
  for (std::size_t bit = 0; bit + 1 < input.size(); ++bit) {
    if (exponent(input[bit]) != 0) turn_if(bit, exponent(input[bit]), scratch);
  }

  // The coefficient in front of a product of mask and key, as an inner product with the key.
  output.resize((components_ - 1) * n + 1);
  for (std::size_t c = 0; c + 1 < components_; ++c) {
    const Torus* mask = &scratch.accumulator[c * n];
    output[c * n] = mask[0];
    for (std::size_t j = 1; j < n; ++j) output[c * n + j] = Torus{0} - mask[n - j];
  }
  output.back() = body[0];
}

}  // namespace lowatt::fhe
