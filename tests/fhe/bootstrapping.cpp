#include "bootstrapping.hpp"

#include <algorithm>
#include <bit>

namespace lowatt::fhe {
namespace {

// turned = X^exponent * x modulo X^N + 1, for exponents below 2N.
void turn(const Torus* x, std::size_t size, std::size_t exponent, Torus* turned) {
  const std::size_t first = exponent % size;
  const Torus sign = exponent < size ? 1 : ~Torus{0};
  for (std::size_t j = 0; j < first; ++j) turned[j] = Torus{0} - sign * x[size - first + j];
  for (std::size_t j = first; j < size; ++j) turned[j] = sign * x[j - first];
}

// The digits as reals: those of one level, of all coefficients.
void extract_digits(const Decomposition& decomposition, const Torus* with_offset, std::size_t size,
                    int level, double* digits) {
  // A positive integer below 2^52 in the low bits of 2^52 is that much more than 2^52.
  constexpr double exponent = 0x1p52;
  const int shift = decomposition.shift(level);
  const Torus mask = (Torus{1} << decomposition.base_bits()) - 1;
  const double half_base = exponent + static_cast<double>(mask / 2 + 1);
  for (std::size_t j = 0; j < size; ++j) {
    const Torus digit = (with_offset[j] >> shift) & mask;
    digits[j] = std::bit_cast<double>(digit | std::bit_cast<Torus>(exponent)) - half_base;
  }
}

}  // namespace

struct BootstrappingKey::Scratch {
  std::vector<Torus> accumulator, difference;  // components polynomials
  Reals reals;                                 // one polynomial
  Complexes values, sums;                      // the values of one, and of components polynomials

  void resize(std::size_t components, std::size_t polynomial_size) {
    accumulator.resize(components * polynomial_size);
    difference.resize(components * polynomial_size);
    reals.resize(polynomial_size);
    values.resize(polynomial_size / 2);
    sums.resize(components * polynomial_size / 2);
  }
};

BootstrappingKey::BootstrappingKey(const Parameters& parameters, std::span<const Torus> large_key,
                                   std::span<const Torus> small_key, Random& random)
    : polynomial_size_(parameters.polynomial_size),
      components_(parameters.glwe_dimension + 1),
      decomposition_(parameters.bootstrap_base_bits, parameters.bootstrap_levels),
      transform_(polynomial_size_) {
  const std::size_t n = polynomial_size_,
                    levels = static_cast<std::size_t>(decomposition_.levels());
  rows_.resize(small_key.size() * components_ * levels * components_ * n / 2);

  Reals reals(n);
  Complexes key_values((components_ - 1) * n / 2);
  for (std::size_t c = 0; c + 1 < components_; ++c) {
    std::transform(&large_key[c * n], &large_key[c * n] + n, reals.begin(),
                   [](Torus bit) { return static_cast<double>(bit); });
    transform_.forward(reals.data(), &key_values[c * n / 2]);
  }

  std::vector<Torus> ciphertext(components_ * n), product(n);
  Complex* values = rows_.data();
  for (const Torus bit : small_key) {
    for (std::size_t component = 0; component < components_; ++component) {
      for (int level = 1; level <= decomposition_.levels(); ++level) {
        // An encryption of zero, and the bit times the level's factor in one of its components.
        Torus* body = &ciphertext[(components_ - 1) * n];
        for (std::size_t j = 0; j < n; ++j) body[j] = random.noise(parameters.glwe_noise);
        for (std::size_t c = 0; c + 1 < components_; ++c) {
          Torus* mask = &ciphertext[c * n];
          for (std::size_t j = 0; j < n; ++j) mask[j] = random.uniform();
          multiply_by_key(transform_, mask, &key_values[c * n / 2], product.data());
          for (std::size_t j = 0; j < n; ++j) body[j] += product[j];
        }
        ciphertext[component * n] += bit * decomposition_.factor(level);
        for (std::size_t c = 0; c < components_; ++c, values += n / 2) {
          std::transform(&ciphertext[c * n], &ciphertext[c * n] + n, reals.begin(), to_real);
          transform_.forward(reals.data(), values);
        }
      }
    }
  }
}

const Complex* BootstrappingKey::row(std::size_t bit, std::size_t component, int level) const {
  const std::size_t levels = static_cast<std::size_t>(decomposition_.levels());
  const std::size_t index =
      (bit * components_ + component) * levels + static_cast<std::size_t>(level - 1);
  return &rows_[index * components_ * polynomial_size_ / 2];
}

void BootstrappingKey::turn_if(std::size_t bit, std::size_t exponent, Scratch& scratch) const {
  const std::size_t n = polynomial_size_, all = components_ * n;
  for (std::size_t c = 0; c < components_; ++c) {
    turn(&scratch.accumulator[c * n], n, exponent, &scratch.difference[c * n]);
  }
  for (std::size_t j = 0; j < all; ++j)
    scratch.difference[j] += decomposition_.offset() - scratch.accumulator[j];

  std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0);
  for (std::size_t component = 0; component < components_; ++component) {
    for (int level = 1; level <= decomposition_.levels(); ++level) {
      extract_digits(decomposition_, &scratch.difference[component * n], n, level,
                     scratch.reals.data());
      transform_.forward(scratch.reals.data(), scratch.values.data());
      const Complex* encrypted = row(bit, component, level);
      for (std::size_t c = 0; c < components_; ++c) {
        add_product(scratch.values.data(), encrypted + c * n / 2, n / 2, &scratch.sums[c * n / 2]);
      }
    }
  }
  for (std::size_t c = 0; c < components_; ++c) {
    transform_.backward(&scratch.sums[c * n / 2], scratch.reals.data());
    add_reals(scratch.reals.data(), n, &scratch.accumulator[c * n]);
  }
}

void BootstrappingKey::apply(std::span<const SmallTorus> input, std::span<const Torus> table,
                             std::vector<Torus>& output) const {
  static thread_local Scratch scratch;
  const std::size_t n = polynomial_size_;
  scratch.resize(components_, n);

  // Modulus switching: the nearest multiple of 1 / 2N.
  const int shift = 32 - std::countr_zero(2 * n);
  const auto exponent = [&](SmallTorus t) {
    return static_cast<std::size_t>((t + (SmallTorus{1} << (shift - 1))) >> shift);
  };

  std::fill(scratch.accumulator.begin(), scratch.accumulator.end(), Torus{0});
  turn(table.data(), n, (2 * n - exponent(input.back())) % (2 * n),
       &scratch.accumulator[(components_ - 1) * n]);
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
  output.back() = scratch.accumulator[(components_ - 1) * n];
}

}  // namespace lowatt::fhe
