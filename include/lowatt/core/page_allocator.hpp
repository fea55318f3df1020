// Where the memory of caches comes from: the heap, or an engine's own pool.
#pragma once

#include <concepts>
#include <cstdlib>
#include <type_traits>

#include "config.hpp"

LOWATT_API_BEGIN

// Gives pages at 64-byte alignment, or null when there is no memory; takes them back with the size
// that they were asked for. What a page holds at first does not matter. Neither may throw. Caches
// that are used by several threads at a time need an allocator that may be.
template <class A>
concept PageAllocator = requires(A& allocator, Index bytes, std::byte* page) {
  { allocator.allocate(bytes) } -> std::same_as<std::byte*>;
  allocator.release(page, bytes);
};

// A type-erased reference to an allocator, which must outlive all caches that use it and their
// forks. The default one is the heap.
class PageAllocatorRef {
 public:
  static constexpr std::size_t alignment = 64;

  PageAllocatorRef() noexcept = default;

  template <PageAllocator A>
  requires(!std::same_as<A, PageAllocatorRef>) PageAllocatorRef(A& allocator)
  noexcept : object_(&allocator), functions_(&functions_of<A>) {}

  std::byte* allocate(Index bytes) const noexcept {
    if (functions_ != nullptr) return functions_->allocate(object_, bytes);
    const std::size_t whole = (static_cast<std::size_t>(bytes) + alignment - 1) / alignment;
    return static_cast<std::byte*>(std::aligned_alloc(alignment, whole * alignment));
  }
  void release(std::byte* page, Index bytes) const noexcept {
    if (functions_ != nullptr)
      functions_->release(object_, page, bytes);
    else
      std::free(page);
  }

 private:
  struct Functions {
    std::byte* (*allocate)(void*, Index);
    void (*release)(void*, std::byte*, Index);
  };
  template <class A>
  static constexpr Functions functions_of{
      [](void* object, Index bytes) { return static_cast<A*>(object)->allocate(bytes); },
      [](void* object, std::byte* page, Index bytes) {
        static_cast<A*>(object)->release(page, bytes);
      }};

  void* object_ = nullptr;
  const Functions* functions_ = nullptr;
};

LOWATT_API_END
