#include "polynomial.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>

namespace lowatt::fhe {
namespace {

// Only FFTW's execution may happen in several threads at once.
std::mutex& planner_lock() {
  static std::mutex lock;
  return lock;
}

fftw_complex* fftw(Complex* x) {
  return reinterpret_cast<fftw_complex*>(x);
}

}  // namespace

void Transform::DestroyPlan::operator()(fftw_plan plan) const {
  const std::lock_guard guard(planner_lock());
  fftw_destroy_plan(plan);
}

Transform::Transform(std::size_t polynomial_size)
    : size_(polynomial_size), turns_(polynomial_size / 2) {
  for (std::size_t j = 0; j < turns_.size(); ++j) {
    turns_[j] =
        std::polar(1.0, std::numbers::pi * static_cast<double>(j) / static_cast<double>(size_));
  }
  Complexes values(size_ / 2);
  const auto plan = [&](int sign) {
    return fftw_plan_dft_1d(static_cast<int>(size_ / 2), fftw(values.data()), fftw(values.data()),
                            sign, FFTW_MEASURE);
  };
  const std::lock_guard guard(planner_lock());
  forward_.reset(plan(FFTW_BACKWARD));  // FFTW's name for the sign of exp(+2 pi i / N)
  backward_.reset(plan(FFTW_FORWARD));
}

void Transform::execute(const fftw_plan_s& plan, Complex* values) {
  fftw_execute_dft(const_cast<fftw_plan>(&plan), fftw(values), fftw(values));
}

// By parts: std::complex's own product checks for infinities.
void add_product(const Complex* x, const Complex* y, std::size_t count, Complex* sums) {
  for (std::size_t j = 0; j < count; ++j) {
    sums[j] = {sums[j].real() + (x[j].real() * y[j].real() - x[j].imag() * y[j].imag()),
               sums[j].imag() + (x[j].real() * y[j].imag() + x[j].imag() * y[j].real())};
  }
}

void multiply_by_key(const Transform& transform, const Torus* x, const Complex* key_values,
                     Torus* product) {
  const std::size_t size = transform.polynomial_size();
  Complexes values(size / 2), sums(size / 2);
  std::fill(product, product + size, Torus{0});
  for (const int shift : {0, 32}) {
    transform.forward(
        [&](std::size_t j) { return static_cast<double>((x[j] >> shift) & 0xffffffffu); },
        values.data());
    std::fill(sums.begin(), sums.end(), 0.0);
    add_product(values.data(), key_values, size / 2, sums.data());
    transform.backward(sums.data(), [&](std::size_t j, double coefficient) {
      product[j] += static_cast<Torus>(std::llrint(coefficient)) << shift;
    });
  }
}

}  // namespace lowatt::fhe
