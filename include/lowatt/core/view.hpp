// A tensor that somebody else owns: [batch, head, token, dim], last dimension contiguous.
#pragma once

#include <type_traits>

#include "config.hpp"

namespace lowatt {

// Strides count elements, not bytes. Token-major memory ([token, head, dim]) is a choice of
// strides. A View never owns, never allocates; copying it copies the pointer.
template <class T>
struct View {
  T* data = nullptr;
  Index batch = 0, heads = 0, tokens = 0, dim = 0;
  Index batch_stride = 0, head_stride = 0, token_stride = 0;

  LOWATT_ALWAYS_INLINE constexpr View() noexcept = default;

  // Contiguous [heads, tokens, dim], batch 1.
  LOWATT_ALWAYS_INLINE constexpr View(T* data_, Index heads_, Index tokens_, Index dim_) noexcept
      : View(data_, 1, heads_, tokens_, dim_) {}

  // Contiguous [batch, heads, tokens, dim].
  LOWATT_ALWAYS_INLINE constexpr View(T* data_, Index batch_, Index heads_, Index tokens_,
                                      Index dim_) noexcept
      : View(data_, batch_, heads_, tokens_, dim_, heads_ * tokens_ * dim_, tokens_ * dim_, dim_) {}

  // Any strides.
  LOWATT_ALWAYS_INLINE constexpr View(T* data_, Index batch_, Index heads_, Index tokens_,
                                      Index dim_, Index batch_stride_, Index head_stride_,
                                      Index token_stride_) noexcept
      : data(data_),
        batch(batch_),
        heads(heads_),
        tokens(tokens_),
        dim(dim_),
        batch_stride(batch_stride_),
        head_stride(head_stride_),
        token_stride(token_stride_) {}

  // A view of mutable data is accepted wherever one of constant data is.
  LOWATT_ALWAYS_INLINE constexpr operator View<const T>() const noexcept
      requires(!std::is_const_v<T>) {
    return {data, batch, heads, tokens, dim, batch_stride, head_stride, token_stride};
  }

  // Pointer to the `dim` contiguous elements of one token.
  LOWATT_ALWAYS_INLINE constexpr T* row(Index b, Index head, Index token) const noexcept {
    return data + b * batch_stride + head * head_stride + token * token_stride;
  }
};

}  // namespace lowatt
