// Test tensors that misbehave where kernels must not look: bases off alignment, rows and heads with
// gaps between them, NaN in every gap.
#pragma once

#include <cmath>
#include <limits>
#include <lowatt/core/view.hpp>
#include <random>
#include <vector>

namespace test {

using lowatt::Index;

enum class Layout { contiguous, token_major, padded };

class StridedTensor {
 public:
  StridedTensor(Index batch, Index heads, Index tokens, Index dim,
                Layout layout = Layout::contiguous) {
    const Index gap = layout == Layout::padded ? 5 : 0;
    const Index base = layout == Layout::padded ? 3 : 0;
    const Index row = dim + gap;
    const Index token_stride = layout == Layout::token_major ? heads * row : row;
    const Index head_stride = layout == Layout::token_major ? row : tokens * row + gap;
    const Index batch_stride = heads * (tokens * row + gap);
    memory_.assign(static_cast<std::size_t>(base + batch * batch_stride + gap), hole);
    view_ = {memory_.data() + base, batch,       heads,       tokens, dim,
             batch_stride,          head_stride, token_stride};
    for_each([](float& x) { x = 0; });
  }
  StridedTensor(const StridedTensor&) = delete;
  StridedTensor& operator=(const StridedTensor&) = delete;

  lowatt::View<float> view() { return view_; }
  lowatt::View<const float> view() const { return view_; }

  template <class F>
  void for_each(F&& f) {
    for (Index b = 0; b < view_.batch; ++b)
      for (Index h = 0; h < view_.heads; ++h)
        for (Index t = 0; t < view_.tokens; ++t)
          for (Index c = 0; c < view_.dim; ++c) f(view_.row(b, h, t)[c]);
  }

  void fill_normal(std::mt19937& random, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    for_each([&](float& x) { x = normal(random); });
  }

  // Whether every gap still holds NaN: nothing outside the tensor was written.
  bool gaps_are_untouched() const {
    std::vector<bool> inside(memory_.size(), false);
    for (Index b = 0; b < view_.batch; ++b)
      for (Index h = 0; h < view_.heads; ++h)
        for (Index t = 0; t < view_.tokens; ++t)
          for (Index c = 0; c < view_.dim; ++c)
            inside[static_cast<std::size_t>(view_.row(b, h, t) + c - memory_.data())] = true;
    for (std::size_t i = 0; i < memory_.size(); ++i)
      if (!inside[i] && !std::isnan(memory_[i])) return false;
    return true;
  }

 private:
  static constexpr float hole = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> memory_;
  lowatt::View<float> view_;
};

}  // namespace test
