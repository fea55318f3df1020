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

  // N coefficients to N/2 values.
  void forward(const double* coefficients, Complex* values) const;
  // Back; overwrites the values.
  void backward(Complex* values, double* coefficients) const;

 private:
  struct DestroyPlan {
    void operator()(fftw_plan plan) const;
  };
  using Plan = std::unique_ptr<fftw_plan_s, DestroyPlan>;

  std::size_t size_;
  Complexes turns_;
  Plan forward_, backward_;
};

// sums += x * y, value by value.
void add_product(const Complex* x, const Complex* y, std::size_t count, Complex* sums);

// torus += reals modulo 1, to 52 bits after the point. The reals' magnitude is below 2^51.
void add_reals(const double* reals, std::size_t count, Torus* torus);

// product = x * key modulo X^N + 1, exactly: x is split into halves of 32 bits, whose products with
// a key of bits are integers below 2^48, far from what rounding errors of doubles reach.
void multiply_by_key(const Transform& transform, const Torus* x, const Complex* key_values,
                     Torus* product);

}  // namespace lowatt::fhe
