// OpenMP's threads as an executor. Compile with -fopenmp.
//
//   lowatt::OpenMpExecutor threads;  // or threads{4}
//   lowatt::attend(q, cache, out, {.executor = threads});
#pragma once

#include <omp.h>

#include "../core/executor.hpp"

#if !defined(_OPENMP)
#error "Lowatt: interop/openmp.hpp needs -fopenmp; without it one thread would do all the work"
#endif

LOWATT_API_BEGIN

// Tasks go to whichever thread is free, since they differ in length (causal order). A run inside of
// a parallel region uses its calling thread alone, unless OpenMP's nesting is switched on.
struct OpenMpExecutor {
  int threads = omp_get_max_threads();

  int workers() const noexcept { return threads; }

  template <class F>
  void run(Index tasks, F&& f) const noexcept {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index task = 0; task < tasks; ++task) f(task, Index{omp_get_thread_num()});
  }
};

LOWATT_API_END
