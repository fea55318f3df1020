// Tile registers of AMX, 16 rows of 64 bytes, and the blocks of products that kernels are made of:
//
//   sums[rows][16] += left[rows][depth] . right[depth][16]
//
// Depth is at most 64 bytes: 32 numbers of bf16, or 64 of 8 bits (one side signed, the other
// unsigned: the left one, if left_unsigned). In a right operand the 4 bytes of a column that are
// consecutive in depth lie side by side. A product takes 16 cycles, loading a tile 8, storing
// one 16.
//
// Register numbers are literals, since g++ makes assembler text of them. Compilers know neither
// what tile loads read nor what tile stores write: memory_barrier() stands where vector code and
// tile code meet. Tile registers are configured at the start of a kernel and released at its end.
#pragma once

#include "../core/config.hpp"

#if LOWATT_HAS_TILES

#include <immintrin.h>

namespace lowatt::tiles {

inline constexpr Index rows = 16, row_bytes = 64, bytes = 1024;

LOWATT_ALWAYS_INLINE void memory_barrier() noexcept {
  __asm__ volatile("" ::: "memory");
}

struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Registers 0 to 3 are sums, 4 and 5 left operands, 6 and 7 right ones. For left operands of
// `left_rows` rows and so many bytes of depth.
LOWATT_ALWAYS_INLINE void configure(Index left_rows, Index depth_bytes) noexcept {
  Configuration configuration{};
  for (int i = 0; i < 8; ++i) {
    const bool is_left = i == 4 || i == 5, is_right = i >= 6;
    configuration.row_bytes[i] = static_cast<std::uint16_t>(is_left ? depth_bytes : row_bytes);
    configuration.rows[i] = static_cast<std::uint8_t>(is_right ? depth_bytes / 4 : left_rows);
  }
  __asm__ volatile("" : : "r"(&configuration) : "memory");  // all of it is read
  _tile_loadconfig(&configuration);
}

LOWATT_ALWAYS_INLINE void release() noexcept {
  _tile_release();
}

// Tiles of an operand in memory: where the first one is, and how far its next row and the next
// tile.
struct Operand {
  const std::byte* data = nullptr;
  Index row_stride = 0, next = 0;  // bytes
};
// Tiles of sums in memory. Those beside each other are 64 bytes apart.
struct Sums {
  std::byte* data = nullptr;
  Index row_stride = 0, next_rows = 0;  // bytes
};

#define LOWATT_TILE_MULTIPLY(sum, left, right) \
  if constexpr (is_int8 && left_unsigned)      \
    _tile_dpbusd(sum, left, right);            \
  else if constexpr (is_int8)                  \
    _tile_dpbsud(sum, left, right);            \
  else                                         \
    _tile_dpbf16ps(sum, left, right)

LOWATT_ALWAYS_INLINE void clear() noexcept {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Two tiles of rows by two of columns.
struct TwoByTwo {
  static constexpr Index columns = 2;

  static LOWATT_ALWAYS_INLINE void load(const Sums& sums) noexcept {
    _tile_loadd(0, sums.data, sums.row_stride);
    _tile_loadd(1, sums.data + row_bytes, sums.row_stride);
    _tile_loadd(2, sums.data + sums.next_rows, sums.row_stride);
    _tile_loadd(3, sums.data + sums.next_rows + row_bytes, sums.row_stride);
  }
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    _tile_stored(0, sums.data, sums.row_stride);
    _tile_stored(1, sums.data + row_bytes, sums.row_stride);
    _tile_stored(2, sums.data + sums.next_rows, sums.row_stride);
    _tile_stored(3, sums.data + sums.next_rows + row_bytes, sums.row_stride);
  }
  template <bool is_int8, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, const Operand& right) noexcept {
    _tile_loadd(4, left.data, left.row_stride);
    _tile_loadd(6, right.data, right.row_stride);
    LOWATT_TILE_MULTIPLY(0, 4, 6);
    _tile_loadd(7, right.data + right.next, right.row_stride);
    LOWATT_TILE_MULTIPLY(1, 4, 7);
    _tile_loadd(5, left.data + left.next, left.row_stride);
    LOWATT_TILE_MULTIPLY(2, 5, 6);
    LOWATT_TILE_MULTIPLY(3, 5, 7);
  }
};

// One tile of rows by four of columns.
struct OneByFour {
  static constexpr Index columns = 4;

  static LOWATT_ALWAYS_INLINE void load(const Sums& sums) noexcept {
    _tile_loadd(0, sums.data, sums.row_stride);
    _tile_loadd(1, sums.data + row_bytes, sums.row_stride);
    _tile_loadd(2, sums.data + 2 * row_bytes, sums.row_stride);
    _tile_loadd(3, sums.data + 3 * row_bytes, sums.row_stride);
  }
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    _tile_stored(0, sums.data, sums.row_stride);
    _tile_stored(1, sums.data + row_bytes, sums.row_stride);
    _tile_stored(2, sums.data + 2 * row_bytes, sums.row_stride);
    _tile_stored(3, sums.data + 3 * row_bytes, sums.row_stride);
  }
  template <bool is_int8, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, const Operand& right) noexcept {
    _tile_loadd(4, left.data, left.row_stride);
    _tile_loadd(6, right.data, right.row_stride);
    LOWATT_TILE_MULTIPLY(0, 4, 6);
    _tile_loadd(7, right.data + right.next, right.row_stride);
    LOWATT_TILE_MULTIPLY(1, 4, 7);
    _tile_loadd(6, right.data + 2 * right.next, right.row_stride);
    LOWATT_TILE_MULTIPLY(2, 4, 6);
    _tile_loadd(7, right.data + 3 * right.next, right.row_stride);
    LOWATT_TILE_MULTIPLY(3, 4, 7);
  }
};

// Two tiles of rows by one of columns.
struct TwoByOne {
  static constexpr Index columns = 1;

  static LOWATT_ALWAYS_INLINE void load(const Sums& sums) noexcept {
    _tile_loadd(0, sums.data, sums.row_stride);
    _tile_loadd(2, sums.data + sums.next_rows, sums.row_stride);
  }
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    _tile_stored(0, sums.data, sums.row_stride);
    _tile_stored(2, sums.data + sums.next_rows, sums.row_stride);
  }
  template <bool is_int8, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, const Operand& right) noexcept {
    _tile_loadd(6, right.data, right.row_stride);
    _tile_loadd(4, left.data, left.row_stride);
    LOWATT_TILE_MULTIPLY(0, 4, 6);
    _tile_loadd(5, left.data + left.next, left.row_stride);
    LOWATT_TILE_MULTIPLY(2, 5, 6);
  }
};

// One tile of rows by one of columns.
struct OneByOne {
  static constexpr Index columns = 1;

  static LOWATT_ALWAYS_INLINE void load(const Sums& sums) noexcept {
    _tile_loadd(0, sums.data, sums.row_stride);
  }
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    _tile_stored(0, sums.data, sums.row_stride);
  }
  template <bool is_int8, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, const Operand& right) noexcept {
    _tile_loadd(4, left.data, left.row_stride);
    _tile_loadd(6, right.data, right.row_stride);
    LOWATT_TILE_MULTIPLY(0, 4, 6);
  }
};

// Columns of a product with few steps of depth. Two sets of sums take turns: one is stored while
// the other is computed, since a store waits for all products before it.
//
// Two tiles of rows by one of columns.
struct TwoRows {
  static constexpr Index columns = 1;

  // Set the sums to those of all steps. left.next leads to the other tile of rows and left_step to
  // the next step; right.next leads to the next step.
  template <bool is_int8, int set, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, Index left_step,
                                            const Operand& right, Index steps) noexcept {
    const std::byte* a = left.data;
    const std::byte* b = right.data;
    if constexpr (set == 0) {
      _tile_zero(0);
      _tile_zero(1);
    } else {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (Index s = 0; s < steps; ++s, a += left_step, b += right.next) {
      _tile_loadd(4, a, left.row_stride);
      if constexpr (set == 0) {
        _tile_loadd(6, b, right.row_stride);
        LOWATT_TILE_MULTIPLY(0, 4, 6);
        _tile_loadd(5, a + left.next, left.row_stride);
        LOWATT_TILE_MULTIPLY(1, 5, 6);
      } else {
        _tile_loadd(7, b, right.row_stride);
        LOWATT_TILE_MULTIPLY(2, 4, 7);
        _tile_loadd(5, a + left.next, left.row_stride);
        LOWATT_TILE_MULTIPLY(3, 5, 7);
      }
    }
  }
  template <int set>
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    if constexpr (set == 0) {
      _tile_stored(0, sums.data, sums.row_stride);
      _tile_stored(1, sums.data + sums.next_rows, sums.row_stride);
    } else {
      _tile_stored(2, sums.data, sums.row_stride);
      _tile_stored(3, sums.data + sums.next_rows, sums.row_stride);
    }
  }
};

// Two tiles of rows by one of columns, with a left operand of one or two steps that stays in
// registers 2 to 5 from one column to the next. A step is 64 bytes deep, so that registers of sums
// have a left operand's shape. One set of sums: not loading the left operand again gains more than
// taking turns.
struct TwoRowsHeld {
  static LOWATT_ALWAYS_INLINE void load_left(const Operand& left, Index left_step,
                                             Index steps) noexcept {
    _tile_loadd(2, left.data, left.row_stride);
    _tile_loadd(3, left.data + left.next, left.row_stride);
    if (steps == 1) return;
    _tile_loadd(4, left.data + left_step, left.row_stride);
    _tile_loadd(5, left.data + left.next + left_step, left.row_stride);
  }
  template <bool is_int8, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& right, Index steps) noexcept {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(6, right.data, right.row_stride);
    LOWATT_TILE_MULTIPLY(0, 2, 6);
    LOWATT_TILE_MULTIPLY(1, 3, 6);
    if (steps == 1) return;
    _tile_loadd(7, right.data + right.next, right.row_stride);
    LOWATT_TILE_MULTIPLY(0, 4, 7);
    LOWATT_TILE_MULTIPLY(1, 5, 7);
  }
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    _tile_stored(0, sums.data, sums.row_stride);
    _tile_stored(1, sums.data + sums.next_rows, sums.row_stride);
  }
};

// One tile of rows by two of columns.
struct OneRow {
  static constexpr Index columns = 2;

  template <bool is_int8, int set, bool left_unsigned = false>
  static LOWATT_ALWAYS_INLINE void multiply(const Operand& left, Index left_step,
                                            const Operand& right, Index steps) noexcept {
    const std::byte* a = left.data;
    const std::byte* b = right.data;
    if constexpr (set == 0) {
      _tile_zero(0);
      _tile_zero(1);
    } else {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (Index s = 0; s < steps; ++s, a += left_step, b += right.next) {
      _tile_loadd(4, a, left.row_stride);
      _tile_loadd(6, b, right.row_stride);
      _tile_loadd(7, b + row_bytes, right.row_stride);
      if constexpr (set == 0) {
        LOWATT_TILE_MULTIPLY(0, 4, 6);
        LOWATT_TILE_MULTIPLY(1, 4, 7);
      } else {
        LOWATT_TILE_MULTIPLY(2, 4, 6);
        LOWATT_TILE_MULTIPLY(3, 4, 7);
      }
    }
  }
  template <int set>
  static LOWATT_ALWAYS_INLINE void store(const Sums& sums) noexcept {
    if constexpr (set == 0) {
      _tile_stored(0, sums.data, sums.row_stride);
      _tile_stored(1, sums.data + row_bytes, sums.row_stride);
    } else {
      _tile_stored(2, sums.data, sums.row_stride);
      _tile_stored(3, sums.data + row_bytes, sums.row_stride);
    }
  }
};

#undef LOWATT_TILE_MULTIPLY

}  // namespace lowatt::tiles

#endif
