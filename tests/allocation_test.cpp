// What memory a call takes: none at all where the caller hands a workspace, and at most the cache
// and 16 MiB per worker for a long sequence. Every allocation of the process is counted.
#include <malloc.h>

#include <atomic>
#include <cerrno>

#include "support/mechanisms.hpp"
#include "support/sweep.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ALLOCATORS_ARE_TAKEN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer) || __has_feature(leak_sanitizer)
#define ALLOCATORS_ARE_TAKEN
#endif
#endif

namespace {

std::atomic<std::int64_t> allocations{0}, live_bytes{0}, peak_bytes{0};

}  // namespace

#if defined(ALLOCATORS_ARE_TAKEN)
constexpr const char* cannot_count = "the sanitizers replace malloc themselves";
#elif !defined(__GLIBC__)
constexpr const char* cannot_count = "only glibc lets a program replace malloc and call it";
#else
constexpr const char* cannot_count = nullptr;

// The program's own functions go before glibc's, for the C++ library's operator new as well.
extern "C" {
void* __libc_malloc(std::size_t) noexcept;
void* __libc_calloc(std::size_t, std::size_t) noexcept;
void* __libc_realloc(void*, std::size_t) noexcept;
void* __libc_memalign(std::size_t, std::size_t) noexcept;
void __libc_free(void*) noexcept;
}

namespace {

void* counted(void* memory) noexcept {
  if (memory == nullptr) return nullptr;
  ++allocations;
  const auto bytes = static_cast<std::int64_t>(malloc_usable_size(memory));
  const std::int64_t live = live_bytes += bytes;
  std::int64_t peak = peak_bytes;
  while (peak < live && !peak_bytes.compare_exchange_weak(peak, live)) {
  }
  return memory;
}

void uncount(void* memory) noexcept {
  if (memory != nullptr) live_bytes -= static_cast<std::int64_t>(malloc_usable_size(memory));
}

}  // namespace

extern "C" {
void* malloc(std::size_t size) noexcept {
  return counted(__libc_malloc(size));
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  return counted(__libc_calloc(count, size));
}
void* realloc(void* memory, std::size_t size) noexcept {
  uncount(memory);
  return counted(__libc_realloc(memory, size));
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  void* const made = counted(__libc_memalign(alignment, size));
  if (made == nullptr) return ENOMEM;
  *memory = made;
  return 0;
}
void free(void* memory) noexcept {
  uncount(memory);
  __libc_free(memory);
}
}
#endif

namespace {

using lowatt::Index;

constexpr std::int64_t mebibyte = 1 << 20, per_worker = 16 * mebibyte;
constexpr Index long_sequence = 32768;

template <class F>
std::int64_t allocations_of(F&& f) {
  const std::int64_t before = allocations;
  f();
  return allocations - before;
}

// The most that lay allocated at once during f(), less what did before.
template <class F>
std::int64_t peak_bytes_of(F&& f) {
  const std::int64_t before = live_bytes;
  peak_bytes = before;
  f();
  return peak_bytes - before;
}

// Two workers that take turns on the calling thread: threads of one's own would allocate.
struct Turns {
  int workers() const { return 2; }
  template <class F>
  void run(Index tasks, F&& f) const {
    for (Index task = 0; task < tasks; ++task) f(task, task % 2);
  }
};

template <class Example>
class Allocation : public testing::Test {
 protected:
  void SetUp() override {
    if (cannot_count != nullptr) GTEST_SKIP() << "allocations are not counted: " << cannot_count;
  }
};

TYPED_TEST_SUITE(Allocation, test::Examples);

// One step of decoding, prefill across tiles and blocks of queries, and dims that fill no register.
std::vector<test::Case> calls() {
  constexpr lowatt::Shape shapes[] = {
      {2, 4, 2, 1, 200, 40, 24}, {2, 4, 2, 150, 200, 40, 24}, {1, 3, 1, 17, 65, 300, 128}};
  std::vector<test::Case> cases;
  for (const lowatt::Shape& shape : shapes)
    for (const bool causal : {false, true}) cases.push_back({shape, causal});
  return cases;
}

TYPED_TEST(Allocation, NoneWithTheCallersWorkspace) {
  using M = typename TypeParam::Mechanism;
  const M mechanism = TypeParam::make();
  for (const test::Case& c : calls()) {
    test::Inputs inputs(c);
    const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
    const lowatt::Shape& s = c.shape;
    lowatt::KvCache<M> cache({s.batch, s.kv_heads, s.head_dim, s.value_dim, s.keys},
                             lowatt::calibrate(mechanism, q, k, v, {.causal = c.causal}),
                             mechanism);
    cache.append(k, v);
    std::vector<std::int64_t> kept(static_cast<std::size_t>(s.batch * s.query_heads));
    for (const lowatt::Level level : test::levels()) {
      Turns turns;
      lowatt::Options options{.causal = c.causal, .executor = turns, .level = level};
      if (std::is_same_v<M, lowatt::Latte>) options.kept = kept.data();
      lowatt::Plan<M> plan;
      lowatt::Status status;
      EXPECT_EQ(0, allocations_of([&] { status = try_plan(plan, mechanism, s, options); }))
          << "try_plan, " << test::describe(level, c);
      ASSERT_TRUE(status.ok()) << status.message;

      // The counter counts: without a workspace the call makes one.
      EXPECT_GE(allocations_of([&] { status = try_attend(q, cache, inputs.out.view(), options); }),
                1)
          << "try_attend without workspace, " << test::describe(level, c);
      ASSERT_TRUE(status.ok()) << status.message;

      lowatt::Array<std::byte> workspace(plan.workspace_size(2));
      options.workspace = workspace.data();
      options.workspace_bytes = workspace.size();
      EXPECT_EQ(0,
                allocations_of([&] { status = try_attend(q, cache, inputs.out.view(), options); }))
          << "try_attend, " << test::describe(level, c);
      ASSERT_TRUE(status.ok()) << status.message;

      EXPECT_EQ(0, allocations_of([&] {
                  for (Index phase = 0; phase < plan.phases(); ++phase)
                    for (Index task = 0; task < plan.tasks(phase) && status.ok(); ++task)
                      status = plan.run(phase, task, task % 2, q, cache, inputs.out.view(),
                                        workspace.data(), {.kept = options.kept});
                }))
          << "Plan::run, " << test::describe(level, c);
      ASSERT_TRUE(status.ok()) << status.message;
    }
  }
}

// A cache in one piece has its memory from the start.
TYPED_TEST(Allocation, NoneToAppendAndRewindInOnePiece) {
  using M = typename TypeParam::Mechanism;
  const M mechanism = TypeParam::make();
  test::Inputs inputs(test::Case{{2, 4, 2, 4, 150, 40, 24}});
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  lowatt::KvCache<M> cache({2, 2, 40, 24, 300}, lowatt::calibrate(mechanism, q, k, v), mechanism);
  EXPECT_EQ(0, allocations_of([&] {
              cache.append(k, v);
              cache.truncate(70);
              cache.append(k, v);
              cache.clear();
              cache.append(k, v);
            }));
  EXPECT_EQ(cache.size(), 150);
}

// Inputs and outputs are the caller's; beside them one call holds the cache and a workspace.
TYPED_TEST(Allocation, LongSequenceStaysWithinCacheAndWorkspace) {
  using M = typename TypeParam::Mechanism;
  M mechanism = TypeParam::make();
  // Calibrating a temperature takes longer than all else here; its memory has its own test.
  if constexpr (std::is_same_v<M, lowatt::Bitformer>)
    if (calibrates_temperature(mechanism)) mechanism.temperature = 0.1;
  constexpr Index dim = 8;
  test::Inputs inputs(test::Case{{1, 1, 1, long_sequence, long_sequence, dim, dim}, true});
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const lowatt::Level best = test::levels().back();
  const lowatt::KvCache<M> small({1, 1, dim, dim, 1}, lowatt::calibrate(mechanism, q, k, v),
                                 mechanism);
  const auto cache_bytes = static_cast<std::int64_t>(small.bytes_per_token() * long_sequence);

  lowatt::Status status;
  const std::int64_t peak = peak_bytes_of([&] {
    status = try_attend(mechanism, q, k, v, inputs.out.view(), {.causal = true, .level = best});
  });
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_GE(peak, cache_bytes);  // the cache at least was counted
  EXPECT_LE(peak, cache_bytes + per_worker);
}

// Temperatures are calibrated before there is a cache. What that takes grows with keys and not with
// queries, so that a few of those show it.
TYPED_TEST(Allocation, CalibratingStaysWithinCacheAndWorkspace) {
  using M = typename TypeParam::Mechanism;
  const M mechanism = TypeParam::make();
  constexpr Index dim = 128;
  test::Inputs inputs(test::Case{{1, 1, 1, 4, long_sequence, dim, dim}});
  lowatt::Calibration calibration;
  lowatt::Status status;
  const std::int64_t peak = peak_bytes_of([&] {
    status =
        try_calibrate(calibration, mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
  });
  ASSERT_TRUE(status.ok()) << status.message;
  const lowatt::KvCache<M> small({1, 1, dim, dim, 1}, calibration, mechanism);
  const auto cache_bytes = static_cast<std::int64_t>(small.bytes_per_token() * long_sequence);
  EXPECT_LE(peak, cache_bytes + per_worker);
}

template <class Example>
class LongSequence : public testing::Test {};

TYPED_TEST_SUITE(LongSequence, test::Examples);

TYPED_TEST(LongSequence, WorkspaceIsSmall) {
  constexpr Index dim = 64;
  const lowatt::Shape shape{1, 8, 2, long_sequence, long_sequence, dim, dim};
  for (const lowatt::Level level : test::levels()) {
    const auto plan = lowatt::plan(TypeParam::make(), shape, {.level = level});
    EXPECT_LE(plan.workspace_size(1), per_worker) << lowatt::level_name(level);
    EXPECT_LE(plan.workspace_size(2), 2 * per_worker) << lowatt::level_name(level);
  }
}

}  // namespace
