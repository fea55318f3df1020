// An allocator of pages that counts them, hands out dirty ones, and runs out when told to.
#pragma once

#include <cstdlib>
#include <cstring>
#include <lowatt/core/page_allocator.hpp>

namespace test {

struct CountedPages {
  lowatt::Index live = 0, most_live = 1 << 20;

  std::byte* allocate(lowatt::Index bytes) {
    if (live >= most_live) return nullptr;
    const auto size = static_cast<std::size_t>((bytes + 63) / 64 * 64);
    auto* page = static_cast<std::byte*>(std::aligned_alloc(64, size));
    std::memset(page, 0xa5, size);
    ++live;
    return page;
  }
  void release(std::byte* page, lowatt::Index) {
    --live;
    std::free(page);
  }
};

}  // namespace test
