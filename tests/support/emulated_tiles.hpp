// The tile registers of AMX in plain memory: included before all else (-include) of a unit with
// kernels of level amx, it replaces the instructions, so that the unit runs on a CPU that has the
// rest of the level. A configuration, or a use of a register, that hardware faults on ends the
// program with a sentence. Loads and stores are plain C++, which the address sanitizer would see;
// those of the hardware it does not.
//
// Sums are those of _mm512_dpbusd_epi32 and _mm512_dpbf16_ps: the same integers as the hardware's,
// and floats that may differ in their last bits.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated_tiles {

struct Register {
  alignas(64) std::uint8_t data[16][64] = {};
  std::uint16_t row_bytes = 0;
  std::uint8_t rows = 0;
};

struct State {
  Register registers[8];
  bool is_configured = false;
};

inline thread_local State state;

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "emulated tiles: %s\n", what);
  std::abort();
}

inline Register& configured(int number) {
  require(state.is_configured, "an instruction before tile registers are configured");
  require(state.registers[number].rows != 0, "a use of a register that is not configured");
  return state.registers[number];
}

inline void configure(const void* configuration) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, configuration, sizeof bytes);
  require(bytes[0] == 1, "a palette other than 1");
  for (int i = 0; i < 64; ++i) {
    const bool is_reserved = (i > 0 && i < 16) || (i >= 32 && i < 48) || i >= 56;
    require(!is_reserved || bytes[i] == 0, "a reserved byte that is not 0");
  }
  state = State{};
  state.is_configured = true;
  for (int i = 0; i < 8; ++i) {
    Register& tile = state.registers[i];
    std::memcpy(&tile.row_bytes, bytes + 16 + 2 * i, 2);
    tile.rows = bytes[48 + i];
    require(tile.row_bytes <= 64 && tile.rows <= 16, "a register of over 16 rows of 64 bytes");
    require((tile.rows == 0) == (tile.row_bytes == 0),
            "a register of no rows, or rows of no bytes");
  }
}

inline void release() {
  state = State{};
}

inline void clear(int number) {
  std::memset(configured(number).data, 0, sizeof(Register::data));
}

inline void load(int number, const void* from, std::ptrdiff_t row_stride) {
  Register& tile = configured(number);
  clear(number);
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(tile.data[r], static_cast<const char*>(from) + r * row_stride, tile.row_bytes);
}

inline void store(int number, void* to, std::ptrdiff_t row_stride) {
  const Register& tile = configured(number);
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * row_stride, tile.data[r], tile.row_bytes);
}

// sums += left . right, where add(sums, left, right) adds the products of one step of four bytes:
// `left` has the four bytes of one row in all lanes, `right` those of each column.
template <class Add>
void multiply(int sums, int left, int right, Add&& add) {
  Register& out = configured(sums);
  const Register& a = configured(left);
  const Register& b = configured(right);
  require(sums != left && sums != right && left != right, "a product of one register with itself");
  require(out.rows == a.rows && out.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows,
          "a product of registers whose shapes do not match");
  for (int r = 0; r < out.rows; ++r) {
    __m512i sum = _mm512_load_si512(out.data[r]);
    for (int step = 0; step < b.rows; ++step) {
      std::int32_t four;
      std::memcpy(&four, a.data[r] + 4 * step, 4);
      sum = add(sum, _mm512_set1_epi32(four), _mm512_load_si512(b.data[step]));
    }
    _mm512_store_si512(out.data[r], sum);
  }
}

inline void multiply_unsigned_signed(int sums, int left, int right) {
  multiply(sums, left, right,
           [](__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); });
}

inline void multiply_signed_unsigned(int sums, int left, int right) {
  multiply(sums, left, right,
           [](__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, b, a); });
}

inline void multiply_bf16(int sums, int left, int right) {
  multiply(sums, left, right, [](__m512i sum, __m512i a, __m512i b) {
    return _mm512_castps_si512(
        _mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)a, (__m512bh)b));
  });
}

}  // namespace emulated_tiles

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig(configuration) emulated_tiles::configure(configuration)
#define _tile_release() emulated_tiles::release()
#define _tile_zero(number) emulated_tiles::clear(number)
#define _tile_loadd(number, from, row_stride) emulated_tiles::load(number, from, row_stride)
#define _tile_stored(number, to, row_stride) emulated_tiles::store(number, to, row_stride)
#define _tile_dpbusd(sums, left, right) emulated_tiles::multiply_unsigned_signed(sums, left, right)
#define _tile_dpbsud(sums, left, right) emulated_tiles::multiply_signed_unsigned(sums, left, right)
#define _tile_dpbf16ps(sums, left, right) emulated_tiles::multiply_bf16(sums, left, right)
