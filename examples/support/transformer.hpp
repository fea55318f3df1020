// The small image Transformer that the training programs export: its weights, read from one file.
//
//   tokens = embed(patches) + position
//   layer:  tokens += output(attention(query, key, value of norm1(tokens)))
//           tokens += down(relu(up(norm2(tokens))))
//   logits = head(mean over tokens of norm(tokens))
//
// Patches and tokens are row-major, head h has channels [h * head_dim, (h + 1) * head_dim).
#pragma once

#include <Eigen/Core>
#include <optional>
#include <string>
#include <vector>

#include "safetensors.hpp"

namespace support {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowVector = Eigen::Matrix<float, 1, Eigen::Dynamic, Eigen::RowMajor>;

// y = x * weight^T + bias, weight [out, in].
struct Linear {
  Matrix weight;
  RowVector bias;
};

struct LayerNorm {
  RowVector weight, bias;
};

// What training left of a layer's attention: the scale, and what mechanisms have learned.
struct LearnedAttention {
  double scale = 0;
  std::optional<double> alpha, beta, temperature, clip;
  std::vector<double> theta;  // one per head, or none
};

struct TransformerLayer {
  LayerNorm norm1, norm2;
  Linear query_key_value;  // one product for the three: rows of weight are query, key, value
  Linear output, up, down;
  LearnedAttention attention;
};

struct Transformer {
  lowatt::Index dim = 0, heads = 0, feed_forward = 0, tokens = 0, patch = 0, classes = 0;
  std::string attention;  // softmax, inhibitor, latte or bitformer: what it was trained with
  bool is_signed = true, normalize = false;  // of the Inhibitor
  bool center = false;                       // scores of the Inhibitor, keys of Bitformer
  int planes = 0;                            // of Bitformer

  Linear embed, head;
  Matrix position;  // [tokens, dim]
  std::vector<TransformerLayer> layers;
  LayerNorm norm;

  lowatt::Index head_dim() const { return dim / heads; }
};

// Throws InputError where metadata and tensors are not those of an image classifier: a tensor is
// missing, unknown, of another shape or not finite. `name` is what messages call the file.
Transformer make_transformer(const Safetensors& file, const std::string& name);
Transformer read_transformer(const std::string& path);

}  // namespace support
