// How callers lend their threads. The library starts none itself.
#pragma once

#include <concepts>

#include "config.hpp"

LOWATT_API_BEGIN

// An executor has `int workers()` and `run(tasks, f)`, which calls f(task, worker) once for each
// task in [0, tasks) with worker in [0, workers()) and returns when all are done. One worker id is
// used by one thread at a time; it selects a slice of the workspace. Neither may throw: attention
// calls are noexcept. interop/ has executors of OpenMP and oneTBB.
template <class E>
concept Executor = requires(E& executor, Index tasks, void (*f)(Index, Index)) {
  { executor.workers() } -> std::convertible_to<int>;
  executor.run(tasks, f);
};

// A type-erased reference to an executor: two pointers and no allocation. The default runs every
// task on the calling thread.
class ExecutorRef {
 public:
  ExecutorRef() noexcept = default;

  template <Executor E>
  requires(!std::same_as<E, ExecutorRef>) ExecutorRef(E& executor)
  noexcept : object_(&executor), functions_(&functions_of<E>) {}

  int workers() const { return functions_ == nullptr ? 1 : functions_->workers(object_); }

  template <class F>
  void run(Index tasks, F&& f) const {
    if (functions_ == nullptr) {
      for (Index task = 0; task < tasks; ++task) f(task, Index{0});
      return;
    }
    functions_->run(object_, tasks, Call{&f, [](void* object, Index task, Index worker) {
                                           (*static_cast<std::remove_reference_t<F>*>(object))(
                                               task, worker);
                                         }});
  }

 private:
  struct Call {
    void* object;
    void (*function)(void*, Index, Index);
    void operator()(Index task, Index worker) const { function(object, task, worker); }
  };
  struct Functions {
    int (*workers)(void*);
    void (*run)(void*, Index, Call);
  };
  template <class E>
  static constexpr Functions functions_of{
      [](void* object) { return static_cast<int>(static_cast<E*>(object)->workers()); },
      [](void* object, Index tasks, Call call) { static_cast<E*>(object)->run(tasks, call); }};

  void* object_ = nullptr;
  const Functions* functions_ = nullptr;
};

LOWATT_API_END
