// What one call reads and writes must lie apart, but for what it only reads.
#pragma once

#include "options.hpp"
#include "validate.hpp"

LOWATT_API_BEGIN

namespace detail {

// The caller's memory that a call touches. What is null does not count.
class CallMemory {
 public:
  template <class T>
  CallMemory& reads(const char* name, const T* data, Index count) noexcept {
    return add(name, data, count, false);
  }
  template <class T>
  CallMemory& reads(const char* name, View<T> view) noexcept {
    return add(name, view, false);
  }
  template <class T>
  CallMemory& writes(const char* name, const T* data, Index count) noexcept {
    return add(name, data, count, true);
  }
  template <class T>
  CallMemory& writes(const char* name, View<T> view) noexcept {
    return add(name, view, true);
  }
  // What options refer to, in a call on these queries.
  CallMemory& uses(const Options& options, View<const float> q) noexcept {
    const Index heads = q.batch * q.heads;
    return reads("mask", options.mask)
        .reads("mask_bits", options.mask_bits)
        .reads("bias", options.bias)
        .reads("key_lengths", options.key_lengths, q.batch)
        .reads("alibi_slopes", options.alibi_slopes, q.heads)
        .reads("sinks", options.sinks, q.heads)
        .writes("kept", options.kept, heads)
        .writes("log_sum_exp", options.log_sum_exp, heads * q.tokens);
  }

  Status check() const noexcept {
    for (int i = 0; i < count_; ++i)
      for (int j = 0; j < count_; ++j) {
        const Range &written = ranges_[i], &other = ranges_[j];
        if (i == j || !written.is_written || (other.is_written && j > i)) continue;
        if (Status status = check_apart(written.name, written.bytes, other.name, other.bytes);
            !status.ok())
          return status;
      }
    return {};
  }

 private:
  struct Range {
    const char* name = nullptr;
    ByteRange<std::byte> bytes{};
    bool is_written = false;
  };

  template <class T>
  CallMemory& add(const char* name, const T* data, Index count, bool is_written) noexcept {
    if (data != nullptr && count > 0)
      ranges_[count_++] = {name,
                           {reinterpret_cast<const std::byte*>(data),
                            reinterpret_cast<const std::byte*>(data + count)},
                           is_written};
    return *this;
  }
  template <class T>
  CallMemory& add(const char* name, View<T> view, bool is_written) noexcept {
    if (view.data == nullptr) return *this;
    const auto bytes = bytes_of(view);
    return add(name, bytes.begin, bytes.end - bytes.begin, is_written);
  }

  static constexpr int most = 16;
  Range ranges_[most] = {};
  int count_ = 0;
};

}  // namespace detail

LOWATT_API_END
