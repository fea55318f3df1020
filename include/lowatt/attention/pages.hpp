// The memory of a cache: pages, and for each sequence and KV head a table of where its tiles lie.
//
// A page holds `page_tiles` tiles of all KV heads of one sequence, behind a header of 64 bytes:
//
//   references  i64, padded to 64 bytes           how many page tables hold the page
//   tiles       [heads][page_tiles][tile_bytes]   zero where no token lies yet
//
// A page that several tables hold is never written: whoever wants to write takes a copy first. The
// count of references is changed atomically, so that tables that share pages need no exclusion
// against each other: only each for itself, as if it were alone. (When a table finds that it is the
// only one to hold a page, no other can get at it any more.)
#pragma once

#include "../core/array.hpp"
#include "../core/page_allocator.hpp"
#include "../core/tiles.hpp"

LOWATT_API_BEGIN

struct PageExtents {
  Index sequences = 0, heads = 0, tile_bytes = 0;
  Index page_tiles = 0;  // tiles of each head in a page
};

class PageTables {
 public:
  static constexpr Index header_bytes = 64;

  PageTables() noexcept = default;
  PageTables(const PageExtents& extents, PageAllocatorRef allocator) noexcept
      : extents_(extents), allocator_(allocator) {}
  PageTables(const PageTables&) = delete;
  PageTables& operator=(const PageTables&) = delete;
  PageTables(PageTables&& other) noexcept { swap(other); }
  PageTables& operator=(PageTables&& other) noexcept {
    PageTables old(static_cast<PageTables&&>(other));
    swap(old);
    return *this;
  }
  ~PageTables() {
    for (Index s = 0; s < extents_.sequences; ++s) release(s, 0);
  }

  const PageExtents& extents() const noexcept { return extents_; }
  PageAllocatorRef allocator() const noexcept { return allocator_; }
  Index page_bytes() const noexcept {
    return header_bytes + extents_.heads * extents_.page_tiles * extents_.tile_bytes;
  }
  // Tiles that the tables have room for, per sequence and head.
  bool is_one_piece() const noexcept { return width_ == extents_.page_tiles; }

  // Where the tiles of one sequence and head lie; null where there is no page.
  std::byte* const* tiles(Index sequence, Index head) const noexcept {
    return tiles_.data() + row(sequence, head);
  }

  // Makes room for so many tiles in the tables. False when memory runs out: nothing has changed.
  bool try_widen(Index tiles) noexcept {
    if (tiles <= width_) return true;
    const Index wider = round_up(tiles, extents_.page_tiles);
    const Index rows = extents_.sequences * extents_.heads;
    Array<std::byte*> moved(rows * wider);
    if (moved.size() != rows * wider) return false;
    for (Index r = 0; r < rows; ++r)
      for (Index t = 0; t < width_; ++t) moved[r * wider + t] = tiles_[r * width_ + t];
    tiles_ = static_cast<Array<std::byte*>&&>(moved);
    width_ = wider;
    return true;
  }

  // Makes tiles [first, end) of a sequence, whose first `used` tiles hold tokens, ready to be
  // written. False when memory runs out: what the sequence holds has not changed.
  bool try_open(Index sequence, Index first, Index end, Index used) noexcept {
    for (Index p = first / extents_.page_tiles; p * extents_.page_tiles < end; ++p) {
      std::byte* const old = page(sequence, p);
      if (old != nullptr && references(old) == 1) continue;
      std::byte* const made = allocator_.allocate(page_bytes());
      if (made == nullptr) return false;
      const std::int64_t one = 1;
      std::memcpy(made, &one, sizeof one);
      const Index filled = used - p * extents_.page_tiles;
      for (Index h = 0; h < extents_.heads; ++h) {
        const Index taken = old == nullptr || filled < 0   ? 0
                            : filled < extents_.page_tiles ? filled
                                                           : extents_.page_tiles;
        const Index offset = header_bytes + h * extents_.page_tiles * extents_.tile_bytes;
        const auto taken_bytes = static_cast<std::size_t>(taken * extents_.tile_bytes);
        const auto bytes = static_cast<std::size_t>(extents_.page_tiles * extents_.tile_bytes);
        if (taken > 0) std::memcpy(made + offset, old + offset, taken_bytes);
        std::memset(made + offset + taken_bytes, 0, bytes - taken_bytes);
      }
      if (old != nullptr) drop(old);
      set_page(sequence, p, made);
    }
    return true;
  }

  // Whether nobody else holds the page of a tile.
  bool is_own(Index sequence, Index tile) const noexcept {
    std::byte* const held = page(sequence, tile / extents_.page_tiles);
    return held != nullptr && references(held) == 1;
  }

  // Zeroes tiles [first, end) of a sequence, which lie in pages of its own.
  void clear(Index sequence, Index first, Index end) noexcept {
    for (Index h = 0; h < extents_.heads; ++h)
      for (Index t = first; t < end; ++t)
        std::memset(tiles(sequence, h)[t], 0, static_cast<std::size_t>(extents_.tile_bytes));
  }

  // Gives back the pages of a sequence from page `first` on.
  void release(Index sequence, Index first) noexcept {
    for (Index p = first; p * extents_.page_tiles < width_; ++p) {
      std::byte* const held = page(sequence, p);
      if (held == nullptr) continue;
      drop(held);
      set_page(sequence, p, nullptr);
    }
  }

  // Makes `other` hold the same pages. False when memory runs out: `other` is as before.
  bool try_share(PageTables& other) const noexcept {
    PageTables made(extents_, allocator_);
    if (!made.try_widen(width_)) return false;
    for (Index s = 0; s < extents_.sequences; ++s)
      for (Index p = 0; p * extents_.page_tiles < width_; ++p) {
        std::byte* const held = page(s, p);
        if (held == nullptr) continue;
        __atomic_fetch_add(count_of(held), 1, __ATOMIC_RELAXED);
        made.set_page(s, p, held);
      }
    other = static_cast<PageTables&&>(made);
    return true;
  }

 private:
  Index row(Index sequence, Index head) const noexcept {
    return (sequence * extents_.heads + head) * width_;
  }
  std::byte* page(Index sequence, Index p) const noexcept {
    std::byte* const first = tiles(sequence, 0)[p * extents_.page_tiles];
    return first == nullptr ? nullptr : first - header_bytes;
  }
  void set_page(Index sequence, Index p, std::byte* page) noexcept {
    for (Index h = 0; h < extents_.heads; ++h)
      for (Index i = 0; i < extents_.page_tiles; ++i)
        tiles_[row(sequence, h) + p * extents_.page_tiles + i] =
            page == nullptr
                ? nullptr
                : page + header_bytes + (h * extents_.page_tiles + i) * extents_.tile_bytes;
  }

  static std::int64_t* count_of(std::byte* page) noexcept {
    return reinterpret_cast<std::int64_t*>(page);
  }
  static std::int64_t references(std::byte* page) noexcept {
    return __atomic_load_n(count_of(page), __ATOMIC_ACQUIRE);
  }
  void drop(std::byte* page) noexcept {
    if (__atomic_fetch_sub(count_of(page), 1, __ATOMIC_ACQ_REL) == 1)
      allocator_.release(page, page_bytes());
  }
  void swap(PageTables& other) noexcept {
    const PageExtents extents = extents_;
    const PageAllocatorRef allocator = allocator_;
    const Index width = width_;
    Array<std::byte*> tiles = static_cast<Array<std::byte*>&&>(tiles_);
    extents_ = other.extents_;
    allocator_ = other.allocator_;
    width_ = other.width_;
    tiles_ = static_cast<Array<std::byte*>&&>(other.tiles_);
    other.extents_ = extents;
    other.allocator_ = allocator;
    other.width_ = width;
    other.tiles_ = static_cast<Array<std::byte*>&&>(tiles);
  }

  PageExtents extents_{};
  PageAllocatorRef allocator_{};
  Array<std::byte*> tiles_;  // [sequences][heads][width]
  Index width_ = 0;
};

LOWATT_API_END
