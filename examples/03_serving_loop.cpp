// What an inference server does with a cache: a shared prompt is prefilled once, in chunks; every
// request forks it and decodes on from there, token by token; a rejected guess is taken back.
//
// There is no model here: queries, keys and values are random numbers, where a model would compute
// them from tokens. What is timed is attention and packing, nothing else.
#include <lowatt/lowatt.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using lowatt::Index;

// One layer: 8 query heads share 2 KV heads (grouped queries).
constexpr Index query_heads = 8, kv_heads = 2, head_dim = 64;
constexpr Index prompt_tokens = 1000, chunk_tokens = 256, new_tokens = 100, requests = 3;
constexpr Index all_tokens = prompt_tokens + new_tokens;

// [heads, tokens, head_dim] of normal random numbers.
std::vector<float> make_tensor(Index heads, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> tensor(static_cast<std::size_t>(heads * all_tokens * head_dim));
  for (float& x : tensor) x = normal(random);
  return tensor;
}

// Tokens [first, first + count) of a tensor: the same strides, another first row.
template <class View>
View tokens_of(View tensor, Index first, Index count) {
  tensor.data = tensor.row(0, 0, first);
  tensor.tokens = count;
  return tensor;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main() {
  const std::vector<float> q_data = make_tensor(query_heads, 1), k_data = make_tensor(kv_heads, 2),
                           v_data = make_tensor(kv_heads, 3);
  std::vector<float> out_data(q_data.size());
  const lowatt::View<const float> q(q_data.data(), query_heads, all_tokens, head_dim);
  const lowatt::View<const float> k(k_data.data(), kv_heads, all_tokens, head_dim);
  const lowatt::View<const float> v(v_data.data(), kv_heads, all_tokens, head_dim);
  const lowatt::View<float> out(out_data.data(), query_heads, all_tokens, head_dim);

  // What the encoding depends on is fixed before the first token. A server calibrates once, on
  // sample tensors; here the first chunk serves as one. Later numbers beyond it are clamped.
  const lowatt::Softmax mechanism{.precision = lowatt::Precision::int8};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, tokens_of(q, 0, chunk_tokens), tokens_of(k, 0, chunk_tokens),
                        tokens_of(v, 0, chunk_tokens));

  // Memory in pages of 128 tokens, taken as tokens come. PageSetting::allocator may be the server's
  // own pool; without .tokens a cache would take room for its capacity at once.
  lowatt::KvCache<lowatt::Softmax> prompt(
      {.kv_heads = kv_heads, .head_dim = head_dim, .value_dim = head_dim, .capacity = all_tokens},
      calibration, mechanism, {}, {.tokens = 128});

  // Prefill in chunks: causal order is aligned at the last query and the last key, so each chunk
  // sees the tokens before it.
  auto start = std::chrono::steady_clock::now();
  for (Index first = 0; first < prompt_tokens; first += chunk_tokens) {
    const Index count = std::min(chunk_tokens, prompt_tokens - first);
    prompt.append(tokens_of(k, first, count), tokens_of(v, first, count));
    lowatt::attend(tokens_of(q, first, count), prompt, tokens_of(out, first, count),
                   {.causal = true});
  }
  double seconds = seconds_since(start);
  std::printf("prefill: %td tokens in chunks of %td, %.0f tokens per second\n", prompt_tokens,
              chunk_tokens, static_cast<double>(prompt_tokens) / seconds);

  // Each request forks the prompt: whole pages are shared, only the last one is copied, when the
  // request appends to it.
  std::vector<lowatt::KvCache<lowatt::Softmax>> forks;
  for (Index i = 0; i < requests; ++i) forks.push_back(prompt.fork());
  start = std::chrono::steady_clock::now();
  for (Index t = prompt_tokens; t < all_tokens; ++t)
    for (auto& cache : forks) {
      cache.append(tokens_of(k, t, 1), tokens_of(v, t, 1));
      lowatt::attend(tokens_of(q, t, 1), cache, tokens_of(out, t, 1));
    }
  seconds = seconds_since(start);
  std::printf("decode: %td requests of %td tokens, %.0f tokens per second\n", requests, new_tokens,
              static_cast<double>(requests * new_tokens) / seconds);

  // Speculative decoding: the last four tokens turn out to be wrong. Afterwards the cache holds the
  // bytes that it would hold had they never been appended, so the step that follows gives the same.
  std::vector<float> step_data(query_heads * head_dim);
  const lowatt::View<float> step(step_data.data(), query_heads, 1, head_dim);
  forks[0].truncate(all_tokens - 4);
  forks[0].append(tokens_of(k, all_tokens - 4, 4), tokens_of(v, all_tokens - 4, 4));
  lowatt::attend(tokens_of(q, all_tokens - 1, 1), forks[0], step);
  Index different = 0;
  for (Index h = 0; h < query_heads; ++h)
    for (Index c = 0; c < head_dim; ++c)
      different += step.row(0, h, 0)[c] != out.row(0, h, all_tokens - 1)[c];
  const lowatt::Saturated& clamped = forks[0].saturated(0, 0);
  std::printf("rewound: %td numbers differ; of KV head 0, %lld were clamped\n", different,
              static_cast<long long>(clamped.keys + clamped.values));
  return different == 0 ? 0 : 1;
}
