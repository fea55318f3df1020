// Attention on an application's own threads: a small pool of std::thread as lowatt's executor, and
// a workspace of the application's, so that a call allocates nothing and starts no thread.
//
//   find_package(lowatt REQUIRED)
//   find_package(Threads REQUIRED)
//   add_executable(app 05_own_executor.cpp)
//   target_link_libraries(app PRIVATE Threads::Threads)
//   lowatt_add_dispatch(app)
#include <lowatt/lowatt.hpp>

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

namespace {

using lowatt::Index;

// All that lowatt asks of an executor: workers(), and run(tasks, f) which calls f(task, worker)
// once for every task and returns when all are done. A worker id belongs to one thread at a time.
class Pool {
 public:
  explicit Pool(int workers) : meeting_(workers) {
    for (int worker = 1; worker < workers; ++worker)
      threads_.emplace_back([this, worker] {
        for (;;) {
          meeting_.arrive_and_wait();  // for work
          if (!work_) return;
          take_tasks(worker);
          meeting_.arrive_and_wait();  // until all are done
        }
      });
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    work_ = nullptr;
    meeting_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }

  int workers() const { return static_cast<int>(threads_.size()) + 1; }

  template <class F>
  void run(Index tasks, F f) {
    work_ = f;
    tasks_ = tasks;
    next_ = 0;
    meeting_.arrive_and_wait();
    take_tasks(0);  // the caller works too
    meeting_.arrive_and_wait();
  }

 private:
  void take_tasks(int worker) {
    for (Index task = next_++; task < tasks_; task = next_++) work_(task, worker);
  }

  std::function<void(Index, Index)> work_;
  Index tasks_ = 0;
  std::atomic<Index> next_ = 0;
  std::barrier<> meeting_;
  std::vector<std::thread> threads_;
};

}  // namespace

int main() {
  constexpr Index heads = 8, tokens = 300, head_dim = 64;
  std::vector<float> q_data(heads * tokens * head_dim), out_data(q_data.size());
  double phase = 0;
  for (float& x : q_data) x = static_cast<float>(std::sin(phase += 0.37));
  const lowatt::View<const float> q(q_data.data(), heads, tokens, head_dim);
  const lowatt::View<float> out(out_data.data(), heads, tokens, head_dim);

  const lowatt::Inhibitor inhibitor{.alpha = 4.0};
  const lowatt::Calibration calibration = lowatt::calibrate(inhibitor, q, q, q);
  lowatt::KvCache<lowatt::Inhibitor> cache(
      {.kv_heads = heads, .head_dim = head_dim, .value_dim = head_dim, .capacity = tokens},
      calibration, inhibitor);
  cache.append(q, q);

  // The calling thread alone, which allocates its workspace.
  lowatt::attend(q, cache, out, {.causal = true});
  const std::vector<float> alone = out_data;

  // The same on four threads. A plan says how much workspace so many workers need.
  Pool pool(4);
  const lowatt::Shape shape{.query_heads = heads,
                            .kv_heads = heads,
                            .queries = tokens,
                            .keys = tokens,
                            .head_dim = head_dim,
                            .value_dim = head_dim};
  const Index bytes = lowatt::plan(inhibitor, shape, {.causal = true}).workspace_size(4);
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> workspace(static_cast<std::size_t>(bytes / 64 + 1));
  lowatt::attend(q, cache, out,
                 {.causal = true,
                  .executor = pool,
                  .workspace = workspace.data()->bytes,
                  .workspace_bytes = bytes});

  const bool same = alone == out_data;
  std::printf("4 threads, %td bytes of workspace: %s\n", bytes,
              same ? "the same bits as one thread" : "other bits than one thread");
  return same ? 0 : 1;
}
