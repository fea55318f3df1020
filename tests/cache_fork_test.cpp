// Forks share what they have in common and change nothing of each other.
#include <atomic>
#include <thread>

#include "support/cached_tensors.hpp"
#include "support/counted_pages.hpp"

namespace {

using lowatt::Index;
using test::tokens_of;

template <class Example>
class CacheFork : public test::CachedTensors<Example> {
 protected:
  void append(typename CacheFork::Cache& cache, Index first, Index count) {
    const auto [q, k, v] = this->views();
    cache.append(tokens_of(k, first, count), tokens_of(v, first, count));
  }
};

TYPED_TEST_SUITE(CacheFork, test::Examples);

TYPED_TEST(CacheFork, BothGoOnAsIfAlone) {
  for (const Index page_tokens : {0, 64, 128}) {
    const std::string what = "pages of " + std::to_string(page_tokens);
    auto trunk = this->filled(100, {.tokens = page_tokens});
    auto branch = trunk.fork();
    test::expect_same_bytes(branch, trunk, what);
    this->append(branch, 120, 30);
    test::expect_same_bytes(trunk, this->filled(100), what + ", the other one appends");
    this->append(trunk, 100, 50);
    test::expect_same_bytes(trunk, this->filled(150), what + ", the trunk appends");
    auto straight = this->filled(100);
    this->append(straight, 120, 30);
    test::expect_same_bytes(branch, straight, what + ", the branch");

    auto short_branch = trunk.fork();
    short_branch.truncate(70);
    test::expect_same_bytes(short_branch, this->filled(70), what + ", a shorter branch");
    test::expect_same_bytes(trunk, this->filled(150), what + ", the other one is rewound");
    short_branch.clear();
    this->append(short_branch, 0, 10);
    test::expect_same_bytes(short_branch, this->filled(10), what + ", cleared");
    test::expect_same_bytes(trunk, this->filled(150), what + ", the other one is cleared");
  }
}

TYPED_TEST(CacheFork, WholePagesAreThereOnce) {
  test::CountedPages allocator;
  {
    auto trunk = this->filled(100, {.tokens = 64, .allocator = allocator});
    EXPECT_EQ(allocator.live, 2 * this->batch);
    auto branch = trunk.fork(), twig = branch.fork();
    EXPECT_EQ(allocator.live, 2 * this->batch);
    this->append(branch, 100, 1);  // takes copies of the pages that are not full
    EXPECT_EQ(allocator.live, 3 * this->batch);
    twig.truncate(64);  // to whole pages: nothing to copy
    EXPECT_EQ(allocator.live, 3 * this->batch);
    this->append(trunk, 100, 1);  // nobody else holds the trunk's own any more
    EXPECT_EQ(allocator.live, 3 * this->batch);
    trunk = {};
    test::expect_same_bytes(twig, this->filled(64), "what the trunk leaves");
    test::expect_same_bytes(branch, this->filled(101), "the branch");
    branch = twig.fork();
    EXPECT_EQ(allocator.live, this->batch);
  }
  EXPECT_EQ(allocator.live, 0);
}

// A page that a fork shares must be copied to be rewound; where there is no memory for that,
// nothing changes.
TYPED_TEST(CacheFork, RewindingWithoutMemory) {
  test::CountedPages allocator;
  auto trunk = this->filled(150, {.tokens = 128, .allocator = allocator});
  auto branch = trunk.fork();
  allocator.most_live = allocator.live + 1;  // for one of the two sequences
  EXPECT_EQ(branch.try_truncate(70).code, lowatt::StatusCode::out_of_memory);
  test::expect_same_bytes(branch, this->filled(150), "not rewound");
  EXPECT_EQ(branch.try_append(this->views().k, this->views().v).code,
            lowatt::StatusCode::out_of_capacity);
  branch.truncate(128);
  test::expect_same_bytes(branch, this->filled(128), "rewound to whole pages");
}

// A trunk and its forks are written by a thread each: they need no exclusion against each other.
TYPED_TEST(CacheFork, ThreadsOwnForks) {
  constexpr int count = 4;
  auto trunk = this->filled(100, {.tokens = 64});
  std::vector<typename TestFixture::Cache> forks;
  for (int i = 0; i < count; ++i) forks.push_back(trunk.fork());
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      auto& fork = forks[static_cast<std::size_t>(i)];
      this->append(fork, 100 + i, 40);
      fork.truncate(90);
      this->append(fork, 90 + i, 40);
    });
  this->append(trunk, 100, 50);
  for (std::thread& thread : threads) thread.join();
  test::expect_same_bytes(trunk, this->filled(150), "trunk");
  for (int i = 0; i < count; ++i) {
    auto straight = this->filled(90);
    this->append(straight, 90 + i, 40);
    test::expect_same_bytes(forks[static_cast<std::size_t>(i)], straight, std::to_string(i));
  }
}

}  // namespace
