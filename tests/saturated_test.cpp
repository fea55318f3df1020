// How many numbers a cache clamped is counted exactly, at every level and in whatever chunks they
// come.
#include <cmath>
#include <limits>

#include "support/cached_tensors.hpp"

namespace {

using lowatt::Index;
using test::tokens_of;

// Numbers of one head that round to more than the limit, as the specification has it.
std::int64_t clamped(lowatt::View<const float> x, Index b, Index g, float absmax, int limit) {
  const float inverse = lowatt::symmetric_scale(absmax, limit).inverse;
  std::int64_t count = 0;
  for (Index t = 0; t < x.tokens; ++t)
    for (Index c = 0; c < x.dim; ++c)
      count += std::abs(std::nearbyint(x.row(b, g, t)[c] * inverse)) > static_cast<float>(limit);
  return count;
}

struct Expected {
  int key_limit = 0, value_limit = 0;  // 0: not quantised so
};
Expected expected_of(const lowatt::Softmax& m) {
  return m.precision == lowatt::Precision::int8 ? Expected{127, 127} : Expected{};
}
Expected expected_of(const lowatt::Inhibitor& m) {
  if (m.precision == lowatt::Precision::fp32) return {};
  if (m.planes > 0) return {0, 127};
  const int limit = m.precision == lowatt::Precision::int16  ? 32767
                    : m.precision == lowatt::Precision::int4 ? 7
                                                             : 127;
  return {limit, limit};
}
Expected expected_of(const lowatt::Latte& m) {
  return {127, m.value_precision == lowatt::Precision::int8 ? 127 : 0};
}
Expected expected_of(const lowatt::Bitformer&) {
  return {0, 127};
}

template <class Example>
class SaturatedCache : public test::CachedTensors<Example> {};
TYPED_TEST_SUITE(SaturatedCache, test::Examples);

TYPED_TEST(SaturatedCache, CountsWhatWasClamped) {
  for (lowatt::Array<float>* absmax :
       {&this->calibration.query_absmax, &this->calibration.key_absmax,
        &this->calibration.value_absmax})
    for (float& x : *absmax) x = 2.0f;
  // Neither NaN nor the largest number that rounds down counts; infinity and the next number do.
  this->key_tensor.view().row(0, 1, 3)[1] = std::numeric_limits<float>::quiet_NaN();
  this->key_tensor.view().row(0, 1, 4)[1] = -std::numeric_limits<float>::infinity();
  this->value_tensor.view().row(1, 0, 20)[0] = 2.0f / 127 * 127.49f;
  this->value_tensor.view().row(1, 0, 20)[1] = 2.0f / 127 * 127.51f;
  const auto [q, k, v] = this->views();
  const Expected expected = expected_of(this->mechanism);
  for (const lowatt::Level level : test::levels()) {
    auto whole = this->filled(this->tokens, {}, level),
         single = this->make(this->tokens, {}, level);
    for (Index i = 0; i < this->tokens; ++i) single.append(tokens_of(k, i, 1), tokens_of(v, i, 1));
    for (Index b = 0; b < this->batch; ++b)
      for (Index g = 0; g < this->kv_heads; ++g) {
        const std::int64_t keys =
            expected.key_limit == 0 ? 0 : clamped(k, b, g, 2.0f, expected.key_limit);
        const std::int64_t values =
            expected.value_limit == 0 ? 0 : clamped(v, b, g, 2.0f, expected.value_limit);
        EXPECT_EQ(values > 0, expected.value_limit != 0);
        EXPECT_EQ(whole.saturated(b, g).keys, keys) << lowatt::level_name(level);
        EXPECT_EQ(whole.saturated(b, g).values, values) << lowatt::level_name(level);
        EXPECT_EQ(single.saturated(b, g).keys, keys) << lowatt::level_name(level);
        EXPECT_EQ(single.saturated(b, g).values, values) << lowatt::level_name(level);
      }
    single.truncate(0);  // what was clamped stays known ...
    EXPECT_EQ(single.saturated(1, 1).values, whole.saturated(1, 1).values);
    single.clear();  // ... until all starts anew
    EXPECT_EQ(single.saturated(1, 1).values, 0);
  }
}

// A calibration of the same tensors clamps nothing.
TYPED_TEST(SaturatedCache, NothingOfWhatWasCalibratedOn) {
  const auto cache = this->filled(this->tokens);
  for (Index b = 0; b < this->batch; ++b)
    for (Index g = 0; g < this->kv_heads; ++g) {
      EXPECT_EQ(cache.saturated(b, g).keys, 0);
      EXPECT_EQ(cache.saturated(b, g).values, 0);
    }
}

}  // namespace
