// Executors that come with the library, and those of the examples: each task once, no worker used
// by two threads at a time, the same bits as one thread.
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "lowatt/interop/onetbb.hpp"
#include "lowatt/interop/openmp.hpp"
#include "support/sweep.hpp"
#include "thread_pool.hpp"

namespace {

using lowatt::Index;

template <class E>
class Executors : public testing::Test {};

using All = testing::Types<lowatt::OpenMpExecutor, lowatt::OneTbbExecutor, support::ThreadPool>;
TYPED_TEST_SUITE(Executors, All);

TYPED_TEST(Executors, RunEachTaskOnceAndEachWorkerAlone) {
  for (const int workers : {1, 3}) {
    TypeParam executor{workers};
    ASSERT_EQ(executor.workers(), workers);
    for (const Index tasks : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::vector<std::atomic<int>> users(static_cast<std::size_t>(workers));
      std::atomic<int> shared = 0;
      executor.run(tasks, [&](Index task, Index worker) {
        auto& user = users.at(static_cast<std::size_t>(worker));
        shared += user++;
        ++runs[static_cast<std::size_t>(task)];
        --user;
      });
      EXPECT_EQ(shared, 0);
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TYPED_TEST(Executors, GiveTheSameBits) {
  test::Inputs inputs(test::Case{{2, 4, 2, 70, 130, 32, 40}, true});
  test::StridedTensor again(2, 4, 70, 40);
  TypeParam executor{3};
  for (const auto& mechanism : {lowatt::Inhibitor{}, lowatt::Inhibitor{.center = true}}) {
    lowatt::attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(), inputs.out.view(),
                   {.causal = true});
    lowatt::attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(), again.view(),
                   {.causal = true, .executor = executor});
    test::expect_identical(std::as_const(again).view(), std::as_const(inputs.out).view(),
                           "threads");
  }
}

}  // namespace
