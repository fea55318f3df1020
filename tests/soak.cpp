// Random append, truncate, clear and fork by some threads while others attend, each cache under a
// reader-writer lock of its own, although forks share pages. What was attended must be what one
// thread gets that appends the same tokens one by one.
//
//   soak [--seconds N | --soak MINUTES]      N is 3 unless given
//
// Built with -fsanitize=thread it also shows that nothing races.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <lowatt/lowatt.hpp>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "support/strided_tensor.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using lowatt::Index;
using test::StridedTensor;

constexpr Index query_heads = 4, kv_heads = 2, head_dim = 24, value_dim = 17, queries = 3;
constexpr Index known_tokens = 256, capacity = 300, page_tokens = 64;
constexpr int cache_count = 5, writer_count = 2, reader_count = 2;
constexpr std::size_t most_results = 300;  // per reader and round

struct Tensors {
  StridedTensor q{1, query_heads, known_tokens, head_dim};
  StridedTensor k{1, kv_heads, known_tokens, head_dim};
  StridedTensor v{1, kv_heads, known_tokens, value_dim};

  explicit Tensors(unsigned seed) {
    std::mt19937 random(seed);
    for (StridedTensor* x : {&q, &k, &v}) x->fill_normal(random);
  }
};

lowatt::View<const float> tokens_of(const StridedTensor& tensor, Index first, Index count) {
  lowatt::View<const float> x = tensor.view();
  x.data += first * x.token_stride;
  x.tokens = count;
  return x;
}

// A cache, which of the known tokens it holds, and the lock of both.
template <class M>
struct Guarded {
  std::shared_mutex lock;
  lowatt::KvCache<M> cache;
  std::vector<Index> tokens;
};

struct Result {
  std::vector<Index> tokens;
  Index first_query = 0;
  std::vector<float> out;
};

template <class M>
std::vector<float> attend(const Tensors& tensors, const lowatt::KvCache<M>& cache,
                          Index first_query) {
  std::vector<float> out(query_heads * queries * value_dim);
  lowatt::attend(tokens_of(tensors.q, first_query, queries), cache,
                 lowatt::View<float>(out.data(), query_heads, queries, value_dim),
                 {.causal = true});
  return out;
}

template <class M>
void write(const Tensors& tensors, Guarded<M>* caches, const std::atomic<bool>& stop,
           unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](Index n) { return static_cast<Index>(random()) % n; };
  while (!stop) {
    Guarded<M>& one = caches[below(cache_count)];
    const Index action = below(10);
    if (action == 0) {  // becomes a fork of another one; locks are taken in one order
      Guarded<M>& other = caches[below(cache_count)];
      if (&one == &other) continue;
      std::unique_lock mine(one.lock, std::defer_lock);
      std::shared_lock theirs(other.lock, std::defer_lock);
      if (&one < &other) {
        mine.lock();
        theirs.lock();
      } else {
        theirs.lock();
        mine.lock();
      }
      one.cache = other.cache.fork();
      one.tokens = other.tokens;
      continue;
    }
    const std::unique_lock guard(one.lock);
    if (action == 1) {
      one.cache.clear();
      one.tokens.clear();
    } else if (action < 5) {
      const Index kept = below(one.cache.size() + 1);
      one.cache.truncate(kept);
      one.tokens.resize(static_cast<std::size_t>(kept));
    } else {
      const Index first = below(known_tokens);
      Index count = 1 + below(action < 8 ? 3 : 100);
      count = std::min({count, known_tokens - first, capacity - one.cache.size()});
      if (count == 0) continue;
      one.cache.append(tokens_of(tensors.k, first, count), tokens_of(tensors.v, first, count));
      for (Index t = first; t < first + count; ++t) one.tokens.push_back(t);
    }
  }
}

template <class M>
void read(const Tensors& tensors, Guarded<M>* caches, const std::atomic<bool>& stop, unsigned seed,
          std::vector<Result>& results) {
  std::mt19937 random(seed);
  while (!stop && results.size() < most_results) {
    Guarded<M>& one = caches[random() % cache_count];
    const std::shared_lock guard(one.lock);
    if (one.tokens.empty()) continue;
    const Index first_query = static_cast<Index>(random()) % (known_tokens - queries);
    results.push_back({one.tokens, first_query, attend(tensors, one.cache, first_query)});
  }
}

// One round of one mechanism; returns how many results were compared.
template <class M>
std::size_t soak(const M& mechanism, unsigned seed) {
  const Tensors tensors(seed);
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, tensors.q.view(), tensors.k.view(), tensors.v.view());
  const auto make = [&](Index tokens) {
    return lowatt::KvCache<M>({1, kv_heads, head_dim, value_dim, capacity}, calibration, mechanism,
                              {}, {.tokens = tokens});
  };
  Guarded<M> caches[cache_count];
  for (Guarded<M>& one : caches) one.cache = make(page_tokens);
  std::atomic<bool> stop{false};
  std::vector<Result> results[reader_count];
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < writer_count; ++i)
    threads.emplace_back([&, i] { write(tensors, caches, stop, seed * 16 + i); });
  for (unsigned i = 0; i < reader_count; ++i)
    threads.emplace_back([&, i] { read(tensors, caches, stop, seed * 16 + 8 + i, results[i]); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  stop = true;
  for (std::thread& thread : threads) thread.join();

  std::size_t compared = 0;
  for (const std::vector<Result>& of_reader : results)
    for (const Result& result : of_reader) {
      auto replayed = make(0);
      for (const Index t : result.tokens)
        replayed.append(tokens_of(tensors.k, t, 1), tokens_of(tensors.v, t, 1));
      const std::vector<float> out = attend(tensors, replayed, result.first_query);
      if (std::memcmp(out.data(), result.out.data(), out.size() * sizeof(float)) != 0) {
        std::fprintf(stderr, "seed %u: %s over %zu tokens differs from its replay\n", seed,
                     lowatt::Adapter<M>::layout(mechanism), result.tokens.size());
        std::exit(1);
      }
      ++compared;
    }
  return compared;
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 3;
  if (argc == 3 && std::strcmp(argv[1], "--seconds") == 0) {
    seconds = std::atof(argv[2]);
  } else if (argc == 3 && std::strcmp(argv[1], "--soak") == 0) {
    seconds = 60 * std::atof(argv[2]);
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: soak [--seconds N | --soak MINUTES]\n");
    return 2;
  }
  using lowatt::Precision;
  std::size_t compared = 0;
  unsigned rounds = 0;
  const auto start = Clock::now();
  do {
    const unsigned seed = ++rounds;
    compared += soak(lowatt::Softmax{}, seed);
    compared += soak(lowatt::Softmax{.precision = Precision::bf16}, seed);
    compared += soak(lowatt::Softmax{.precision = Precision::int8}, seed);
    compared += soak(lowatt::Inhibitor{.scale = 0.05}, seed);
    compared += soak(lowatt::Inhibitor{.scale = 0.05, .precision = Precision::int4}, seed);
    compared += soak(lowatt::Inhibitor{.scale = 0.05, .precision = Precision::int16}, seed);
    compared += soak(lowatt::Latte{.theta = 1.5}, seed);
    compared += soak(lowatt::Bitformer{.planes = 3}, seed);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  std::printf("%u rounds: %zu results of several threads are those of one\n", rounds, compared);
  return compared > 0 ? 0 : 1;
}
