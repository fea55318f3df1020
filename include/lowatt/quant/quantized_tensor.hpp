// A tensor of int8 or int16 with its scales, which all mechanisms share: x ~ scale * value,
// symmetric (see scale.hpp), one scale for the tensor, per head or per token.
#pragma once

#include "../core/array.hpp"
#include "../core/status.hpp"
#include "../core/view.hpp"
#include "scale.hpp"

namespace lowatt {

enum class ScalePer { tensor, head, token };  // head: of each batch entry

// Values and scales that somebody else owns. Scales are contiguous: [1], [batch, heads] or
// [batch, heads, tokens].
template <class T>
struct QuantizedView {
  static_assert(std::is_same_v<T, std::int8_t> || std::is_same_v<T, std::int16_t>);
  static constexpr int limit = sizeof(T) == 1 ? int8_limit : int16_limit;

  View<const T> values;
  const float* scales = nullptr;
  ScalePer per = ScalePer::head;

  LOWATT_ALWAYS_INLINE const T* row(Index b, Index head, Index token) const noexcept {
    return values.row(b, head, token);
  }
  LOWATT_ALWAYS_INLINE Index scale_index(Index b, Index head, Index token) const noexcept {
    if (per == ScalePer::tensor) return 0;
    const Index index = b * values.heads + head;
    return per == ScalePer::head ? index : index * values.tokens + token;
  }
  LOWATT_ALWAYS_INLINE float scale(Index b, Index head, Index token = 0) const noexcept {
    return scales[scale_index(b, head, token)];
  }
};

}  // namespace lowatt

LOWATT_API_BEGIN

// Owns what a QuantizedView refers to; contiguous [batch, head, token, dim].
template <class T>
class QuantizedTensor {
 public:
  static constexpr int limit = QuantizedView<T>::limit;

  QuantizedTensor() noexcept = default;
  ~QuantizedTensor() = default;
  QuantizedTensor(const QuantizedTensor&) =
      delete;  // copying may fail: quantise again or use view()
  QuantizedTensor& operator=(const QuantizedTensor&) = delete;
  QuantizedTensor(QuantizedTensor&&) noexcept = default;
  QuantizedTensor& operator=(QuantizedTensor&&) noexcept = default;

  // Valid until the tensor is assigned to or destroyed.
  QuantizedView<T> view() const noexcept {
    return {{values_.data(), batch_, heads_, tokens_, dim_}, scales_.data(), per_};
  }
  const T* row(Index b, Index head, Index token) const noexcept {
    return view().row(b, head, token);
  }
  float scale(Index b, Index head, Index token = 0) const noexcept {
    return view().scale(b, head, token);
  }

  // Quantises x with the largest absolute finite value of each part that shares a scale.
  Status try_assign(View<const float> x, ScalePer per) noexcept {
    const Status status = try_allocate(x, per);
    if (!status.ok()) return status;
    for_each_row([&](Index b, Index h, Index t) {
      float& absmax = scales_[view().scale_index(b, h, t)];
      absmax = finite_absmax(x.row(b, h, t), dim_, absmax);
    });
    fill(x, limit);
    return {};
  }

  // With largest absolute values given (one for the tensor, per head or per token), as in
  // calibration: values beyond them saturate. Refused are negative and non-finite ones. Fewer steps
  // than T holds, at least 1, may be asked for: int4_limit in an int8_t.
  Status try_assign(View<const float> x, ScalePer per, const float* absmax, Index absmax_count,
                    int steps = limit) noexcept {
    const Status status = try_allocate(x, per);
    if (!status.ok()) return status;
    if (absmax == nullptr || absmax_count != scales_.size())
      return failure(StatusCode::invalid_argument,
                     "%td largest absolute values were given where %td are needed", absmax_count,
                     scales_.size());
    for (Index i = 0; i < absmax_count; ++i) {
      if (!is_finite(absmax[i]) || absmax[i] < 0)
        return failure(StatusCode::invalid_argument,
                       "largest absolute value %td is %g; it must be finite and not negative", i,
                       static_cast<double>(absmax[i]));
      scales_[i] = absmax[i];
    }
    fill(x, steps);
    return {};
  }

 private:
  // Zeros of x's shape. On failure the tensor is left without meaning but may be assigned to again.
  Status try_allocate(View<const float> x, ScalePer per) noexcept {
    Index elements = 0;
    if (x.data == nullptr || x.batch < 1 || x.heads < 1 || x.tokens < 1 || x.dim < 1 ||
        __builtin_mul_overflow(x.batch, x.heads, &elements) ||
        __builtin_mul_overflow(elements, x.tokens, &elements) ||
        __builtin_mul_overflow(elements, x.dim, &elements))
      return failure(StatusCode::invalid_shape,
                     "a tensor to quantise needs data and extents of at least 1; this one is "
                     "[%td, %td, %td, %td]",
                     x.batch, x.heads, x.tokens, x.dim);
    const Index scale_count = per == ScalePer::tensor ? 1
                              : per == ScalePer::head ? x.batch * x.heads
                                                      : x.batch * x.heads * x.tokens;
    values_ = Array<T>(elements);
    scales_ = Array<float>(scale_count);
    if (values_.empty() || scales_.empty())
      return failure(StatusCode::out_of_memory, "no memory for %td quantised values", elements);
    per_ = per;
    batch_ = x.batch, heads_ = x.heads, tokens_ = x.tokens, dim_ = x.dim;
    return {};
  }

  // Quantises x; scales_ holds largest absolute values and becomes scales.
  void fill(View<const float> x, int steps) noexcept {
    T* out = values_.data();
    for_each_row([&](Index b, Index h, Index t) {
      const float inverse = symmetric_scale(scales_[view().scale_index(b, h, t)], steps).inverse;
      const float* row = x.row(b, h, t);
      for (Index k = 0; k < dim_; ++k) *out++ = static_cast<T>(quantize(row[k], inverse, steps));
    });
    for (float& scale : scales_) scale = symmetric_scale(scale, steps).scale;
  }

  template <class F>
  void for_each_row(F f) const noexcept {
    for (Index b = 0; b < batch_; ++b)
      for (Index h = 0; h < heads_; ++h)
        for (Index t = 0; t < tokens_; ++t) f(b, h, t);
  }

  Array<T> values_;
  Array<float> scales_;
  ScalePer per_ = ScalePer::head;
  Index batch_ = 0, heads_ = 0, tokens_ = 0, dim_ = 0;
};

// out = scale * value, one rounding each. For finite values within the largest absolute one, the
// result differs from what was quantised by half a step and a few roundings.
template <class T>
Status try_dequantize(const QuantizedView<T>& x, View<float> out) noexcept {
  const View<const T>& v = x.values;
  if (out.batch != v.batch || out.heads != v.heads || out.tokens != v.tokens || out.dim != v.dim)
    return failure(StatusCode::invalid_shape,
                   "dequantised values [%td, %td, %td, %td] do not fit an output of "
                   "[%td, %td, %td, %td]",
                   v.batch, v.heads, v.tokens, v.dim, out.batch, out.heads, out.tokens, out.dim);
  for (Index b = 0; b < v.batch; ++b)
    for (Index h = 0; h < v.heads; ++h)
      for (Index t = 0; t < v.tokens; ++t) {
        const float scale = x.scale(b, h, t);
        const T* values = x.row(b, h, t);
        float* row = out.row(b, h, t);
        for (Index k = 0; k < v.dim; ++k) row[k] = scale * static_cast<float>(values[k]);
      }
  return {};
}

LOWATT_API_END
