// Keys split into parts, within a call and between caches: the same bits for integers, within a
// bound for floats, at every level, whatever the parts are.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "support/mechanisms.hpp"
#include "support/sweep.hpp"
#include "support/threads.hpp"

namespace {

using lowatt::Index;
using lowatt::Options;
using Tensor = test::StridedTensor;
constexpr Index part_keys = lowatt::KeySplit::part_tiles * lowatt::tile_keys;

// At level amx weights of bf16 are rounded relative to another number in every part.
template <class Example>
inline constexpr double merge_tolerance =
    std::is_same_v<Example, test::SoftmaxExample<lowatt::Precision::bf16>>
        ? 5e-3
        : test::tolerance_of<Example>;

lowatt::View<const float> tokens_of(lowatt::View<const float> x, Index first, Index count) {
  x.data += first * x.token_stride;
  x.tokens = count;
  return x;
}

// Runs a plan phase by phase, its tasks backwards.
template <class M>
void run_backwards(const lowatt::Plan<M>& plan, lowatt::View<const float> q,
                   const lowatt::KvCache<M>& cache, lowatt::View<float> out) {
  lowatt::Array<std::byte> workspace(plan.workspace_size(2), std::byte{0xff});
  for (Index phase = 0; phase < plan.phases(); ++phase)
    for (Index task = plan.tasks(phase); task-- > 0;)
      ASSERT_TRUE(plan.run(phase, task, task % 2, q, cache, out, workspace.data()).ok());
}

// One query over so many keys that a call is split.
template <class Example>
class Split : public testing::Test {
 protected:
  using Mechanism = typename Example::Mechanism;
  static constexpr Index query_heads = 4, kv_heads = 2, keys = 2 * part_keys + 300, dim = 24;
  Split() {
    std::mt19937 random(11);
    for (Tensor* x : {&q_tensor, &k_tensor, &v_tensor}) x->fill_normal(random);
    if constexpr (std::is_same_v<Mechanism, lowatt::Bitformer>) mechanism.temperature = 0.05;
    calibration = lowatt::calibrate(mechanism, queries(), k_view(), v_view());
  }
  lowatt::View<const float> queries() { return q_tensor.view(); }
  lowatt::View<const float> k_view() { return k_tensor.view(); }
  lowatt::View<const float> v_view() { return v_tensor.view(); }
  Tensor q_tensor{1, query_heads, 1, dim}, k_tensor{1, kv_heads, keys, dim},
      v_tensor{1, kv_heads, keys, dim};
  Tensor out{1, query_heads, 1, dim}, again{1, query_heads, 1, dim};
  Mechanism mechanism = Example::make();
  lowatt::Calibration calibration;
};
TYPED_TEST_SUITE(Split, test::Examples);

TYPED_TEST(Split, OneQueryGivesTheSameBitsForAnyNumberOfThreads) {
  using M = typename TypeParam::Mechanism;
  for (const lowatt::Level level : test::levels()) {
    lowatt::KvCache<M> cache({1, this->kv_heads, this->dim, this->dim, this->keys},
                             this->calibration, this->mechanism, level);
    cache.append(this->k_view(), this->v_view());
    lowatt::attend(this->queries(), cache, this->out.view(), {.level = level});
    for (const int count : {2, 3, 7}) {
      test::Threads threads{count};
      this->again.for_each([](float& x) { x = -1; });
      lowatt::attend(this->queries(), cache, this->again.view(),
                     {.executor = threads, .level = level});
      test::expect_identical(std::as_const(this->again).view(), std::as_const(this->out).view(),
                             lowatt::level_name(level));
    }
    const lowatt::Shape shape{1,          this->query_heads, this->kv_heads, 1,
                              this->keys, this->dim,         this->dim};
    const auto plan = lowatt::plan(this->mechanism, shape, {.level = level});
    EXPECT_EQ(plan.phases(), lowatt::statistic_size(this->mechanism, this->queries()) > 0 ? 3 : 2);
    EXPECT_EQ(plan.tasks(0), 3 * plan.tasks(plan.phases() - 1));
    this->again.for_each([](float& x) { x = -1; });
    run_backwards(plan, this->queries(), cache, this->again.view());
    test::expect_identical(std::as_const(this->again).view(), std::as_const(this->out).view(),
                           "backwards");
    lowatt::Array<std::byte> workspace(plan.workspace_size(1));
    EXPECT_STREQ(
        plan.run(3, 0, 0, this->queries(), cache, this->again.view(), workspace.data()).message,
        plan.phases() == 3 ? "phase is 3; the plan has 3" : "phase is 3; the plan has 2");
  }
}

TYPED_TEST(Split, WorkspaceKeepsTheMemoryContract) {
  for (const Index rows : {1, 3, 16, 40}) {
    const auto size = [&](Index count) {
      const lowatt::Shape shape{1, 1, 1, rows, count, this->dim, this->dim};
      return lowatt::plan(this->mechanism, shape).workspace_size(1);
    };
    EXPECT_LE(size(50 * part_keys) - size(25 * part_keys), 64 * 25 * part_keys) << rows;
  }
}

// What a plan says is enough for any number of workers, though one alone may not split.
TYPED_TEST(Split, CallersWorkspace) {
  lowatt::KvCache<typename TypeParam::Mechanism> cache(
      {1, this->kv_heads, this->dim, this->dim, this->keys}, this->calibration, this->mechanism);
  cache.append(this->k_view(), this->v_view());
  const lowatt::Shape shape{1,          this->query_heads, this->kv_heads, 1,
                            this->keys, this->dim,         this->dim};
  for (const int count : {1, 2}) {
    test::Threads threads{count};
    const Index needed = lowatt::plan(this->mechanism, shape).workspace_size(count);
    lowatt::Array<std::byte> memory(needed + 64, std::byte{0x5a});
    lowatt::attend(this->queries(), cache, this->out.view(),
                   {.executor = threads, .workspace = memory.data(), .workspace_bytes = needed});
    for (Index i = needed; i < memory.size(); ++i) ASSERT_EQ(memory[i], std::byte{0x5a});
  }
}

// How a call sees keys.
struct Seen {
  const char* name;
  Options options;
};

// Few keys, in caches of their own.
template <class Example>
class Shards : public testing::Test {
 protected:
  using Mechanism = typename Example::Mechanism;
  static constexpr Index batch = 2, query_heads = 4, kv_heads = 2, keys = 333, dim = 40,
                         value_dim = 24;
  explicit Shards(Index queries_ = 5) : queries(queries_) {
    std::mt19937 random(13);
    for (Tensor* x : {&q_tensor, &k_tensor, &v_tensor, &bias_tensor}) x->fill_normal(random);
    for (std::uint8_t& byte : booleans) byte = random() % 3 == 0 ? 1 : 0;
    for (Index j = 0; j < keys; ++j) booleans[static_cast<std::size_t>(2 * keys + j)] = 0;
    calibration = lowatt::calibrate(mechanism, view(q_tensor), view(k_tensor), view(v_tensor));
  }
  static lowatt::View<const float> view(Tensor& x) { return x.view(); }
  std::vector<Seen> masks() {
    std::vector<Seen> all = {
        {"all", {}},
        {"causal", {.causal = true}},
        {"window", {.window_left = 60, .window_right = 10}},
        {"lengths", {.key_lengths = lengths}},
        {"booleans", {.causal = true, .mask = {booleans.data(), 1, 1, queries, keys}}}};
    if (lowatt::Adapter<Mechanism>::has_score_terms)
      all.push_back(
          {"terms",
           {.causal = true, .bias = view(bias_tensor), .alibi_slopes = slopes, .sinks = sinks}});
    return all;
  }
  // The caches that hold keys [ends[i - 1], ends[i]).
  std::vector<lowatt::KvCache<Mechanism>> shards(const std::vector<Index>& ends) {
    std::vector<lowatt::KvCache<Mechanism>> made;
    Index first = 0;
    for (const Index end : ends) {
      made.emplace_back(lowatt::CacheShape{batch, kv_heads, dim, value_dim, keys}, calibration,
                        mechanism);
      if (end > first)
        made.back().append(tokens_of(view(k_tensor), first, end - first),
                           tokens_of(view(v_tensor), first, end - first));
      first = end;
    }
    return made;
  }

  Index queries;
  Tensor q_tensor{batch, query_heads, queries, dim}, k_tensor{batch, kv_heads, keys, dim},
      v_tensor{batch, kv_heads, keys, value_dim}, bias_tensor{1, 1, queries, keys};
  static constexpr float slopes[] = {0, 0.01f, 0.1f, 0.3f}, sinks[] = {-5, 0, 2, 4};
  Tensor out{batch, query_heads, queries, value_dim},
      expected{batch, query_heads, queries, value_dim};
  Index lengths[batch] = {100, 333};
  std::vector<std::uint8_t> booleans =
      std::vector<std::uint8_t>(static_cast<std::size_t>(queries * keys));
  Mechanism mechanism = Example::make();
  lowatt::Calibration calibration;
};
TYPED_TEST_SUITE(Shards, test::Examples);

TYPED_TEST(Shards, GiveWhatOneCacheGives) {
  using M = typename TypeParam::Mechanism;
  const std::vector<std::vector<Index>> spreads = {
      {333}, {1, 333}, {64, 200, 200, 333}, {0, 129, 130, 131, 333}, {300, 333, 333}};
  const lowatt::View<const float> q = this->view(this->q_tensor);
  const auto rows = static_cast<std::size_t>(q.batch * q.heads * q.tokens);
  const auto heads = static_cast<std::size_t>(q.batch * q.heads);
  const auto numbers = static_cast<std::size_t>(lowatt::part_size(q, this->value_dim));
  const auto statistics = static_cast<std::size_t>(lowatt::statistic_size(this->mechanism, q));
  for (const std::vector<Index>& ends : spreads) {
    const auto whole = this->shards({this->keys}), shards = this->shards(ends);
    for (const lowatt::Level level : test::levels())
      for (const Seen& seen : this->masks()) {
        const std::string what = std::string(lowatt::level_name(level)) + ", " + seen.name + ", " +
                                 std::to_string(ends.size()) + " shards";
        Options options = seen.options;
        options.level = level;
        std::vector<std::int64_t> kept(heads), expected_kept(heads);
        std::vector<float> logs(rows), expected_logs(rows);
        const auto ask = [&](std::vector<std::int64_t>& own_kept, std::vector<float>& own_logs) {
          if (std::is_same_v<M, lowatt::Latte>) options.kept = own_kept.data();
          if (lowatt::Adapter<M>::has_log_sum_exp) options.log_sum_exp = own_logs.data();
        };
        ask(expected_kept, expected_logs);
        lowatt::attend(q, whole[0], this->expected.view(), options);
        options.kept = nullptr;
        options.log_sum_exp = nullptr;

        // The first shard's numbers take in the others', last ones first.
        std::vector<std::vector<double>> statistic(ends.size(), std::vector<double>(statistics)),
            part(ends.size(), std::vector<double>(numbers));
        const auto shard = [&](std::size_t i) {
          return lowatt::Shard{i == 0 ? 0 : ends[i - 1], this->keys};
        };
        for (std::size_t i = 0; i < ends.size(); ++i)
          lowatt::attend_statistic(q, shards[i], shard(i), statistic[i].data(), options);
        for (std::size_t i = ends.size() - 1; i > 0; --i)
          lowatt::merge_statistic(this->mechanism, q, statistic[0].data(), statistic[i].data());
        for (std::size_t i = 0; i < ends.size(); ++i)
          lowatt::attend_part(q, shards[i], shard(i), statistic[0].data(), part[i].data(), options);
        for (std::size_t i = ends.size() - 1; i > 0; --i) {
          if (lowatt::parts_are_sums<M>)
            for (std::size_t n = 0; n < numbers; ++n) part[0][n] += part[i][n];
          else
            lowatt::merge_part(q, this->value_dim, part[0].data(), part[i].data());
        }
        ask(kept, logs);
        this->out.for_each([](float& x) { x = -1e30f; });
        lowatt::finish(q, shards[0], part[0].data(), this->out.view(), options);

        const auto got = std::as_const(this->out).view(),
                   wanted = std::as_const(this->expected).view();
        if (TypeParam::exact) test::expect_identical(got, wanted, what);
        EXPECT_LE(test::relative_l2(got, wanted), merge_tolerance<TypeParam>) << what;
        EXPECT_EQ(kept, expected_kept) << what;
        for (std::size_t r = 0; r < rows; ++r) {
          if (std::isinf(expected_logs[r]))
            EXPECT_EQ(logs[r], expected_logs[r]) << what;
          else
            EXPECT_NEAR(logs[r], expected_logs[r], merge_tolerance<TypeParam>) << what;
        }
      }
  }
}

// Shards that are so long that each is split among threads.
TYPED_TEST(Split, LongShardsGiveWhatOneCacheGives) {
  using M = typename TypeParam::Mechanism;
  const lowatt::View<const float> q = this->queries();
  const Index ends[] = {part_keys + 77, this->keys};
  std::vector<double> statistic[2], part[2];
  lowatt::KvCache<M> shards[2];
  test::Threads threads{2};
  const Options options{.executor = threads};
  Index first = 0;
  for (int i = 0; i < 2; ++i) {
    shards[i] = {
        {1, this->kv_heads, this->dim, this->dim, this->keys}, this->calibration, this->mechanism};
    shards[i].append(tokens_of(this->k_view(), first, ends[i] - first),
                     tokens_of(this->v_view(), first, ends[i] - first));
    statistic[i].resize(static_cast<std::size_t>(lowatt::statistic_size(this->mechanism, q)));
    part[i].resize(static_cast<std::size_t>(lowatt::part_size(q, this->dim)));
    lowatt::attend_statistic(q, shards[i], {first, this->keys}, statistic[i].data(), options);
    first = ends[i];
  }
  lowatt::merge_statistic(this->mechanism, q, statistic[0].data(), statistic[1].data());
  for (int i = 0; i < 2; ++i)
    lowatt::attend_part(q, shards[i], {i == 0 ? 0 : ends[0], this->keys}, statistic[0].data(),
                        part[i].data(), options);
  lowatt::merge_part(q, this->dim, part[0].data(), part[1].data());
  lowatt::finish(q, shards[0], part[0].data(), this->out.view());

  lowatt::KvCache<M> whole({1, this->kv_heads, this->dim, this->dim, this->keys}, this->calibration,
                           this->mechanism);
  whole.append(this->k_view(), this->v_view());
  lowatt::attend(q, whole, this->again.view());
  const auto got = std::as_const(this->out).view(), wanted = std::as_const(this->again).view();
  if (TypeParam::exact) test::expect_identical(got, wanted, "two long shards");
  EXPECT_LE(test::relative_l2(got, wanted), merge_tolerance<TypeParam>);
}

// NaN in a key or value of one shard reaches the rows that see it, and no other.
template <class Example>
class NonFiniteShards : public testing::Test {};
using FloatExamples =
    testing::Types<test::SoftmaxExample<lowatt::Precision::fp32>,
                   test::SoftmaxExample<lowatt::Precision::bf16>,
                   test::SoftmaxExample<lowatt::Precision::f16>, test::InhibitorFp32Example>;
TYPED_TEST_SUITE(NonFiniteShards, FloatExamples);

TYPED_TEST(NonFiniteShards, NaNReachesTheRowsThatSeeIt) {
  using M = typename TypeParam::Mechanism;
  const M mechanism = TypeParam::make();
  constexpr Index queries = 4, keys = 130, dim = 24, first = 70;
  test::Inputs in(test::Case{{1, 1, 1, queries, keys, dim, dim}});
  in.k.view().row(0, 0, keys - 1)[3] = std::numeric_limits<float>::quiet_NaN();
  in.v.view().row(0, 0, keys - 2)[5] = std::numeric_limits<float>::quiet_NaN();
  const lowatt::View<const float> q = in.q.view(), k = in.k.view(), v = in.v.view();
  for (const lowatt::Level level : test::levels()) {
    const Options options{.causal = true, .level = level};
    std::vector<double> part[2];
    lowatt::KvCache<M> shards[2];
    for (int i = 0; i < 2; ++i) {
      const Index begin = i == 0 ? 0 : first, count = i == 0 ? first : keys - first;
      shards[i] = {{1, 1, dim, dim, keys}, {}, mechanism};
      shards[i].append(tokens_of(k, begin, count), tokens_of(v, begin, count));
      part[i].resize(static_cast<std::size_t>(lowatt::part_size(q, dim)));
      lowatt::attend_part(q, shards[i], {begin, keys}, nullptr, part[i].data(), options);
    }
    lowatt::merge_part(q, dim, part[0].data(), part[1].data());
    lowatt::finish(q, shards[0], part[0].data(), in.out.view(), options);
    for (Index i = 0; i < queries; ++i)
      for (Index c = 0; c < dim; ++c) {
        // The last query sees both, the one before it the value.
        const bool is_nan = i == queries - 1 || (i == queries - 2 && c == 5);
        EXPECT_EQ(std::isnan(in.out.view().row(0, 0, i)[c]), is_nan)
            << lowatt::level_name(level) << ", query " << i << " dim " << c;
      }
  }
}

// Against sums in double over all keys.
TEST(LogSumExp, IsThatOfTheScores) {
  constexpr Index keys = part_keys + 100, dim = 32;
  for (const Index queries : {Index{1}, Index{20}}) {
    test::Inputs in(test::Case{{1, 1, 1, queries, keys, dim, dim}});
    const lowatt::View<const float> q = in.q.view(), k = in.k.view(), v = in.v.view();
    std::vector<float> logs(static_cast<std::size_t>(queries));
    const Options causal{.causal = true, .log_sum_exp = logs.data()};
    const auto check = [&](double tolerance, const std::string& what) {
      for (Index i = 0; i < queries; ++i) {
        double sum = 0;
        for (Index j = 0; j <= i + keys - queries; ++j) {
          double score = 0;
          for (Index c = 0; c < dim; ++c)
            score +=
                static_cast<double>(q.row(0, 0, i)[c]) * static_cast<double>(k.row(0, 0, j)[c]);
          sum += std::exp(score * lowatt::default_scale(dim));
        }
        EXPECT_NEAR(logs[static_cast<std::size_t>(i)], std::log(sum), tolerance) << what;
      }
    };
    for (const lowatt::Level level : test::levels()) {
      Options options = causal;
      options.level = level;
      const struct {
        lowatt::Precision precision;
        double tolerance;
      } cases[] = {{lowatt::Precision::fp32, 2e-6},
                   {lowatt::Precision::f16, 1e-4},
                   {lowatt::Precision::bf16, 2e-3},
                   {lowatt::Precision::int8, 5e-3}};
      for (const auto& c : cases) {
        lowatt::attend(lowatt::Softmax{.precision = c.precision}, q, k, v, in.out.view(), options);
        check(c.tolerance,
              std::string(lowatt::precision_name(c.precision)) + ", " + lowatt::level_name(level));
      }
      // With a threshold that keeps all keys.
      lowatt::attend(lowatt::Latte{.theta = 1e3}, q, k, v, in.out.view(), options);
      check(5e-3, std::string("LATTE, ") + lowatt::level_name(level));
    }
  }
}

TEST(LogSumExp, RowThatSeesNothing) {
  test::Inputs in(test::Case{{1, 1, 1, 4, 2, 8, 8}});
  float logs[4] = {};
  lowatt::attend(lowatt::Softmax{}, in.q.view(), in.k.view(), in.v.view(), in.out.view(),
                 {.causal = true, .log_sum_exp = logs});
  EXPECT_EQ(logs[0], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(logs[1], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isfinite(logs[2]) && std::isfinite(logs[3]));
}

TEST(SplitRefusal, Arguments) {
  test::Inputs in(test::Case{{1, 1, 1, 1, 90, 8, 8}});
  const lowatt::View<const float> q = in.q.view(), k = in.k.view(), v = in.v.view();
  float logs[1];
  EXPECT_STREQ(
      lowatt::try_attend(lowatt::Bitformer{}, q, k, v, in.out.view(), {.log_sum_exp = logs})
          .message,
      "options.log_sum_exp is given; only softmax and LATTE sum exponentials");
  const lowatt::Bitformer mechanism;
  lowatt::KvCache<lowatt::Bitformer> cache({1, 1, 8, 8, 90}, lowatt::calibrate(mechanism, q, k, v),
                                           mechanism);
  cache.append(k, v);
  std::vector<double> statistic(2), part(12);
  const auto outcome = [&](const lowatt::Shard& shard, double* into) {
    return std::string(lowatt::try_attend_statistic(q, cache, shard, into).message);
  };
  EXPECT_EQ(outcome({0, 90}, statistic.data()), "");
  EXPECT_EQ(outcome({20, 100}, statistic.data()),
            "shard.first_key is 20 and the cache holds 90 keys; they must lie among "
            "shard.total_keys = 100");
  EXPECT_EQ(outcome({-1, 100}, statistic.data()),
            "shard.first_key is -1 and the cache holds 90 keys; they must lie among "
            "shard.total_keys = 100");
  EXPECT_EQ(outcome({0, 90}, nullptr), "statistic is null; 2 numbers are needed");
  EXPECT_STREQ(lowatt::try_attend_part(q, cache, {0, 90}, nullptr, part.data()).message,
               "statistic is null; 2 numbers are needed");
  EXPECT_EQ(outcome({0, PTRDIFF_MAX}, statistic.data()),
            "shard.total_keys is 9223372036854775807; it must not be negative, and fit memory");
}

// Positions of a shard are those of all sequences.
TEST(SplitRefusal, SequencesOfDifferentLengths) {
  test::Inputs in(test::Case{{2, 1, 1, 1, 60, 8, 8}});
  lowatt::KvCache<lowatt::Softmax> cache({2, 1, 8, 8, 100}, {});
  cache.append(in.k.view(), in.v.view());
  lowatt::View<const float> k = in.k.view(), v = in.v.view();
  k.batch = v.batch = 1;
  k.tokens = v.tokens = 20;
  cache.append(0, k, v);
  std::vector<double> part(24);
  EXPECT_STREQ(
      lowatt::try_attend_part(in.q.view(), cache, {0, 80}, nullptr, part.data()).message,
      "sequence 1 of the cache holds 60 keys and another 80; of a shard all must hold as many");
}

TEST(SplitRefusal, CachesThatWereNeverMade) {
  test::Inputs in(test::Case{{1, 1, 1, 1, 9, 8, 8}});
  lowatt::KvCache<lowatt::Softmax> cache, fork;
  std::vector<double> part(12);
  const lowatt::View<const float> q = in.q.view();
  EXPECT_STREQ(lowatt::try_attend(q, cache, in.out.view()).message,
               "the cache holds 0 keys; append some first");
  EXPECT_STREQ(lowatt::try_attend_part(q, cache, {0, 9}, nullptr, part.data()).message,
               "the cache is empty: it was never made");
  EXPECT_STREQ(lowatt::try_finish(q, cache, part.data(), in.out.view()).message,
               "the cache is empty: it was never made");
  EXPECT_TRUE(cache.try_fork(fork).ok());
  cache.clear();
}

TEST(SplitRefusal, MemoryThatOverlaps) {
  test::Inputs in(test::Case{{1, 1, 1, 1, 9, 8, 8}});
  const lowatt::View<const float> q = in.q.view(), k = in.k.view(), v = in.v.view();
  lowatt::KvCache<lowatt::Softmax> cache({1, 1, 8, 8, 9}, {});
  cache.append(k, v);
  lowatt::Array<std::byte> workspace(1 << 20);
  const lowatt::Options options{.workspace = workspace.data(), .workspace_bytes = workspace.size()};
  auto* part = reinterpret_cast<double*>(workspace.data());
  EXPECT_STREQ(lowatt::try_attend_part(q, cache, {0, 9}, nullptr, part, options).message,
               "workspace overlaps part in memory");
  EXPECT_STREQ(lowatt::try_finish(q, cache, part, in.out.view(), options).message,
               "workspace overlaps part in memory");
  EXPECT_STREQ(
      lowatt::try_attend(q, cache, in.out.view(), {.log_sum_exp = in.out.view().data}).message,
      "log_sum_exp overlaps out in memory");
}

}  // namespace
