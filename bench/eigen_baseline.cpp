#include "eigen_baseline.hpp"

namespace bench {

// Defined by the generated units, one per level.
using EigenHead = void (*)(const float* q, const float* k, const float* v, float* out,
                           lowatt::Index queries, lowatt::Index keys, lowatt::Index dim);
void eigen_sse2(const float*, const float*, const float*, float*, lowatt::Index, lowatt::Index,
                lowatt::Index);
void eigen_avx2(const float*, const float*, const float*, float*, lowatt::Index, lowatt::Index,
                lowatt::Index);
void eigen_avx512(const float*, const float*, const float*, float*, lowatt::Index, lowatt::Index,
                  lowatt::Index);
void eigen_avx512icl(const float*, const float*, const float*, float*, lowatt::Index, lowatt::Index,
                     lowatt::Index);
void eigen_amx(const float*, const float*, const float*, float*, lowatt::Index, lowatt::Index,
               lowatt::Index);

void eigen_softmax(lowatt::Level level, lowatt::View<const float> q, lowatt::View<const float> k,
                   lowatt::View<const float> v, lowatt::View<float> out) {
  constexpr EigenHead heads[] = {eigen_sse2, eigen_avx2, eigen_avx512, eigen_avx512icl, eigen_amx};
  for (lowatt::Index h = 0; h < q.heads; ++h)
    heads[static_cast<int>(level)](q.row(0, h, 0), k.row(0, h, 0), v.row(0, h, 0), out.row(0, h, 0),
                                   q.tokens, k.tokens, q.dim);
}

}  // namespace bench
