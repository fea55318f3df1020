// Bad input gets one sentence that names the argument and its value, and nothing is written.
#include <cmath>
#include <limits>

#include "support/sweep.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using lowatt::Status;
using lowatt::StatusCode;
using lowatt::View;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// A call that would succeed; each test spoils one thing.
class Refusal : public testing::Test {
 protected:
  Refusal() : memory(4096, 1.0f), results(4096, -7.0f) {
    q = {memory.data(), 4, 6, 8};
    k = {memory.data() + 1000, 2, 10, 8};
    v = {memory.data() + 2000, 2, 10, 5};
    out = {results.data(), 4, 6, 5};
  }
  template <class M>
  void expect(const M& mechanism, StatusCode code, const std::string& sentence) {
    const Status status = lowatt::try_attend(mechanism, q, k, v, out, options);
    EXPECT_EQ(status.code, code);
    EXPECT_EQ(std::string(status.message), sentence);
    for (const float x : results) ASSERT_EQ(x, -7.0f) << "something was written";
  }
  void expect(StatusCode code, const std::string& sentence) { expect(Inhibitor{}, code, sentence); }

  std::vector<float> memory, results;
  View<const float> q, k, v;
  View<float> out;
  lowatt::Options options;
};

TEST_F(Refusal, TheUnspoiltCallSucceeds) {
  EXPECT_TRUE(lowatt::try_attend(Inhibitor{}, q, k, v, out, options).ok());
  EXPECT_NE(results[0], -7.0f);
}

TEST_F(Refusal, EmptyExtents) {
  q.tokens = 0;
  expect(StatusCode::invalid_shape, "q.tokens is 0; it must be at least 1");
  q.tokens = 6;
  k.heads = -2;
  expect(StatusCode::invalid_shape, "k.heads is -2; it must be at least 1");
}

TEST_F(Refusal, NullData) {
  v.data = nullptr;
  expect(StatusCode::invalid_argument, "v.data is null");
}

TEST_F(Refusal, ExtentsThatDisagree) {
  k.dim = 7;
  expect(StatusCode::invalid_shape, "q.dim is 8 but k.dim is 7");
  k.dim = 8;
  v.tokens = 9;
  expect(StatusCode::invalid_shape, "v.tokens is 9 but k.tokens is 10");
  v.tokens = 10;
  v.heads = 1;
  expect(StatusCode::invalid_shape, "v.heads is 1 but k.heads is 2");
  v.heads = 2;
  out.dim = 4;
  expect(StatusCode::invalid_shape, "out.dim is 4 but v.dim is 5");
  out.dim = 5;
  out.heads = 2;
  expect(StatusCode::invalid_shape, "out.heads is 2 but q.heads is 4");
  out.heads = 4;
  out.tokens = 7;
  expect(StatusCode::invalid_shape, "out.tokens is 7 but q.tokens is 6");
  out.tokens = 6;
  q.batch = 2;
  expect(StatusCode::invalid_shape, "q.batch is 2 but k.batch is 1");
}

TEST_F(Refusal, HeadsThatDoNotDivide) {
  q.heads = out.heads = 3;
  expect(StatusCode::invalid_shape, "q.heads is 3; it must be a multiple of the 2 KV heads");
}

TEST_F(Refusal, Strides) {
  k.token_stride = 7;
  expect(StatusCode::invalid_shape, "k.token_stride is 7; tokens of dim 8 would overlap");
  k.token_stride = 8;
  v.head_stride = PTRDIFF_MAX / 2;
  expect(StatusCode::invalid_shape,
         "v strides (100, 4611686018427387903, 5) reach beyond what "
         "memory can hold");
  v.head_stride = PTRDIFF_MIN;
  expect(StatusCode::invalid_shape,
         "v strides (100, -9223372036854775808, 5) reach beyond what memory can hold");
  v.head_stride = 50;
  out.head_stride = 29;
  expect(StatusCode::invalid_shape, "out strides (120, 29, 5) make its rows overlap");
}

TEST_F(Refusal, OutputOverInputs) {
  out.data = memory.data() + 2099;
  expect(StatusCode::invalid_argument, "out overlaps v in memory");
  out.data = memory.data() + 191;
  expect(StatusCode::invalid_argument, "out overlaps q in memory");
  out.data = memory.data() + 900;
  expect(StatusCode::invalid_argument, "out overlaps k in memory");
  out.data = memory.data() + 192;
  EXPECT_TRUE(lowatt::try_attend(Inhibitor{}, q, k, v, out, options).ok());
}

TEST_F(Refusal, ExtentsBeyondMemory) {
  k.tokens = v.tokens = PTRDIFF_MAX / 32;
  expect(StatusCode::invalid_shape,
         "k has extents [1, 2, 288230376151711743, 8], more elements than memory can hold");
}

TEST_F(Refusal, WorkspaceAndCountsOverTensors) {
  lowatt::Array<std::byte> shared(1 << 20);
  options.workspace = shared.data();
  options.workspace_bytes = shared.size();
  q.data = reinterpret_cast<float*>(shared.data());
  expect(StatusCode::invalid_argument, "workspace overlaps q in memory");
  options.workspace = nullptr;
  options.kept = reinterpret_cast<std::int64_t*>(shared.data());
  expect(StatusCode::invalid_argument, "kept overlaps q in memory");
}

TEST_F(Refusal, Scale) {
  for (const double scale : {0.0, -1.0, nan, infinity, -infinity}) {
    char sentence[80];
    std::snprintf(sentence, sizeof sentence, "scale is %g; it must be finite and positive", scale);
    expect(Inhibitor{.scale = scale}, StatusCode::invalid_argument, sentence);
  }
}

TEST_F(Refusal, InhibitorParameters) {
  expect(Inhibitor{.alpha = infinity}, StatusCode::invalid_argument,
         "alpha is inf; it must be finite");
  expect(Inhibitor{.beta = nan}, StatusCode::invalid_argument, "beta is nan; it must be finite");
}

TEST_F(Refusal, LevelThatTheCpuLacks) {
  if (lowatt::cpu_level() == static_cast<lowatt::Level>(lowatt::level_count - 1))
    GTEST_SKIP() << "this CPU has every level";
  options.level = static_cast<lowatt::Level>(lowatt::level_count - 1);
  EXPECT_EQ(lowatt::try_attend(Inhibitor{}, q, k, v, out, options).code, StatusCode::unsupported);
}

struct Nobody {
  int workers() const { return 0; }
  template <class F>
  void run(Index, F&&) const {}
};

TEST_F(Refusal, ExecutorWithoutWorkers) {
  Nobody nobody;
  options.executor = nobody;
  expect(StatusCode::invalid_argument, "executor.workers() is 0; it must be at least 1");
}

TEST_F(Refusal, PlainNamesThrow) {
  k.dim = 7;
  try {
    lowatt::attend(Inhibitor{}, q, k, v, out);
    FAIL() << "no exception";
  } catch (const lowatt::Error& error) {
    EXPECT_EQ(error.code(), StatusCode::invalid_shape);
    EXPECT_STREQ(error.what(), "q.dim is 8 but k.dim is 7");
  }
}

using InhibitorCache = lowatt::KvCache<Inhibitor>;

lowatt::Calibration calibration_of(std::initializer_list<float> query,
                                   std::initializer_list<float> key,
                                   std::initializer_list<float> value) {
  const auto array = [](std::initializer_list<float> values) {
    lowatt::Array<float> a(static_cast<Index>(values.size()));
    std::copy(values.begin(), values.end(), a.begin());
    return a;
  };
  lowatt::Calibration calibration;
  calibration.query_absmax = array(query);
  calibration.key_absmax = array(key);
  calibration.value_absmax = array(value);
  return calibration;
}

void expect_no_cache(const lowatt::CacheShape& shape, const lowatt::Calibration& calibration,
                     StatusCode code, const std::string& sentence) {
  InhibitorCache cache;
  const Status status = InhibitorCache::try_create(cache, shape, calibration);
  EXPECT_EQ(status.code, code);
  EXPECT_EQ(std::string(status.message), sentence);
}

TEST(CacheRefusal, Extents) {
  expect_no_cache({1, 0, 8, 8, 64}, {}, StatusCode::invalid_shape,
                  "cache kv_heads is 0; it must be at least 1");
  expect_no_cache({1, 1, 8, 8, -5}, {}, StatusCode::invalid_shape,
                  "cache capacity is -5; it must be at least 1");
}

TEST(CacheRefusal, MoreThanMemoryHolds) {
  const auto calibration = calibration_of({1}, {1}, {1});
  expect_no_cache({1, 1, 8, PTRDIFF_MAX / 2, 64}, calibration, StatusCode::out_of_memory,
                  "a cache of 64 tokens, 1 KV heads and batch 1 does not fit memory");
  expect_no_cache({1, 1, 8, 8, 20'000'000}, calibration, StatusCode::invalid_shape,
                  "keys is 20000000; 32-bit sums hold at most 16909320");
}

TEST(CacheRefusal, InhibitorHeadDim) {
  expect_no_cache({1, 1, 3'000'000, 8, 64}, calibration_of({1}, {1}, {1}),
                  StatusCode::invalid_shape,
                  "head_dim is 3000000; 32-bit sums hold at most 2105376");
}

TEST(CacheRefusal, Calibration) {
  const lowatt::CacheShape shape{1, 2, 8, 8, 64};
  expect_no_cache(shape, {}, StatusCode::invalid_argument,
                  "calibration.query_absmax has 0 entries; a multiple of batch * kv_heads = 2 is "
                  "needed, since queries and keys share a scale");
  expect_no_cache(shape, calibration_of({1, 1}, {1}, {1, 1}), StatusCode::invalid_argument,
                  "calibration.key_absmax has 1 entries; 2 are needed");
  expect_no_cache(shape, calibration_of({1, 1}, {1, 1}, {1, static_cast<float>(nan)}),
                  StatusCode::invalid_argument,
                  "calibration.value_absmax[1] is nan; it must be finite and not negative");
  expect_no_cache(shape, calibration_of({1, static_cast<float>(infinity)}, {1, 1}, {1, 1}),
                  StatusCode::invalid_argument,
                  "calibration.query_absmax[1] is inf; it must be finite and not negative");
  expect_no_cache(shape, calibration_of({1, 1}, {1, -1}, {1, 1}), StatusCode::invalid_argument,
                  "calibration.key_absmax[1] is -1; it must be finite and not negative");
}

TEST(CacheRefusal, EmptyCacheAndForeignQueries) {
  std::vector<float> memory(1000, 1.0f), results(1000);
  const View<const float> keys(memory.data(), 2, 3, 8);
  const View<float> out(results.data(), 4, 3, 8);
  InhibitorCache cache({1, 2, 8, 8, 64}, calibration_of({1, 1}, {1, 1}, {1, 1}));
  Status status = lowatt::try_attend(View<const float>(memory.data(), 4, 3, 8), cache, out);
  EXPECT_STREQ(status.message, "the cache holds 0 keys; append some first");
  cache.append(keys, keys);
  status = lowatt::try_attend(View<const float>(memory.data(), 4, 3, 8), cache, out);
  EXPECT_STREQ(status.message,
               "q.batch * q.heads is 4 but the number of entries of calibration.query_absmax is 2");
  status = cache.try_append(View<const float>(memory.data(), 1, 3, 8),
                            View<const float>(memory.data(), 1, 3, 8));
  EXPECT_STREQ(status.message, "k.heads is 1 but the cache's kv_heads is 2");
  EXPECT_EQ(cache.size(), 3);
}

}  // namespace
