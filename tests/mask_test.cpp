// Masks of the attention layer: what a row gives is what it gives alone, on the keys that it sees.
#include <functional>

#include "support/mechanisms.hpp"
#include "support/sweep.hpp"
#include "support/visible.hpp"

namespace {

using lowatt::Index;
using lowatt::Options;
using Tensor = test::StridedTensor;

constexpr Index batch = 2, query_heads = 4, kv_heads = 2, keys = 150, head_dim = 40, value_dim = 24;

// Booleans in whatever layout, with any number but 0 for a visible key.
struct Booleans {
  Booleans(Index batches, Index heads, Index queries, unsigned seed, Index gap = 0)
      : memory(static_cast<std::size_t>(batches * heads * queries * (keys + gap)), 255) {
    std::mt19937 random(seed);
    for (std::uint8_t& x : memory)
      x = random() % 3 == 0 ? static_cast<std::uint8_t>(random() % 255 + 1) : std::uint8_t{0};
    const Index row = keys + gap;
    view = {memory.data(),         batches,       heads, queries, keys,
            heads * queries * row, queries * row, row};
  }
  std::vector<std::uint8_t> memory;
  lowatt::View<const std::uint8_t> view;
};

// At level amx one query alone has float32 weights where more have bf16.
template <class Example>
constexpr double tolerance = std::is_same_v<Example, test::SoftmaxExample<lowatt::Precision::bf16>>
                                 ? 3e-3
                                 : test::tolerance_of<Example>;

template <class Example>
class Masks : public testing::Test {
 protected:
  using M = typename Example::Mechanism;
  static constexpr Index most_queries = 21;
  Masks() {
    std::mt19937 random(11);
    for (Tensor* x : {&q, &k, &v}) x->fill_normal(random);
  }

  void expect_rows_alone(Options options, Index queries, const std::string& what) {
    lowatt::View<const float> some = q.view();
    some.tokens = queries;
    const lowatt::Calibration calibration =
        lowatt::calibrate(mechanism, some, k.view(), v.view(), options);
    Tensor expected(batch, query_heads, queries, value_dim),
        out(batch, query_heads, queries, value_dim);
    for (const lowatt::Level level : test::levels()) {
      SCOPED_TRACE(what + " " + lowatt::level_name(level));
      options.level = level;
      lowatt::KvCache<M> cache({batch, kv_heads, head_dim, value_dim, keys}, calibration, mechanism,
                               level);
      cache.append(k.view(), v.view());
      lowatt::attend(some, cache, out.view(), options);
      for (Index b = 0; b < batch; ++b)
        for (Index h = 0; h < query_heads; ++h)
          for (Index i = 0; i < queries; ++i)
            attend_alone(options, queries, b, h, i, calibration, level, expected.view());
      if (Example::exact)
        test::expect_identical(std::as_const(out).view(), std::as_const(expected).view(), what);
      EXPECT_LE(test::relative_l2(std::as_const(out).view(), std::as_const(expected).view()),
                tolerance<Example>);
    }
  }

  // One row on a cache of the keys that it sees. All heads are computed, one is taken.
  void attend_alone(const Options& options, Index queries, Index b, Index h, Index i,
                    const lowatt::Calibration& calibration, lowatt::Level level,
                    lowatt::View<float> expected) {
    std::vector<Index> seen;
    for (Index j = 0; j < keys; ++j)
      if (test::sees(options, queries, keys, b, h, i, j)) seen.push_back(j);
    if (seen.empty()) return;  // expected to be 0, as it is
    lowatt::KvCache<M> cache({batch, kv_heads, head_dim, value_dim, keys}, calibration, mechanism,
                             level);
    for (const Index j : seen) {
      lowatt::View<const float> key = k.view(), value = v.view();
      key.data += j * key.token_stride, value.data += j * value.token_stride;
      key.tokens = value.tokens = 1;
      cache.append(key, value);
    }
    lowatt::View<const float> query = q.view();
    query.data += i * query.token_stride;
    query.tokens = 1;
    Tensor row(batch, query_heads, 1, value_dim);
    lowatt::attend(query, cache, row.view(), {.level = level});
    for (Index c = 0; c < value_dim; ++c) expected.row(b, h, i)[c] = row.view().row(b, h, 0)[c];
  }

  Tensor q{batch, query_heads, most_queries, head_dim, test::Layout::token_major};
  Tensor k{batch, kv_heads, keys, head_dim},
      v{batch, kv_heads, keys, value_dim, test::Layout::padded};
  M mechanism = Example::make();
};

TYPED_TEST_SUITE(Masks, test::Examples);

TYPED_TEST(Masks, WindowsAndLengths) {
  const Index lengths[batch] = {0, 97};
  for (const Index queries : {Index{1}, this->most_queries}) {
    this->expect_rows_alone({.causal = true, .window_left = 20}, queries, "causal window");
    this->expect_rows_alone({.window_left = 5, .window_right = 9}, queries, "window");
    this->expect_rows_alone({.causal = true, .key_lengths = lengths}, queries, "lengths");
    this->expect_rows_alone({.window_left = 70, .key_lengths = lengths}, queries, "both");
  }
}

TYPED_TEST(Masks, Booleans) {
  for (const Index queries : {Index{1}, this->most_queries}) {
    const Booleans one(1, 1, queries, 1), each(batch, query_heads, queries, 2, 7);
    this->expect_rows_alone({.mask = one.view}, queries, "one for all heads");
    this->expect_rows_alone({.causal = true, .window_left = 60, .mask = each.view}, queries,
                            "all masks");
    // A tile that all rows but the last see whole, beside one that all do.
    Booleans most(1, 1, queries, 3);
    std::fill(most.memory.begin(), most.memory.end(), std::uint8_t{1});
    most.memory[static_cast<std::size_t>((queries - 1) * keys + 70)] = 0;
    this->expect_rows_alone({.mask = most.view}, queries, "all but one key");
  }
}

// Bits of keys that are not there, and of words between rows, are set.
TYPED_TEST(Masks, Bits) {
  constexpr Index words = 3, gap = 2;
  std::mt19937_64 random(7);
  for (const Index queries : {Index{1}, this->most_queries}) {
    std::vector<std::uint64_t> memory(
        static_cast<std::size_t>(batch * query_heads * queries * (words + gap)));
    for (std::uint64_t& word : memory)
      word = (random() & random()) | ~std::uint64_t{0} << (random() % 64);
    for (std::size_t i = 0; i < memory.size(); i += 7) memory[i] = 0;
    const Index row = words + gap;
    const lowatt::View<const std::uint64_t> each(memory.data(), batch, query_heads, queries, words,
                                                 query_heads * queries * row, queries * row, row),
        one(memory.data(), 1, 1, queries, words);
    this->expect_rows_alone({.mask_bits = one}, queries, "one for all heads");
    this->expect_rows_alone({.causal = true, .window_left = 60, .mask_bits = each}, queries,
                            "all masks");
  }
}

// Booleans that say what causal order says change nothing, in calibration either.
TYPED_TEST(Masks, BooleansAsCausalOrder) {
  const Index queries = this->most_queries;
  Booleans booleans(1, 1, queries, 1);
  for (Index i = 0; i < queries; ++i)
    for (Index j = 0; j < keys; ++j)
      booleans.memory[static_cast<std::size_t>(i * keys + j)] = j <= i + keys - queries ? 1 : 0;
  Tensor causal(batch, query_heads, queries, value_dim),
      masked(batch, query_heads, queries, value_dim);
  lowatt::attend(this->mechanism, this->q.view(), this->k.view(), this->v.view(), causal.view(),
                 {.causal = true});
  lowatt::attend(this->mechanism, this->q.view(), this->k.view(), this->v.view(), masked.view(),
                 {.mask = booleans.view});
  if (TypeParam::exact)
    test::expect_identical(std::as_const(masked).view(), std::as_const(causal).view(), "booleans");
  EXPECT_LE(test::relative_l2(std::as_const(masked).view(), std::as_const(causal).view()),
            test::tolerance_of<TypeParam>);
}

TEST(MaskRefusal, ExtentsAndLengths) {
  Tensor q(2, 4, 3, 8), k(2, 2, 5, 8), v(2, 2, 5, 8), out(2, 4, 3, 8);
  const auto message = [&](const Options& options) {
    return std::string(
        lowatt::try_attend(lowatt::Softmax{}, q.view(), k.view(), v.view(), out.view(), options)
            .message);
  };
  const Index long_lengths[] = {5, 6}, negative[] = {-1, 5};
  EXPECT_EQ(message({.key_lengths = long_lengths}),
            "key_lengths[1] is 6; it must be from 0 to the 5 keys");
  EXPECT_EQ(message({.key_lengths = negative}),
            "key_lengths[0] is -1; it must be from 0 to the 5 keys");
  const std::vector<std::uint8_t> memory(1000, 1);
  const auto booleans = [&](Index b, Index h, Index t, Index d) {
    return Options{.mask = {memory.data(), b, h, t, d}};
  };
  EXPECT_EQ(message(booleans(3, 1, 3, 5)), "mask.batch is 3 but q.batch is 2");
  EXPECT_EQ(message(booleans(2, 2, 3, 5)), "mask.heads is 2 but q.heads is 4");
  EXPECT_EQ(message(booleans(2, 4, 2, 5)), "mask.tokens is 2 but q.tokens is 3");
  EXPECT_EQ(message(booleans(2, 4, 3, 4)), "mask.dim is 4 but the number of keys is 5");
  EXPECT_EQ(message(booleans(2, 4, 3, 5)), "");

  const std::vector<std::uint64_t> words(100, 1);
  EXPECT_EQ(message({.mask_bits = {words.data(), 1, 1, 3, 2}}),
            "mask_bits.dim is 2 but the keys' number of words is 1");
  EXPECT_EQ(message({.mask = {memory.data(), 1, 1, 3, 5}, .mask_bits = {words.data(), 1, 1, 3, 1}}),
            "mask and mask_bits are both given; they say the same");

  // The output must not lie on the mask.
  Options overlapping = booleans(1, 1, 3, 5);
  overlapping.mask.data = reinterpret_cast<const std::uint8_t*>(out.view().data);
  EXPECT_EQ(message(overlapping), "out overlaps mask in memory");
}

// A plan for more keys than a cache holds fits no booleans for fewer.
TEST(MaskRefusal, PlansOfOtherCaches) {
  Tensor q(1, 1, 1, 8), k(1, 1, 5, 8), v(1, 1, 5, 8), out(1, 1, 1, 8);
  lowatt::KvCache<lowatt::Softmax> cache({1, 1, 8, 8, 9}, {});
  cache.append(k.view(), v.view());
  const std::vector<std::uint8_t> memory(9, 1);
  const Options options{.mask = {memory.data(), 1, 1, 1, 9}};
  const auto plan = lowatt::plan(lowatt::Softmax{}, {1, 1, 1, 1, 9, 8, 8}, options);
  lowatt::Array<std::byte> workspace(plan.workspace_size(1));
  EXPECT_STREQ(plan.run(0, 0, 0, q.view(), cache, out.view(), workspace.data()).message,
               "mask.dim is 9 but the number of keys is 5");
}

TEST(Mask, WindowsMayBeLongerThanAnything) {
  const lowatt::Mask mask{.window_left = PTRDIFF_MAX, .window_right = PTRDIFF_MAX};
  for (const Index keys_there : {Index{3}, Index{9}, Index{20}})
    for (Index i = 0; i < 9; ++i) {
      const lowatt::VisibleRange seen = mask.range(0, i, 9, keys_there);
      EXPECT_EQ(seen.begin, 0) << i;
      EXPECT_EQ(seen.end, keys_there) << i;
    }
}

TEST(Mask, WordOfBooleans) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::uint8_t booleans[64];
    for (std::uint8_t& x : booleans)
      x = random() % 2 == 0 ? std::uint8_t{0} : static_cast<std::uint8_t>(random());
    const Index count = static_cast<Index>(random() % 65);
    std::uint64_t expected = 0;
    for (Index j = 0; j < count; ++j) expected |= std::uint64_t{booleans[j] != 0} << j;
    ASSERT_EQ(lowatt::word_of_booleans(booleans, count), expected);
  }
}

}  // namespace
