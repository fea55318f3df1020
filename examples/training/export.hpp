// A trained model as a file that lowatt_classify reads.
#pragma once

#include <string>

#include "task.hpp"

namespace training {

// model.safetensors: fp32 tensors, and what a reader must know beside them as metadata.
void export_model(const std::string& path, const Task& task, const Model& model);

}  // namespace training
