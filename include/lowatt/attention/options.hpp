// What a call takes beside tensors and mechanism, and the shapes that calls are planned for.
#pragma once

#include "../core/executor.hpp"
#include "../core/mask.hpp"
#include "../core/score_terms.hpp"
#include "../core/view.hpp"
#include "../dispatch/dispatch.hpp"

namespace lowatt {

// Extents of one attention call. Query head h attends KV head h / (query_heads / kv_heads).
struct Shape {
  Index batch = 1;
  Index query_heads = 0, kv_heads = 0;
  Index queries = 0;                  // query tokens per sequence
  Index keys = 0;                     // key tokens per sequence
  Index head_dim = 0, value_dim = 0;  // of queries and keys; of values and outputs
};

// Extents of a cache; `capacity` is in tokens per sequence.
struct CacheShape {
  Index batch = 1;
  Index kv_heads = 0;
  Index head_dim = 0, value_dim = 0;
  Index capacity = 0;
};

}  // namespace lowatt

LOWATT_API_BEGIN

// What keys a query sees is what all masks leave; one that sees none yields 0. With key tokens that
// nobody sees, their tiles of 64 are not read.
struct Options {
  bool causal = false;  // query i sees keys j <= i + keys - queries
  // Query i sees so many keys before and after key i + keys - queries; negative: any number.
  Index window_left = -1, window_right = -1;
  // [batch]: keys from there on are padding. Positions of causal order and windows do not change.
  const Index* key_lengths = nullptr;
  // [batch, query_heads, queries, keys], 0 hides a key; batch and heads may be 1 for all.
  View<const std::uint8_t> mask = {};

  // The same as bits: [batch, query_heads, queries, ceil(keys / 64)], key j is bit j % 64 of word j
  // / 64; kernels read them where they are, without the room in the workspace that bytes take.
  View<const std::uint64_t> mask_bits = {};

  // Softmax and LATTE, which have scores to add to: a bias per query and key [batch, query_heads,
  // queries, keys], batch and heads may be 1 for all; ALiBi, a score loses slope * |query - key|
  // [query_heads]; a sink, which has weight but no value [query_heads]. In units of scores.
  View<const float> bias = {};
  const float* alibi_slopes = nullptr;
  const float* sinks = nullptr;

  ExecutorRef executor = {};       // default: the calling thread
  LevelSetting level = {};         // default: LOWATT_ARCH, else the best
  std::byte* workspace = nullptr;  // caller's memory at 64-byte alignment instead of an allocation;
  Index workspace_bytes = 0;       // at least Plan::workspace_size()
  std::int64_t* kept = nullptr;    // LATTE: [batch * query_heads], receives the surviving pairs
  // Softmax and LATTE: [batch * query_heads * queries], receives ln(sum_j exp(score_ij)) over the
  // keys that take part; -infinity where there are none.
  float* log_sum_exp = nullptr;

  Mask visibility() const noexcept {
    return {causal, window_left, window_right, key_lengths, mask, mask_bits};
  }
  CallScoreTerms score_terms() const noexcept { return {bias, alibi_slopes, sinks}; }
};

LOWATT_API_END
