// A small image Transformer with random weights, and images for it, as files hold them.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "safetensors.hpp"

namespace test {

// Images of 6 x 9 pixels in six patches of 3 x 3; two layers with two heads of 4 channels.
struct TinyModel {
  static constexpr lowatt::Index dim = 8, heads = 2, head_dim = 4, feed_forward = 12, tokens = 6,
                                 patch = 3, classes = 5, layers = 2, rows = 6, columns = 9;
};

// Trained, so to speak, with `attention`. Weights are those of a layer that keeps its size, so that
// no logit is lost in others' rounding.
inline support::Safetensors tiny_model(const std::string& attention, unsigned seed = 1) {
  std::mt19937 random(seed);
  const auto tensor = [&](std::vector<lowatt::Index> shape, float center, float spread) {
    support::FloatArray array{std::move(shape), {}};
    lowatt::Index count = 1;
    for (const lowatt::Index extent : array.shape) count *= extent;
    for (lowatt::Index i = 0; i < count; ++i) {
      const auto unit = static_cast<float>(random() % 20001) / 10000 - 1;
      array.data.push_back(center + spread * unit);
    }
    return array;
  };

  using M = TinyModel;
  support::Safetensors file;
  file.metadata = {{"format", "lowatt-transformer"},
                   {"version", "1"},
                   {"task", "mnist"},
                   {"attention", attention},
                   {"layers", "2"},
                   {"dim", "8"},
                   {"heads", "2"},
                   {"feed_forward", "12"},
                   {"tokens", "6"},
                   {"patch", "3"},
                   {"classes", "5"}};
  auto& tensors = file.tensors;
  const auto linear = [&](const std::string& name, lowatt::Index out, lowatt::Index in) {
    tensors[name + ".weight"] = tensor({out, in}, 0, 0.6F);
    tensors[name + ".bias"] = tensor({out}, 0, 0.2F);
  };
  const auto norm = [&](const std::string& name) {
    tensors[name + ".weight"] = tensor({M::dim}, 1, 0.3F);
    tensors[name + ".bias"] = tensor({M::dim}, 0, 0.2F);
  };
  linear("embed", M::dim, M::patch * M::patch);
  tensors["position"] = tensor({M::tokens, M::dim}, 0, 0.5F);
  for (int i = 0; i < M::layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    norm(layer + "norm1");
    for (const char* part : {"query", "key", "value", "output"})
      linear(layer + "attention." + part, M::dim, M::dim);
    norm(layer + "norm2");
    linear(layer + "feed_forward.up", M::feed_forward, M::dim);
    linear(layer + "feed_forward.down", M::dim, M::feed_forward);

    const auto number = [&](const std::string& name, float value) {
      tensors[layer + "attention." + name] = {{1}, {value}};
    };
    number("scale", attention == "inhibitor" ? 0.2F : 0.6F);
    if (attention == "inhibitor") {
      number("alpha", 0.4F);
      number("beta", 1.5F);
    }
    if (attention == "latte") tensors[layer + "attention.theta"] = {{M::heads}, {0.7F, 1.5F}};
    if (attention == "bitformer") {
      number("temperature", 0.15F);
      number("clip", 0.8F);
    }
  }
  norm("norm");
  linear("head", M::classes, M::dim);
  if (attention == "inhibitor") {
    file.metadata["signed"] = "1";
    file.metadata["center"] = "1";
    file.metadata["normalize"] = "0";
  }
  if (attention == "bitformer") file.metadata["planes"] = "3";
  return file;
}

// An IDX file of unsigned bytes.
inline std::string idx_bytes(const std::vector<std::uint32_t>& shape, const std::string& data) {
  std::string bytes{'\0', '\0', '\x08', static_cast<char>(shape.size())};
  for (const std::uint32_t extent : shape)
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(extent >> shift & 0xff);
  return bytes + data;
}

// Of random pixels, for tiny_model(); labels are 0, 1, 2, 3, 4, 0, ...
inline std::string tiny_images(std::uint32_t count, unsigned seed = 2) {
  std::mt19937 random(seed);
  std::string pixels;
  for (std::uint32_t i = 0; i < count * TinyModel::rows * TinyModel::columns; ++i)
    pixels += static_cast<char>(random() % 256);
  return idx_bytes({count, TinyModel::rows, TinyModel::columns}, pixels);
}
inline std::string tiny_labels(std::uint32_t count) {
  std::string labels;
  for (std::uint32_t i = 0; i < count; ++i) labels += static_cast<char>(i % TinyModel::classes);
  return idx_bytes({count}, labels);
}

}  // namespace test
