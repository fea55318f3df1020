// What tests of caches share: tensors and a calibration for every mechanism, and how the bytes of
// two caches are compared.
#pragma once

#include <cstring>

#include "mechanisms.hpp"
#include "sweep.hpp"

namespace test {

template <class View>
View tokens_of(View x, Index first, Index count) {
  x.data += first * x.token_stride;
  x.tokens = count;
  return x;
}

// One entry of a batch.
template <class View>
View entry_of(View x, Index b) {
  x.data += b * x.batch_stride;
  x.batch = 1;
  return x;
}

// Caches that hold the same tokens hold the same bytes, padding included.
template <class M>
void expect_same_bytes(const lowatt::KvCache<M>& a, const lowatt::KvCache<M>& b,
                       const std::string& what) {
  ASSERT_EQ(a.shape().batch, b.shape().batch) << what;
  for (Index s = 0; s < a.shape().batch; ++s) {
    ASSERT_EQ(a.size(s), b.size(s)) << what << ", sequence " << s;
    for (Index g = 0; g < a.shape().kv_heads; ++g)
      for (Index t = 0; t < lowatt::tile_count(a.size(s)); ++t)
        ASSERT_EQ(0, std::memcmp(a.tiles(s, g).tile(t), b.tiles(s, g).tile(t),
                                 static_cast<std::size_t>(a.tiles(s, g).stride)))
            << what << ", sequence " << s << ", KV head " << g << ", tile " << t;
  }
}

template <class Example>
class CachedTensors : public testing::Test {
 protected:
  using M = typename Example::Mechanism;
  using Cache = lowatt::KvCache<M>;
  static constexpr Index batch = 2, query_heads = 4, kv_heads = 2, tokens = 150, head_dim = 40,
                         value_dim = 24;
  CachedTensors() {
    std::mt19937 random(7);
    for (StridedTensor* x : {&query_tensor, &key_tensor, &value_tensor}) x->fill_normal(random);
    const lowatt::Options causal{.causal = true};
    calibration = lowatt::calibrate(mechanism, views().q, views().k, views().v, causal);
  }
  struct Views {
    lowatt::View<const float> q, k, v;
  };
  Views views() { return {query_tensor.view(), key_tensor.view(), value_tensor.view()}; }
  Cache make(Index capacity = tokens, const lowatt::PageSetting& pages = {},
             const lowatt::LevelSetting& level = {}) {
    return {{batch, kv_heads, head_dim, value_dim, capacity}, calibration, mechanism, level, pages};
  }
  // With the first `count` tokens.
  Cache filled(Index count, const lowatt::PageSetting& pages = {},
               const lowatt::LevelSetting& level = {}) {
    Cache cache = make(tokens, pages, level);
    if (count > 0) cache.append(tokens_of(views().k, 0, count), tokens_of(views().v, 0, count));
    return cache;
  }

  // Q and K in one layout, V in another: strides must not matter.
  StridedTensor query_tensor{batch, query_heads, tokens, head_dim, Layout::token_major};
  StridedTensor key_tensor{batch, kv_heads, tokens, head_dim, Layout::padded};
  StridedTensor value_tensor{batch, kv_heads, tokens, value_dim};
  StridedTensor out{batch, query_heads, tokens, value_dim};
  StridedTensor again{batch, query_heads, tokens, value_dim};
  M mechanism = Example::make();
  lowatt::Calibration calibration;
};

}  // namespace test
