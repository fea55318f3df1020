// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// Products of polynomials modulo X^N + 1 in double precision. The N real coefficients become N/2
// complex numbers a_j + i a_(j + N/2), turned by exp(i pi j / N) so that a discrete Fourier
// transform of size N/2 evaluates the polynomial at half of the roots of X^N + 1; at the other half
// its values are conjugates.
//
// The transforms are FFTW's, which is under the GPL: only tests and the example `encrypted` link
// this fixture.
#pragma once
#include <fftw3.h>

#include <bit>
#include <complex>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "torus.hpp"

namespace lowatt::fhe {

// Memory aligned as FFTW's plans take for granted.
template <class T>
struct FftwAllocator {
  using value_type = T;
  FftwAllocator() = default;
  template <class U>
  FftwAllocator(const FftwAllocator<U>&) {}
  T* allocate(std::size_t count) {
    if (void* memory = fftw_malloc(count * sizeof(T))) return static_cast<T*>(memory);
    throw std::bad_alloc();
  }
  void deallocate(T* memory, std::size_t) { fftw_free(memory); }
  friend bool operator==(const FftwAllocator&, const FftwAllocator&) { return true; }
};

using Complex = std::complex<double>;
using Reals = std::vector<double, FftwAllocator<double>>;
using Complexes = std::vector<Complex, FftwAllocator<Complex>>;

class Transform {
 public:
  explicit Transform(std::size_t polynomial_size);

  std::size_t polynomial_size() const { return size_; }

  // The N/2 values of the polynomial with coefficients coefficient(0), ..., coefficient(N - 1).
  template <class Coefficient>
  void forward(Coefficient coefficient, Complex* values) const {
    const std::size_t half = size_ / 2;
    for (std::size_t j = 0; j < half; ++j) {
      const double re = coefficient(j), im = coefficient(half + j);
      const double turn_re = turns_[j].real(), turn_im = turns_[j].imag();
      values[j] = {re * turn_re - im * turn_im, re * turn_im + im * turn_re};
    }
    execute(*forward_, values);
  }

  // Back: calls take(j, coefficient). Overwrites the values.
  template <class Take>
  void backward(Complex* values, Take take) const {
    execute(*backward_, values);
    const std::size_t half = size_ / 2;
    const double scale = 1 / static_cast<double>(half);
    for (std::size_t j = 0; j < half; ++j) {
      const double re = values[j].real() * scale, im = values[j].imag() * scale;
      const double turn_re = turns_[j].real(), turn_im = turns_[j].imag();
      take(j, re * turn_re + im * turn_im);
      take(half + j, im * turn_re - re * turn_im);
    }
  }

 private:
  struct DestroyPlan {
    void operator()(fftw_plan plan) const;
  };
  using Plan = std::unique_ptr<fftw_plan_s, DestroyPlan>;

  static void execute(const fftw_plan_s& plan, Complex* values);

  std::size_t size_;
  Complexes turns_;
  Plan forward_, backward_;
};

// sums += x * y, value by value.
void add_product(const Complex* x, const Complex* y, std::size_t count, Complex* sums);

// A real number modulo 1, to 52 bits after the point. Its magnitude is below 2^51. Adding and
// subtracting 1.5 * 2^52 rounds to the nearest integer, and a number from 1 to 2 has its fraction
// in the low 52 bits: every vector unit does both, unlike std::rint and conversions to 64-bit
// integers.
inline Torus to_torus(double x) {
  constexpr double rounder = 0x1.8p52;
  const double fraction = x - ((x + rounder) - rounder);
  return (std::bit_cast<Torus>(1.5 + fraction) << 12) + (Torus{1} << 63);
}

// product = x * key modulo X^N + 1, exactly: x is split into halves of 32 bits, whose products with
// a key of bits are integers below 2^48, far from what rounding errors of doubles reach.
void multiply_by_key(const Transform& transform, const Torus* x, const Complex* key_values,
                     Torus* product);

}  // namespace lowatt::fhe
