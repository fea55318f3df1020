// Owned memory of trivially copyable elements at cache-line alignment. Running out of memory is a
// value, not an exception; and unlike a standard container its functions carry this library's mode
// and level in their names (see config.hpp), so that units with other flags never share them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "config.hpp"

LOWATT_API_BEGIN

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr std::size_t alignment = 64;

  Array() noexcept = default;

  // Zero-filled. When memory runs out, the array is empty: compare size() with what was asked for.
  explicit Array(Index size) noexcept : Array(unfilled(size)) {
    if (size_ > 0) std::memset(static_cast<void*>(data_), 0, bytes_of(size_));
  }
  // The same, but with whatever the memory held before: for what is written before it is read.
  static Array unfilled(Index size) noexcept {
    Array made;
    if (size <= 0 || static_cast<std::size_t>(size) > (PTRDIFF_MAX - alignment) / sizeof(T))
      return made;
    made.data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes_of(size)));
    if (made.data_ != nullptr) made.size_ = size;
    return made;
  }
  Array(Index size, const T& value) noexcept : Array(size) {
    for (T& element : *this) element = value;
  }
  Array(const Array& other) noexcept : Array(other.size_) {
    if (size_ > 0) std::memcpy(data_, other.data_, static_cast<std::size_t>(size_) * sizeof(T));
  }
  Array(Array&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  Array& operator=(Array other) noexcept {
    T* const data = data_;
    data_ = other.data_;
    size_ = other.size_;
    other.data_ = data;  // freed with `other`
    return *this;
  }
  ~Array() { std::free(data_); }

  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  Index size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  T& operator[](Index i) noexcept { return data_[i]; }
  const T& operator[](Index i) const noexcept { return data_[i]; }
  T* begin() noexcept { return data_; }
  T* end() noexcept { return data_ + size_; }
  const T* begin() const noexcept { return data_; }
  const T* end() const noexcept { return data_ + size_; }

 private:
  static std::size_t bytes_of(Index size) noexcept {
    return (static_cast<std::size_t>(size) * sizeof(T) + alignment - 1) / alignment * alignment;
  }

  T* data_ = nullptr;
  Index size_ = 0;
};

LOWATT_API_END
