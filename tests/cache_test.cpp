// What a cache promises for every mechanism: the same bits however tokens arrive, whatever level or
// number of threads runs, and a decode step equal to the matching row of a causal call.
#include "support/cached_tensors.hpp"
#include "support/threads.hpp"

namespace {

using lowatt::Index;
using test::tokens_of;
using Tensor = test::StridedTensor;

using test::Threads;

template <class Example>
class Cache : public test::CachedTensors<Example> {};

TYPED_TEST_SUITE(Cache, test::Examples);

TYPED_TEST(Cache, ChunksGiveTheSameBytes) {
  auto whole = this->make(), single = this->make(), chunks = this->make();
  const auto [q, k, v] = this->views();
  whole.append(k, v);
  for (Index i = 0; i < this->tokens; ++i) single.append(tokens_of(k, i, 1), tokens_of(v, i, 1));
  Index first = 0;
  for (const Index count : {1, 62, 1, 3, 61, 22}) {
    chunks.append(tokens_of(k, first, count), tokens_of(v, first, count));
    first += count;
  }
  ASSERT_EQ(whole.size(), this->tokens);
  ASSERT_EQ(chunks.size(), this->tokens);
  test::expect_same_bytes(single, whole, "one by one");
  test::expect_same_bytes(chunks, whole, "in chunks");
}

TYPED_TEST(Cache, LevelsPackTheSameBytes) {
  const auto first = this->filled(this->tokens, {}, test::levels().front());
  for (const lowatt::Level level : test::levels())
    test::expect_same_bytes(this->filled(this->tokens, {}, level), first,
                            lowatt::level_name(level));
}

TYPED_TEST(Cache, DecodeEqualsPrefill) {
  const auto [q, k, v] = this->views();
  for (const lowatt::Level level : test::levels()) {
    auto whole = this->make(), growing = this->make();
    whole.append(k, v);
    lowatt::attend(q, whole, this->out.view(), {.causal = true, .level = level});
    for (Index i = 0; i < this->tokens; ++i) {
      growing.append(tokens_of(k, i, 1), tokens_of(v, i, 1));
      lowatt::View<float> row = this->again.view();
      row.data += i * row.token_stride;
      row.tokens = 1;
      lowatt::attend(tokens_of(q, i, 1), growing, row, {.causal = true, .level = level});
    }
    if (TypeParam::exact)
      test::expect_identical(this->again.view(), this->out.view(), lowatt::level_name(level));
    EXPECT_LE(test::relative_l2(this->again.view(), this->out.view()),
              test::tolerance_of<TypeParam>);
  }
}

TYPED_TEST(Cache, ThreadsGiveTheSameBits) {
  const auto [q, k, v] = this->views();
  auto cache = this->make();
  cache.append(k, v);
  lowatt::attend(q, cache, this->out.view());
  for (const int count : {1, 2, 3, 7}) {
    Threads threads{count};
    this->again.for_each([](float& x) { x = -1; });
    lowatt::attend(q, cache, this->again.view(), {.executor = threads});
    test::expect_identical(this->again.view(), this->out.view(), std::to_string(count));
  }
}

TYPED_TEST(Cache, BatchEntriesAndHeadsAreIndependent) {
  const auto [q, k, v] = this->views();
  lowatt::attend(this->mechanism, q, k, v, this->out.view());
  for (Index b = 0; b < this->batch; ++b)
    for (Index g = 0; g < this->kv_heads; ++g) {
      const Index group = this->query_heads / this->kv_heads;
      const auto part = [&](auto x, Index head, Index heads) {
        x.data = x.row(b, head, 0);
        x.batch = 1;
        x.heads = heads;
        return x;
      };
      Tensor alone(1, group, this->tokens, this->value_dim);
      lowatt::attend(this->mechanism, part(q, g * group, group), part(k, g, 1), part(v, g, 1),
                     alone.view());
      test::expect_identical(alone.view(), part(this->out.view(), g * group, group), "one group");
    }
}

TYPED_TEST(Cache, PlanRunsTasksInAnyOrder) {
  const auto [q, k, v] = this->views();
  auto cache = this->make();
  cache.append(k, v);
  lowatt::attend(q, cache, this->out.view(), {.causal = true});
  const lowatt::Shape shape{this->batch,  this->query_heads, this->kv_heads, this->tokens,
                            this->tokens, this->head_dim,    this->value_dim};
  const auto plan = lowatt::plan(this->mechanism, shape, {.causal = true});
  lowatt::Array<std::byte> workspace(plan.workspace_size(1));
  ASSERT_EQ(plan.phases(), 1);
  for (Index task = plan.tasks(0); task-- > 0;)
    ASSERT_TRUE(plan.run(0, task, 0, q, cache, this->again.view(), workspace.data()).ok());
  test::expect_identical(this->again.view(), this->out.view(), "reverse order");
}

// Grouped heads with one query each may share a task: more heads than one task takes, each as if
// alone.
template <class Example>
class GroupedHeads : public testing::Test {};
TYPED_TEST_SUITE(GroupedHeads, test::Examples);

TYPED_TEST(GroupedHeads, DecodeAsIfAlone) {
  using M = typename TypeParam::Mechanism;
  const M mechanism = TypeParam::make();
  constexpr Index batch = 2, kv_heads = 2, group = 11, keys = 90, dim = 24;
  std::mt19937 random(9);
  Tensor q(batch, kv_heads * group, 1, dim, test::Layout::token_major);
  Tensor k(batch, kv_heads, keys, dim), v(batch, kv_heads, keys, dim);
  for (Tensor* x : {&q, &k, &v}) x->fill_normal(random);
  Tensor out(batch, kv_heads * group, 1, dim, test::Layout::padded);
  const lowatt::View<const float> queries = q.view(), k_view = k.view(), v_view = v.view();
  const auto calibration = lowatt::calibrate(mechanism, queries, k_view, v_view);
  lowatt::KvCache<M> cache({batch, kv_heads, dim, dim, keys}, calibration, mechanism);
  cache.append(k_view, v_view);
  const lowatt::Shape shape{batch, kv_heads * group, kv_heads, 1, keys, dim, dim};
  const auto plan = lowatt::plan(mechanism, shape);
  EXPECT_EQ(plan.tasks(0),
            batch * kv_heads * (lowatt::Adapter<M>::heads_share_blocks ? (group + 7) / 8 : group));
  lowatt::attend(queries, cache, out.view());
  EXPECT_TRUE(out.gaps_are_untouched());

  // The same query in the first of two rows: two queries never share a task with other heads.
  Tensor twice(batch, kv_heads * group, 2, dim), both(batch, kv_heads * group, 2, dim);
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < kv_heads * group; ++h)
      for (Index c = 0; c < dim; ++c)
        twice.view().row(b, h, 0)[c] = twice.view().row(b, h, 1)[c] = queries.row(b, h, 0)[c];
  lowatt::attend(twice.view(), cache, both.view());
  lowatt::View<const float> first = std::as_const(both).view();
  first.tokens = 1;
  if (TypeParam::exact) test::expect_identical(std::as_const(out).view(), first, "one query");
  EXPECT_LE(test::relative_l2(std::as_const(out).view(), first), test::tolerance_of<TypeParam>);
}

TEST(Plan, MadeByDefaultHasNoTasks) {
  EXPECT_EQ(lowatt::Plan<lowatt::Softmax>().tasks(0), 0);
  EXPECT_EQ(lowatt::Plan<lowatt::Latte>().tasks(0), 0);
}

// A plan refuses what it was not made for instead of writing past its workspace.
TEST(Plan, RefusesOtherCaches) {
  using lowatt::Bitformer;
  std::mt19937 random(3);
  Tensor q(1, 2, 40, 16), k(1, 2, 90, 16), out(1, 2, 40, 16);
  q.fill_normal(random);
  k.fill_normal(random);
  const lowatt::View<const float> keys = k.view(), queries = q.view();
  const auto plan = lowatt::plan(Bitformer{}, {1, 2, 2, 40, 80, 16, 16});
  lowatt::Array<std::byte> workspace(plan.workspace_size(1));
  const auto outcome = [&](const Bitformer& mechanism, Index tokens) {
    lowatt::KvCache<Bitformer> cache({1, 2, 16, 16, 90},
                                     lowatt::calibrate(mechanism, queries, keys, keys), mechanism);
    if (tokens > 0) cache.append(tokens_of(keys, 0, tokens), tokens_of(keys, 0, tokens));
    return std::string(plan.run(0, 0, 0, queries, cache, out.view(), workspace.data()).message);
  };
  EXPECT_EQ(outcome({}, 80), "");
  EXPECT_EQ(outcome({.planes = 64}, 80),
            "the cache's mechanism needs another workspace than the planned one");
  EXPECT_EQ(outcome({}, 81), "the cache holds 81 keys; the plan is for at least 1 and at most 80");
  EXPECT_EQ(outcome({}, 0), "the cache holds 0 keys; the plan is for at least 1 and at most 80");
}

// 64 bytes per key and worker, and a constant: doubling the keys adds no more.
TYPED_TEST(Cache, WorkspaceKeepsTheMemoryContract) {
  const auto size = [&](Index keys) {
    const lowatt::Shape shape{1, 2, 1, 64, keys, this->head_dim, this->value_dim};
    return lowatt::plan(this->mechanism, shape).workspace_size(1);
  };
  EXPECT_LE(size(200000) - size(100000), 64 * 100000);
  const std::uint8_t visible = 1;  // not read by a plan
  const auto masked_size = [&](Index keys) {
    const lowatt::Shape shape{1, 2, 1, 64, keys, this->head_dim, this->value_dim};
    const lowatt::Options options{.mask = {&visible, 1, 1, 64, keys}};
    return lowatt::plan(this->mechanism, shape, options).workspace_size(1);
  };
  EXPECT_LE(masked_size(200000) - masked_size(100000), 64 * 100000);
  EXPECT_EQ(lowatt::plan(this->mechanism, {1, 2, 1, 64, 500, 8, 8}).workspace_size(3),
            3 * lowatt::plan(this->mechanism, {1, 2, 1, 64, 500, 8, 8}).workspace_size(1));
}

TYPED_TEST(Cache, CallersWorkspace) {
  const auto [q, k, v] = this->views();
  auto cache = this->make();
  cache.append(k, v);
  lowatt::attend(q, cache, this->out.view());
  const lowatt::Shape shape{this->batch,  this->query_heads, this->kv_heads, this->tokens,
                            this->tokens, this->head_dim,    this->value_dim};
  const Index needed = lowatt::plan(this->mechanism, shape).workspace_size(1);
  lowatt::Array<std::byte> memory(needed + 64, std::byte{0x5a});
  const lowatt::Options given{.workspace = memory.data(), .workspace_bytes = needed};
  lowatt::attend(q, cache, this->again.view(), given);
  test::expect_identical(this->again.view(), this->out.view(), "caller's workspace");
  for (Index i = needed; i < memory.size(); ++i) ASSERT_EQ(memory[i], std::byte{0x5a});

  lowatt::Options small = given, crooked = given;
  small.workspace_bytes = needed - 1;
  EXPECT_FALSE(lowatt::try_attend(q, cache, this->again.view(), small).ok());
  crooked.workspace += 1;
  EXPECT_FALSE(lowatt::try_attend(q, cache, this->again.view(), crooked).ok());
}

TYPED_TEST(Cache, CapacityIsKept) {
  const auto [q, k, v] = this->views();
  auto cache = this->make(100);
  cache.append(tokens_of(k, 0, 99), tokens_of(v, 0, 99));
  const lowatt::Status status = cache.try_append(tokens_of(k, 99, 2), tokens_of(v, 99, 2));
  EXPECT_EQ(status.code, lowatt::StatusCode::out_of_capacity);
  EXPECT_STREQ(status.message, "k.tokens is 2 but the cache has room for 1 of its 100");
  EXPECT_EQ(cache.size(), 99);
  cache.append(tokens_of(k, 99, 1), tokens_of(v, 99, 1));
  EXPECT_EQ(cache.size(), 100);
}

// A query that sees no key yields exactly 0.
TYPED_TEST(Cache, QueriesBeforeTheFirstKeyYieldZero) {
  const auto [q, k, v] = this->views();
  lowatt::attend(this->mechanism, q, tokens_of(k, 0, 70), tokens_of(v, 0, 70), this->out.view(),
                 {.causal = true});
  for (Index i = 0; i < 80; ++i)
    for (Index c = 0; c < this->value_dim; ++c) ASSERT_EQ(this->out.view().row(1, 3, i)[c], 0.0f);
}

}  // namespace
