// Runs an image Transformer with this library's attention.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "idx.hpp"
#include "layer_attention.hpp"
#include "transformer.hpp"

namespace support {

struct ClassifierOptions {
  std::optional<std::string> level;  // default: the best one
  int threads = 1;
};

struct Classification {
  Matrix logits;  // [images, classes]
  double seconds = 0;
  double seconds_in_attention = 0;  // of a thread, in the mean; packing keys and values included
  double filtered = 0;              // share of query-key pairs that were dropped
  std::string level;                // the level that attention ran at
};

// Classifies images [first, first + count). Throws InputError where the model is not for images of
// this size, and lowatt::Error for what the library refuses.
Classification classify(const Transformer& model, const LayerAttention& attention,
                        const LabelledImages& images, lowatt::Index first, lowatt::Index count,
                        const ClassifierOptions& options);

// The class with the largest logit; the first of equal ones.
lowatt::Index answer(const Matrix& logits, lowatt::Index image);

// Softmax over an image's logits.
std::vector<double> probabilities(const Matrix& logits, lowatt::Index image);

}  // namespace support
