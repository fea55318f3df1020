// Which attention a model's layers run with: what they were trained with, or another mechanism.
#pragma once

#include <string>
#include <vector>

#include "job.hpp"
#include "transformer.hpp"

namespace support {

struct LayerAttention {
  std::vector<Mechanism> layers;
  std::string note;  // one line on what the model was not trained for; empty where it was
};

// Throws InputError where the mechanism has no such precision. What the model has not learned of a
// mechanism takes these values: theta 5, alpha 0, beta 1 and a mean over keys; four planes, whose
// clip and temperature come from each image's queries and keys.
LayerAttention layer_attention(const Transformer& model, const std::string& mechanism,
                               lowatt::Precision precision);

}  // namespace support
