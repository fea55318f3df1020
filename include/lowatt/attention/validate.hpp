// Checks of tensors at the door: extents, strides, memory. Each failure is one sentence that names
// the argument and its value.
#pragma once

#include "options.hpp"

LOWATT_API_BEGIN

namespace detail {

// No tensor that fits an address space has an extent or byte span beyond this.
inline constexpr Index largest_span = PTRDIFF_MAX / 16;

inline Index magnitude(Index value) noexcept {
  return value < 0 ? -value : value;
}

// Whether a product of positive factors stays below the largest span.
template <class... Factors>
bool fits_memory(Factors... factors) noexcept {
  Index product = 1;
  return (... && !__builtin_mul_overflow(product, Index{factors}, &product)) &&
         product <= largest_span;
}

// Distance in elements between the first and the last element of a tensor; false when it overflows.
inline bool span_of(Index extents[3], Index strides[3], Index dim, Index& low,
                    Index& high) noexcept {
  low = 0;
  high = dim;
  for (int i = 0; i < 3; ++i) {
    Index reach = 0;
    if (strides[i] < -largest_span || strides[i] > largest_span) return false;
    if (__builtin_mul_overflow(extents[i] - 1, strides[i], &reach)) return false;
    if (reach < -largest_span || reach > largest_span) return false;
    (reach < 0 ? low : high) += reach;
  }
  return high - low <= largest_span;
}

// First and one past the last byte that a view can touch.
template <class T>
struct ByteRange {
  const T* begin = nullptr;
  const T* end = nullptr;
};

template <class T>
ByteRange<const T> bytes_of(View<T> view) noexcept {
  Index extents[3] = {view.batch, view.heads, view.tokens};
  Index strides[3] = {view.batch_stride, view.head_stride, view.token_stride};
  Index low = 0, high = 0;
  span_of(extents, strides, view.dim, low, high);
  return {view.data + low, view.data + high};
}

// Extents positive, data present, strides that neither overflow nor fold rows onto each other.
template <class T>
Status check_view(const char* name, View<T> view) noexcept {
  const struct {
    const char* what;
    Index value;
  } extents[] = {
      {"batch", view.batch}, {"heads", view.heads}, {"tokens", view.tokens}, {"dim", view.dim}};
  for (const auto& extent : extents)
    if (extent.value < 1 || extent.value > largest_span)
      return failure(StatusCode::invalid_shape, "%s.%s is %td; it must be at least 1%s", name,
                     extent.what, extent.value, extent.value > 1 ? " and fit memory" : "");
  if (!fits_memory(view.batch, view.heads, view.tokens, view.dim))
    return failure(StatusCode::invalid_shape,
                   "%s has extents [%td, %td, %td, %td], more elements than memory can hold", name,
                   view.batch, view.heads, view.tokens, view.dim);
  if (view.data == nullptr) return failure(StatusCode::invalid_argument, "%s.data is null", name);
  if (view.tokens > 1 && view.token_stride > -view.dim && view.token_stride < view.dim)
    return failure(StatusCode::invalid_shape,
                   "%s.token_stride is %td; tokens of dim %td would overlap", name,
                   view.token_stride, view.dim);
  Index sizes[3] = {view.batch, view.heads, view.tokens};
  Index strides[3] = {view.batch_stride, view.head_stride, view.token_stride};
  Index low = 0, high = 0;
  if (!span_of(sizes, strides, view.dim, low, high))
    return failure(StatusCode::invalid_shape,
                   "%s strides (%td, %td, %td) reach beyond what memory can hold", name,
                   view.batch_stride, view.head_stride, view.token_stride);
  return {};
}

// Whether two rows of an output share memory. Sorted by stride, each stride must clear what all
// smaller ones reach.
inline Status check_output_rows(const char* name, View<float> out) noexcept {
  struct Dimension {
    Index extent, stride;
  } dimensions[3] = {{out.batch, magnitude(out.batch_stride)},
                     {out.heads, magnitude(out.head_stride)},
                     {out.tokens, magnitude(out.token_stride)}};
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2 - i; ++j)
      if (dimensions[j].stride > dimensions[j + 1].stride) {
        const Dimension larger = dimensions[j];
        dimensions[j] = dimensions[j + 1];
        dimensions[j + 1] = larger;
      }
  Index reach = out.dim;
  for (const Dimension& dimension : dimensions) {
    if (dimension.extent == 1) continue;
    if (dimension.stride < reach)
      return failure(StatusCode::invalid_shape, "%s strides (%td, %td, %td) make its rows overlap",
                     name, out.batch_stride, out.head_stride, out.token_stride);
    reach += dimension.stride * (dimension.extent - 1);
  }
  return {};
}

// Ranges are compared, not single elements: an output interleaved with an input is refused too.
template <class A, class B>
Status check_apart(const char* written_name, ByteRange<A> written, const char* read_name,
                   ByteRange<B> read) noexcept {
  const auto address = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
  if (address(written.begin) < address(read.end) && address(read.begin) < address(written.end))
    return failure(StatusCode::invalid_argument, "%s overlaps %s in memory", written_name,
                   read_name);
  return {};
}
inline Status check_apart(View<float> out, const char* name, View<const float> input) noexcept {
  return check_apart("out", bytes_of(out), name, bytes_of(input));
}

inline Status check_equal(const char* left, Index a, const char* right, Index b) noexcept {
  if (a != b)
    return failure(StatusCode::invalid_shape, "%s is %td but %s is %td", left, a, right, b);
  return {};
}

// The first of several outcomes that is a failure.
template <class... More>
Status first_failure(const Status& status, const More&... more) noexcept {
  if constexpr (sizeof...(more) > 0) return status.ok() ? first_failure(more...) : status;
  return status;
}

// Keys and values that belong together.
inline Status check_keys_values(View<const float> k, View<const float> v) noexcept {
  if (Status status = first_failure(check_view("k", k), check_view("v", v)); !status.ok())
    return status;
  return first_failure(check_equal("v.batch", v.batch, "k.batch", k.batch),
                       check_equal("v.heads", v.heads, "k.heads", k.heads),
                       check_equal("v.tokens", v.tokens, "k.tokens", k.tokens));
}

inline Status check_group(Index query_heads, Index kv_heads) noexcept {
  if (kv_heads < 1)
    return failure(StatusCode::invalid_shape, "the cache is empty: it was never made");
  if (query_heads % kv_heads != 0)
    return failure(StatusCode::invalid_shape,
                   "q.heads is %td; it must be a multiple of the %td KV heads", query_heads,
                   kv_heads);
  return {};
}

// Queries, keys and values to calibrate on.
inline Status check_samples(View<const float> q, View<const float> k,
                            View<const float> v) noexcept {
  if (Status status = check_keys_values(k, v); !status.ok()) return status;
  return first_failure(check_view("q", q), check_group(q.heads, k.heads),
                       check_equal("q.batch", q.batch, "k.batch", k.batch),
                       check_equal("q.dim", q.dim, "k.dim", k.dim));
}

// What is given for each pair, [batch, query_heads, queries, keys], where batch and heads may be 1
// for all; or nothing at all.
template <class T>
Status check_per_pair(const char* name, const View<T>& pairs, const Shape& shape, Index keys,
                      const char* keys_name) noexcept {
  if (pairs.data == nullptr) return {};
  if (Status status = check_view(name, pairs); !status.ok()) return status;
  const struct {
    const char* extent;
    Index value;
    const char* of;
    Index wanted;
    bool may_be_1;
  } extents[] = {{"batch", pairs.batch, "q.batch", shape.batch, true},
                 {"heads", pairs.heads, "q.heads", shape.query_heads, true},
                 {"tokens", pairs.tokens, "q.tokens", shape.queries, false},
                 {"dim", pairs.dim, keys_name, keys, false}};
  for (const auto& x : extents)
    if (x.value != x.wanted && !(x.may_be_1 && x.value == 1))
      return failure(StatusCode::invalid_shape, "%s.%s is %td but %s is %td", name, x.extent,
                     x.value, x.of, x.wanted);
  return {};
}

// A mask against the extents of the call that it is for; `keys` may be more than are attended.
inline Status check_mask(const Mask& mask, const Shape& shape, Index keys) noexcept {
  if (mask.key_lengths != nullptr)
    for (Index b = 0; b < shape.batch; ++b)
      if (mask.key_lengths[b] < 0 || mask.key_lengths[b] > keys)
        return failure(StatusCode::invalid_argument,
                       "key_lengths[%td] is %td; it must be from 0 to the %td keys", b,
                       mask.key_lengths[b], keys);
  if (mask.has_booleans() && mask.bits.data != nullptr)
    return failure(StatusCode::invalid_argument,
                   "mask and mask_bits are both given; they say the same");
  return first_failure(
      check_per_pair("mask", mask.visible, shape, keys, "the number of keys"),
      check_per_pair("mask_bits", mask.bits, shape, tile_count(keys), "the keys' number of words"));
}

// Queries and outputs of one call against the extents of its keys and values.
inline Status check_queries(View<const float> q, View<float> out, Index batch, Index kv_heads,
                            Index head_dim, Index value_dim) noexcept {
  if (Status status = first_failure(check_view("q", q), check_view("out", out)); !status.ok())
    return status;
  return first_failure(check_group(q.heads, kv_heads),
                       check_equal("q.batch", q.batch, "k.batch", batch),
                       check_equal("q.dim", q.dim, "k.dim", head_dim),
                       check_equal("out.batch", out.batch, "q.batch", q.batch),
                       check_equal("out.heads", out.heads, "q.heads", q.heads),
                       check_equal("out.tokens", out.tokens, "q.tokens", q.tokens),
                       check_equal("out.dim", out.dim, "v.dim", value_dim),
                       check_output_rows("out", out), check_apart(out, "q", q));
}

}  // namespace detail

LOWATT_API_END
