// Threads for lowatt::Options::executor. The library starts none itself; this is what an
// application may lend it (see core/executor.hpp for the contract).
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "lowatt/core/config.hpp"

namespace support {

// `workers` threads in all: the one that calls run() works as worker 0.
class ThreadPool {
 public:
  explicit ThreadPool(int workers) {
    try {
      for (int worker = 1; worker < workers; ++worker)
        threads_.emplace_back([this, worker] { wait_for_work(worker); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  int workers() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls f(task, worker) once for each task in [0, tasks); returns when all are done. One caller
  // at a time; f must not throw.
  template <class F>
  void run(lowatt::Index tasks, F&& f) {
    {
      const std::lock_guard lock(mutex_);
      work_ = [&f](lowatt::Index task, lowatt::Index worker) { f(task, worker); };
      next_task_ = 0;
      tasks_ = tasks;
      busy_ = threads_.size();
      ++round_;
    }
    round_started_.notify_all();
    take_tasks(0);
    std::unique_lock lock(mutex_);
    round_ended_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void take_tasks(lowatt::Index worker) {
    for (lowatt::Index task = next_task_++; task < tasks_; task = next_task_++) work_(task, worker);
  }

  void wait_for_work(int worker) {
    for (unsigned long seen = 0;;) {
      {
        std::unique_lock lock(mutex_);
        round_started_.wait(lock, [&] { return stopping_ || round_ != seen; });
        if (stopping_) return;
        seen = round_;
      }
      take_tasks(worker);
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) round_ended_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    round_started_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  std::mutex mutex_;
  std::condition_variable round_started_, round_ended_;
  std::function<void(lowatt::Index, lowatt::Index)> work_;
  std::atomic<lowatt::Index> next_task_ = 0;
  lowatt::Index tasks_ = 0;
  std::size_t busy_ = 0;     // threads still in this round
  unsigned long round_ = 0;  // counts calls of run()
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // last: starts after what the threads use
};

}  // namespace support
