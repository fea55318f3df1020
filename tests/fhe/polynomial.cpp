#include "polynomial.hpp"

#include <bit>
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

void Transform::forward(const double* coefficients, Complex* values) const {
  const std::size_t half = size_ / 2;
  for (std::size_t j = 0; j < half; ++j) {
    const double re = coefficients[j], im = coefficients[half + j];
    const double turn_re = turns_[j].real(), turn_im = turns_[j].imag();
    values[j] = {re * turn_re - im * turn_im, re * turn_im + im * turn_re};
  }
  fftw_execute_dft(forward_.get(), fftw(values), fftw(values));
}

void Transform::backward(Complex* values, double* coefficients) const {
  fftw_execute_dft(backward_.get(), fftw(values), fftw(values));
  const std::size_t half = size_ / 2;
  const double scale = 1 / static_cast<double>(half);
  for (std::size_t j = 0; j < half; ++j) {
    const double re = values[j].real() * scale, im = values[j].imag() * scale;
    const double turn_re = turns_[j].real(), turn_im = turns_[j].imag();
    coefficients[j] = re * turn_re + im * turn_im;
    coefficients[half + j] = im * turn_re - re * turn_im;
  }
}

// By parts: std::complex's own product checks for infinities.
void add_product(const Complex* x, const Complex* y, std::size_t count, Complex* sums) {
  for (std::size_t j = 0; j < count; ++j) {
    sums[j] = {sums[j].real() + (x[j].real() * y[j].real() - x[j].imag() * y[j].imag()),
               sums[j].imag() + (x[j].real() * y[j].imag() + x[j].imag() * y[j].real())};
  }
}

void add_reals(const double* reals, std::size_t count, Torus* torus) {
  // Adding and subtracting 1.5 * 2^52 rounds to the nearest integer; a number from 1 to 2 has its
  // fraction in the low 52 bits. Both, unlike std::rint and a conversion to integers, are in every
  // vector unit.
  constexpr double rounder = 0x1.8p52;
  for (std::size_t j = 0; j < count; ++j) {
    const double fraction = reals[j] - ((reals[j] + rounder) - rounder);
    constexpr Torus half = Torus{1} << 63;
    torus[j] += (std::bit_cast<Torus>(1.5 + fraction) << 12) + half;
  }
}

void multiply_by_key(const Transform& transform, const Torus* x, const Complex* key_values,
                     Torus* product) {
  const std::size_t size = transform.polynomial_size();
  Reals part(size);
  Complexes values(size / 2), sums(size / 2);
  for (std::size_t j = 0; j < size; ++j) product[j] = 0;
  for (const int shift : {0, 32}) {
    for (std::size_t j = 0; j < size; ++j)
      part[j] = static_cast<double>((x[j] >> shift) & 0xffffffffu);
    transform.forward(part.data(), values.data());
    sums.assign(size / 2, 0);
    add_product(values.data(), key_values, size / 2, sums.data());
    transform.backward(sums.data(), part.data());
    for (std::size_t j = 0; j < size; ++j)
      product[j] += static_cast<Torus>(std::llrint(part[j])) << shift;
  }
}

}  // namespace lowatt::fhe
