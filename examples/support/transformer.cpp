#include "transformer.hpp"

#include <charconv>
#include <cmath>
#include <set>

#include "lowatt/quant/bit_planes.hpp"

namespace support {
namespace {

using lowatt::Index;

// Above any model that these programs train, and small enough that no product of two overflows.
constexpr Index largest_extent = 1 << 20;

// Takes metadata and tensors out of a file, and remembers which tensors.
class Reader {
 public:
  Reader(const Safetensors& file, const std::string& name) : file_(file), name_(name) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError("'" + name_ + "' " + what);
  }

  const std::string& text(const std::string& key) const {
    const auto found = file_.metadata.find(key);
    if (found == file_.metadata.end()) fail("has no " + in_quotes(key) + " in its metadata");
    return found->second;
  }

  std::string one_of(const std::string& key, const std::vector<std::string>& known) const {
    std::string names;
    for (const std::string& one : known) {
      if (text(key) == one) return one;
      names += (names.empty() ? "" : ", ") + one;
    }
    fail("has " + key + " = " + in_quotes(text(key)) + "; known here: " + names);
  }

  Index number(const std::string& key, Index largest = largest_extent) const {
    const std::string& digits = text(key);
    Index value = 0;
    const char* const end = digits.data() + digits.size();
    const auto [parsed_to, error] = std::from_chars(digits.data(), end, value);
    if (error != std::errc{} || parsed_to != end || value < 1 || value > largest)
      fail("has " + key + " = " + in_quotes(digits) + "; a whole number from 1 to " +
           std::to_string(largest) + " is wanted");
    return value;
  }

  bool flag(const std::string& key) const { return one_of(key, {"0", "1"}) == "1"; }

  const std::vector<float>& tensor(const std::string& tensor, const std::vector<Index>& shape) {
    const auto found = file_.tensors.find(tensor);
    if (found == file_.tensors.end()) fail("has no tensor " + in_quotes(tensor));
    const FloatArray& array = found->second;
    if (array.shape != shape)
      fail("tensor " + in_quotes(tensor) + " has shape " + shape_text(array.shape) +
           "; its metadata ask for " + shape_text(shape));
    for (const float one : array.data)
      if (!std::isfinite(one))
        fail("tensor " + in_quotes(tensor) + " holds " + std::to_string(one) +
             "; numbers must be finite");
    taken_.insert(tensor);
    return array.data;
  }

  Matrix matrix(const std::string& name, Index rows, Index columns) {
    return Eigen::Map<const Matrix>(tensor(name, {rows, columns}).data(), rows, columns);
  }
  RowVector vector(const std::string& name, Index size) {
    return Eigen::Map<const RowVector>(tensor(name, {size}).data(), size);
  }
  Linear linear(const std::string& name, Index out, Index in) {
    return {matrix(name + ".weight", out, in), vector(name + ".bias", out)};
  }
  LayerNorm layer_norm(const std::string& name, Index dim) {
    return {vector(name + ".weight", dim), vector(name + ".bias", dim)};
  }

  enum class Sign { any, not_negative, positive };

  // Numbers that attention has learned; none where the file has no such tensor.
  std::vector<double> learned(const std::string& name, Index size, Sign sign) {
    if (!file_.tensors.contains(name)) return {};
    const std::vector<float>& values = tensor(name, {size});
    for (const float value : values)
      if ((sign == Sign::positive && !(value > 0)) || (sign == Sign::not_negative && value < 0))
        fail("tensor " + in_quotes(name) + " holds " + std::to_string(value) + "; it must " +
             (sign == Sign::positive ? "be above 0" : "not be negative"));
    return {values.begin(), values.end()};
  }
  std::optional<double> learned_number(const std::string& name, Sign sign) {
    const std::vector<double> values = learned(name, 1, sign);
    return values.empty() ? std::nullopt : std::optional(values[0]);
  }

  void require_all_taken() const {
    for (const auto& [tensor, array] : file_.tensors)
      if (!taken_.contains(tensor))
        fail("has the tensor " + in_quotes(tensor) + ", which its metadata do not ask for");
  }

 private:
  const Safetensors& file_;
  const std::string& name_;
  std::set<std::string> taken_;
};

Linear query_key_value(Reader& reader, const std::string& start, Index dim) {
  const Linear parts[] = {reader.linear(start + "query", dim, dim),
                          reader.linear(start + "key", dim, dim),
                          reader.linear(start + "value", dim, dim)};
  Linear joined{Matrix(3 * dim, dim), RowVector(3 * dim)};
  Index row = 0;
  for (const Linear& part : parts) {
    joined.weight.middleRows(row, dim) = part.weight;
    joined.bias.segment(row, dim) = part.bias;
    row += dim;
  }
  return joined;
}

// What the trained mechanism needs must be there; what others have learned may be.
LearnedAttention learned_attention(Reader& reader, const std::string& start,
                                   const Transformer& model) {
  using Sign = Reader::Sign;
  LearnedAttention learned;
  const auto scale = reader.learned_number(start + "scale", Sign::positive);
  learned.alpha = reader.learned_number(start + "alpha", Sign::any);
  learned.beta = reader.learned_number(start + "beta", Sign::any);
  learned.temperature = reader.learned_number(start + "temperature", Sign::not_negative);
  learned.clip = reader.learned_number(start + "clip", Sign::not_negative);
  learned.theta = reader.learned(start + "theta", model.heads, Sign::not_negative);

  const auto require = [&](bool is_there, const char* what) {
    if (!is_there)
      reader.fail("has no tensor " + in_quotes(start + what) + ", which " + model.attention +
                  " needs");
  };
  require(scale.has_value(), "scale");
  learned.scale = *scale;
  if (model.attention == "inhibitor") {
    require(learned.alpha.has_value(), "alpha");
    require(learned.beta.has_value(), "beta");
  }
  if (model.attention == "latte") require(!learned.theta.empty(), "theta");
  if (model.attention == "bitformer") {
    require(learned.temperature.has_value(), "temperature");
    if (model.planes > 1) require(learned.clip.has_value(), "clip");
  }
  return learned;
}

TransformerLayer read_layer(Reader& reader, const std::string& start, const Transformer& model) {
  const Index dim = model.dim;
  TransformerLayer layer;
  layer.norm1 = reader.layer_norm(start + "norm1", dim);
  layer.query_key_value = query_key_value(reader, start + "attention.", dim);
  layer.output = reader.linear(start + "attention.output", dim, dim);
  layer.attention = learned_attention(reader, start + "attention.", model);
  layer.norm2 = reader.layer_norm(start + "norm2", dim);
  layer.up = reader.linear(start + "feed_forward.up", model.feed_forward, dim);
  layer.down = reader.linear(start + "feed_forward.down", dim, model.feed_forward);
  return layer;
}

}  // namespace

Transformer make_transformer(const Safetensors& file, const std::string& name) {
  Reader reader(file, name);
  reader.one_of("format", {"lowatt-transformer"});
  reader.one_of("version", {"1"});
  reader.one_of("task", {"mnist"});

  Transformer model;
  model.attention = reader.one_of("attention", {"softmax", "inhibitor", "latte", "bitformer"});
  model.dim = reader.number("dim");
  model.heads = reader.number("heads");
  model.feed_forward = reader.number("feed_forward");
  model.tokens = reader.number("tokens");
  model.patch = reader.number("patch", 1024);
  model.classes = reader.number("classes", 256);  // labels are bytes
  if (model.dim % model.heads != 0)
    reader.fail("has dim = " + std::to_string(model.dim) +
                ", which its heads = " + std::to_string(model.heads) + " do not divide");
  if (model.attention == "inhibitor") {
    model.is_signed = reader.flag("signed");
    model.center = reader.flag("center");
    model.normalize = reader.flag("normalize");
  }
  if (model.attention == "bitformer") {
    model.planes = static_cast<int>(reader.number("planes", lowatt::max_planes));
    model.center = file.metadata.contains("center") && reader.flag("center");
  }

  model.embed = reader.linear("embed", model.dim, model.patch * model.patch);
  model.position = reader.matrix("position", model.tokens, model.dim);
  const Index layers = reader.number("layers");
  for (Index i = 0; i < layers; ++i)
    model.layers.push_back(read_layer(reader, "layers." + std::to_string(i) + ".", model));
  model.norm = reader.layer_norm("norm", model.dim);
  model.head = reader.linear("head", model.classes, model.dim);
  reader.require_all_taken();
  return model;
}

Transformer read_transformer(const std::string& path) {
  return make_transformer(read_safetensors(path), path);
}

}  // namespace support
