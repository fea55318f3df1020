// Threads that take tasks from a shared counter.
#pragma once

#include <atomic>
#include <lowatt/lowatt.hpp>
#include <thread>
#include <vector>

namespace test {

struct Threads {
  int count = 1;
  int workers() const { return count; }
  template <class F>
  void run(lowatt::Index tasks, F&& f) const {
    std::atomic<lowatt::Index> next{0};
    std::vector<std::thread> threads;
    for (int worker = 0; worker < count; ++worker)
      threads.emplace_back([&, worker] {
        for (lowatt::Index task = next++; task < tasks; task = next++)
          f(task, lowatt::Index{worker});
      });
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace test
