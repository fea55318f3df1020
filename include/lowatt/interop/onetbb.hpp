// oneTBB's threads as an executor.
//
//   lowatt::OneTbbExecutor threads;  // or threads{4}: an arena of four
//   lowatt::attend(q, cache, out, {.executor = threads});
#pragma once

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include "../core/executor.hpp"

LOWATT_API_BEGIN

// An arena of its own, whose slots are the workers: a slot belongs to one thread at a time.
class OneTbbExecutor {
 public:
  explicit OneTbbExecutor(int threads = oneapi::tbb::task_arena::automatic) : arena_(threads) {}

  int workers() const { return arena_.max_concurrency(); }

  template <class F>
  void run(Index tasks, F&& f) {
    arena_.execute([&] {
      oneapi::tbb::parallel_for(Index{0}, tasks, [&](Index task) {
        f(task, Index{oneapi::tbb::this_task_arena::current_thread_index()});
      });
    });
  }

 private:
  oneapi::tbb::task_arena arena_;
};

LOWATT_API_END
