// Rewinding, clearing and widening a cache leave what appending alone would have left, byte for
// byte; sequences of different lengths are attended as if each were alone.
#include "support/cached_tensors.hpp"
#include "support/counted_pages.hpp"

namespace {

using lowatt::Index;
using test::entry_of;
using test::tokens_of;

template <class Example>
class CacheEdit : public test::CachedTensors<Example> {
 protected:
  // Appends tokens that are unlike those before.
  void append_others(typename CacheEdit::Cache& cache, Index count) {
    const auto [q, k, v] = this->views();
    cache.append(tokens_of(k, this->tokens - count, count),
                 tokens_of(v, this->tokens - count, count));
  }
};

TYPED_TEST_SUITE(CacheEdit, test::Examples);

TYPED_TEST(CacheEdit, RewoundCachesHoldTheSameBytes) {
  for (const lowatt::Level level : test::levels())
    for (const Index page_tokens : {0, 64, 128})
      for (const Index kept : {149, 129, 128, 100, 65, 64, 33, 1, 0}) {
        const std::string what = std::string(lowatt::level_name(level)) + ", pages of " +
                                 std::to_string(page_tokens) + ", kept " + std::to_string(kept);
        const lowatt::PageSetting pages{.tokens = page_tokens};
        auto rewound = this->filled(this->tokens, pages, level);
        auto straight = this->filled(kept, {}, level);
        rewound.truncate(kept);
        test::expect_same_bytes(rewound, straight, what);
        this->append_others(rewound, this->tokens - kept);
        this->append_others(straight, this->tokens - kept);
        test::expect_same_bytes(rewound, straight, what + ", then others");
      }
}

// Every place in a tile is taken back once.
TYPED_TEST(CacheEdit, TokenByTokenBackToNothing) {
  auto rewound = this->filled(this->tokens);
  for (Index kept = this->tokens - 1; kept >= 0; --kept) {
    rewound.truncate(kept);
    test::expect_same_bytes(rewound, this->filled(kept), "kept " + std::to_string(kept));
  }
}

TYPED_TEST(CacheEdit, OneSequenceIsRewoundAlone) {
  auto rewound = this->filled(this->tokens);
  rewound.truncate(1, 70);
  EXPECT_EQ(rewound.size(0), this->tokens);
  EXPECT_EQ(rewound.size(1), 70);
  EXPECT_EQ(rewound.size(), this->tokens);
  rewound.truncate(100);  // the shorter one stays
  EXPECT_EQ(rewound.size(0), 100);
  EXPECT_EQ(rewound.size(1), 70);

  const auto [q, k, v] = this->views();
  auto single = this->make();
  single.append(0, entry_of(tokens_of(k, 0, 100), 0), entry_of(tokens_of(v, 0, 100), 0));
  single.append(1, entry_of(tokens_of(k, 0, 70), 1), entry_of(tokens_of(v, 0, 70), 1));
  test::expect_same_bytes(rewound, single, "sequence by sequence");
}

TYPED_TEST(CacheEdit, ClearedCachesStartAnew) {
  auto cleared = this->filled(this->tokens), straight = this->make();
  cleared.clear();
  EXPECT_EQ(cleared.size(), 0);
  EXPECT_EQ(cleared.saturated(0, 0).keys, 0);
  this->append_others(cleared, 77);
  this->append_others(straight, 77);
  test::expect_same_bytes(cleared, straight, "cleared");
}

TYPED_TEST(CacheEdit, WidenedCachesKeepTheirTokens) {
  const auto [q, k, v] = this->views();
  for (const Index page_tokens : {0, 64}) {
    auto grown = this->make(70, {.tokens = page_tokens});
    grown.append(tokens_of(k, 0, 70), tokens_of(v, 0, 70));
    EXPECT_FALSE(grown.try_append(tokens_of(k, 70, 1), tokens_of(v, 70, 1)).ok());
    grown.reserve(60);  // less than there is: nothing happens
    EXPECT_EQ(grown.shape().capacity, 70);
    grown.reserve(this->tokens);
    EXPECT_EQ(grown.shape().capacity, this->tokens);
    grown.append(tokens_of(k, 70, 80), tokens_of(v, 70, 80));
    test::expect_same_bytes(grown, this->filled(this->tokens), std::to_string(page_tokens));
  }
}

// Pages lie where the allocator puts them, and outputs do not depend on it.
TYPED_TEST(CacheEdit, PagesGiveTheSameBits) {
  const auto [q, k, v] = this->views();
  test::CountedPages allocator;
  {
    auto paged = this->make(this->tokens, {.tokens = 64, .allocator = allocator});
    EXPECT_EQ(allocator.live, 0);
    paged.append(tokens_of(k, 0, 64), tokens_of(v, 0, 64));
    EXPECT_EQ(allocator.live, this->batch);
    paged.append(tokens_of(k, 64, 86), tokens_of(v, 64, 86));
    EXPECT_EQ(allocator.live, 3 * this->batch);
    const auto whole = this->filled(this->tokens);
    for (const lowatt::Level level : test::levels())
      for (const Index queries : {this->tokens, Index{1}}) {
        const auto some = tokens_of(q, 0, queries);
        const auto written = tokens_of(this->out.view(), 0, queries);
        const auto expected = tokens_of(this->again.view(), 0, queries);
        lowatt::attend(some, whole, expected, {.causal = true, .level = level});
        lowatt::attend(some, paged, written, {.causal = true, .level = level});
        test::expect_identical(written, expected, lowatt::level_name(level));
      }
    paged.truncate(65);
    EXPECT_EQ(allocator.live, 2 * this->batch);
    paged.clear();
    EXPECT_EQ(allocator.live, 0);
    paged.append(tokens_of(k, 0, 1), tokens_of(v, 0, 1));
  }
  EXPECT_EQ(allocator.live, 0);
}

// Sequence b of a batch, at its own length, gives what it gives in a batch where all are as long.
TYPED_TEST(CacheEdit, SequencesOfDifferentLengthsAsIfAlone) {
  const auto [q, k, v] = this->views();
  constexpr Index lengths[][2] = {{150, 70}, {1, 129}, {64, 0}};
  std::vector<std::uint8_t> booleans(static_cast<std::size_t>(this->tokens * this->tokens));
  for (std::size_t i = 0; i < booleans.size(); ++i) booleans[i] = i % 3 != 0;
  for (const auto& size : lengths) {
    auto ragged = this->make();
    for (Index b = 0; b < this->batch; ++b)
      if (size[b] > 0)
        ragged.append(b, entry_of(tokens_of(k, 0, size[b]), b),
                      entry_of(tokens_of(v, 0, size[b]), b));
    for (const Index queries : {Index{1}, Index{40}}) {
      const auto some = tokens_of(q, 0, queries);
      const auto options = [&](int kind, Index keys) {
        lowatt::Options made{.causal = kind > 0};
        if (kind == 2) made.window_left = 50;
        if (kind == 3) made.mask = {booleans.data(), 1, 1, queries, keys, 0, 0, this->tokens};
        return made;
      };
      for (const int kind : {0, 1, 2, 3}) {
        const auto written = tokens_of(this->out.view(), 0, queries);
        lowatt::attend(some, ragged, written, options(kind, ragged.size()));
        for (Index b = 0; b < this->batch; ++b) {
          const auto expected = tokens_of(this->again.view(), 0, queries);
          this->again.for_each([](float& x) { x = 0; });
          if (size[b] > 0)
            lowatt::attend(some, this->filled(size[b]), expected, options(kind, size[b]));
          test::expect_identical(entry_of(written, b), entry_of(expected, b),
                                 "length " + std::to_string(size[b]) + " of " +
                                     std::to_string(queries) + " queries, mask " +
                                     std::to_string(kind));
        }
      }
    }
  }
}

TEST(CacheEditRefusal, OneSentence) {
  std::mt19937 random(3);
  test::StridedTensor k(2, 2, 90, 16);
  k.fill_normal(random);
  const lowatt::View<const float> keys = k.view();
  lowatt::KvCache<lowatt::Softmax> cache({2, 2, 16, 16, 90}, {});
  const auto appended = [&](Index sequence, lowatt::View<const float> x) {
    return std::string(cache.try_append(sequence, x, x).message);
  };
  EXPECT_EQ(appended(2, entry_of(keys, 0)), "sequence is 2; the cache's batch is 2");
  EXPECT_EQ(appended(-1, entry_of(keys, 0)), "sequence is -1; the cache's batch is 2");
  EXPECT_EQ(appended(0, keys), "k.batch is 2 but that of one sequence is 1");
  EXPECT_STREQ(cache.try_truncate(-1).message, "tokens is -1; it must not be negative");
  EXPECT_STREQ(cache.try_truncate(2, 0).message, "sequence is 2; the cache's batch is 2");
  EXPECT_EQ(cache.try_reserve(PTRDIFF_MAX).code, lowatt::StatusCode::out_of_memory);
  EXPECT_EQ(cache.shape().capacity, 90);
  EXPECT_STREQ(lowatt::KvCache<lowatt::Softmax>::try_create(cache, {1, 1, 8, 8, 100}, {}, {}, {},
                                                            {.tokens = 100})
                   .message,
               "pages.tokens is 100; it must be a multiple of 64, or 0 for one piece");
}

// Where memory runs out, a cache is as before, and can be used on.
TEST(CacheEditRefusal, NoPages) {
  std::mt19937 random(3);
  test::StridedTensor k(2, 2, 200, 16);
  k.fill_normal(random);
  const lowatt::View<const float> keys = k.view();
  test::CountedPages allocator{.most_live = 5};
  using Cache = lowatt::KvCache<lowatt::Inhibitor>;
  const auto calibration = lowatt::calibrate(lowatt::Inhibitor{}, keys, keys, keys);
  Cache cache({2, 2, 16, 16, 200}, calibration, {}, {}, {.tokens = 64, .allocator = allocator});
  cache.append(tokens_of(keys, 0, 100), tokens_of(keys, 0, 100));
  EXPECT_EQ(cache.try_append(tokens_of(keys, 100, 100), tokens_of(keys, 100, 100)).code,
            lowatt::StatusCode::out_of_memory);
  Cache straight({2, 2, 16, 16, 200}, calibration);
  straight.append(tokens_of(keys, 0, 100), tokens_of(keys, 0, 100));
  test::expect_same_bytes(cache, straight, "after an append that failed");
  cache.append(tokens_of(keys, 100, 28), tokens_of(keys, 100, 28));
  straight.append(tokens_of(keys, 100, 28), tokens_of(keys, 100, 28));
  test::expect_same_bytes(cache, straight, "after one that did not");

  Cache none;
  allocator.most_live = 0;
  const lowatt::Status status =
      Cache::try_create(none, {2, 2, 16, 16, 200}, calibration, {}, {}, {.allocator = allocator});
  EXPECT_EQ(status.code, lowatt::StatusCode::out_of_memory);
  EXPECT_EQ(std::string(status.message).find("no memory for a page of "), 0u);
}

}  // namespace
