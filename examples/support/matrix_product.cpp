#include "matrix_product.hpp"

namespace support {

// Defined by the generated units.
using Product = void (*)(const float*, const float*, float*, lowatt::Index, lowatt::Index,
                         lowatt::Index);
void matrix_product_sse2(const float*, const float*, float*, lowatt::Index, lowatt::Index,
                         lowatt::Index);
void matrix_product_avx2(const float*, const float*, float*, lowatt::Index, lowatt::Index,
                         lowatt::Index);
void matrix_product_avx512(const float*, const float*, float*, lowatt::Index, lowatt::Index,
                           lowatt::Index);
void matrix_product_neon64(const float*, const float*, float*, lowatt::Index, lowatt::Index,
                           lowatt::Index);

void matrix_product(lowatt::Level level, const float* x, const float* weight, float* y,
                    lowatt::Index rows, lowatt::Index in, lowatt::Index out) {
#if defined(__x86_64__)
  // What the levels above avx512 add does not multiply floats.
  Product product = matrix_product_avx512;
  if (level == lowatt::Level::sse2) product = matrix_product_sse2;
  if (level == lowatt::Level::avx2) product = matrix_product_avx2;
#else
  static_cast<void>(level);  // there is one
  const Product product = matrix_product_neon64;
#endif
  product(x, weight, y, rows, in, out);
}

}  // namespace support
