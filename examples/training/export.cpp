#include "export.hpp"

#include "safetensors.hpp"

namespace training {
namespace {

const char* name_of(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::inhibitor:
      return "inhibitor";
    case Mechanism::latte:
      return "latte";
    case Mechanism::bitformer:
      return "bitformer";
    default:
      return "softmax";
  }
}

}  // namespace

void export_model(const std::string& path, const Task& task, const Model& model) {
  const ModelShape& shape = model->shape();
  support::Safetensors file;
  auto& about = file.metadata;
  about["format"] = "lowatt-transformer";
  about["version"] = "1";
  about["task"] = task.name;
  about["attention"] = name_of(shape.form.mechanism);
  about["layers"] = std::to_string(shape.layers);
  about["dim"] = std::to_string(shape.dim);
  about["heads"] = std::to_string(shape.heads);
  about["feed_forward"] = std::to_string(shape.feed_forward);
  about["tokens"] = std::to_string(shape.tokens);
  about["classes"] = std::to_string(shape.outputs);
  if (task.name == "mnist") about["patch"] = "4";
  if (shape.form.mechanism == Mechanism::inhibitor) {
    about["signed"] = shape.form.is_signed ? "1" : "0";
    about["center"] = shape.form.center ? "1" : "0";
    about["normalize"] = shape.form.normalize ? "1" : "0";
  }
  if (shape.form.mechanism == Mechanism::bitformer) {
    about["center"] = shape.form.center ? "1" : "0";
    about["planes"] = std::to_string(shape.form.planes);
  }
  for (const auto& [name, tensor] : model->exported()) {
    const Tensor whole = tensor.detach().contiguous();
    support::FloatArray& array = file.tensors[name];
    array.shape.assign(whole.sizes().begin(), whole.sizes().end());
    array.data.assign(whole.data_ptr<float>(), whole.data_ptr<float>() + whole.numel());
  }
  support::write_safetensors(path, file);
}

}  // namespace training
