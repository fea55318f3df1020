// The golden cases: inputs, options and outputs of an independent implementation.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include "lowatt/bitformer/params.hpp"
#include "lowatt/inhibitor/params.hpp"
#include "lowatt/latte/params.hpp"
#include "lowatt/softmax/params.hpp"
#include "npy.hpp"
#include "tensor.hpp"

namespace test {

struct GoldenCase {
  std::string name;
  std::variant<lowatt::Softmax, lowatt::Inhibitor, lowatt::Latte, lowatt::Bitformer> mechanism;
  std::vector<double> theta;  // one, or one per query head; set_theta() hands it to the mechanism
  bool causal = false;

  double tolerance = 0;              // relative L2; 0: equal values
  std::vector<Index> kept, visible;  // empty: not stated
  std::vector<double> temperature;
};

struct GoldenTensors {
  Tensor<> q, k, v, out;
};

// Lets a Latte refer to its case's thetas; to be called where the case has come to rest.
inline void set_theta(GoldenCase& golden) {
  auto* latte = std::get_if<lowatt::Latte>(&golden.mechanism);
  if (latte == nullptr) return;
  if (golden.theta.size() == 1)
    latte->theta = golden.theta[0];
  else
    latte->theta = golden.theta;
}

// The options of examples/attend that the cases use.
inline GoldenCase parse_golden_case(const nlohmann::json& json) {
  GoldenCase golden;
  golden.name = json.at("name");
  const auto& tolerance = json.at("tolerance");
  golden.tolerance = tolerance.value("exact", false) ? 0.0 : tolerance.at("rel_l2").get<double>();
  golden.kept = json.value("kept", std::vector<Index>{});
  golden.visible = json.value("visible", std::vector<Index>{});
  golden.temperature = json.value("temperature", std::vector<double>{});

  std::string mechanism, precision;
  lowatt::Setting scale;
  lowatt::Inhibitor inhibitor{};
  lowatt::Latte latte{};
  lowatt::Bitformer bitformer{};
  const std::vector<std::string> args = json.at("args");
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& option = args[i];
    const auto text = [&] { return args.at(++i); };
    const auto number = [&] { return std::stod(args.at(++i)); };
    if (option == "--mechanism") {
      mechanism = text();
    } else if (option == "--precision") {
      precision = text();
    } else if (option == "--scale") {
      scale = number();
    } else if (option == "--causal") {
      golden.causal = true;
    } else if (option == "--alpha") {
      inhibitor.alpha = number();
    } else if (option == "--unsigned") {
      inhibitor.is_signed = false;
    } else if (option == "--center") {
      inhibitor.center = true;
    } else if (option == "--theta") {
      std::istringstream list(text());
      for (std::string value; std::getline(list, value, ',');)
        golden.theta.push_back(std::stod(value));
    } else if (option == "--split") {
      latte.split = text() == "round" ? lowatt::NibbleSplit::round : lowatt::NibbleSplit::truncate;
    } else if (option == "--planes") {
      bitformer.planes = std::stoi(text());
    } else if (option == "--encoding") {
      bitformer.encoding =
          text() == "sign" ? lowatt::BitEncoding::sign : lowatt::BitEncoding::thermometer;
    } else if (option == "--temperature") {
      bitformer.temperature = number();
    } else if (option == "--clip") {
      bitformer.clip = number();
    } else if (option == "--center-keys") {
      bitformer.center_keys = true;
    } else {
      throw std::runtime_error("golden case " + golden.name + " has unknown option " + option);
    }
  }
  const bool is_known =
      precision.empty() || lowatt::parse_precision(precision.c_str(), inhibitor.precision);
  if (!is_known || (mechanism == "softmax" && precision != "fp32"))
    throw std::runtime_error("golden case " + golden.name + " has precision " + precision);
  inhibitor.scale = latte.scale = bitformer.scale = scale;
  if (mechanism == "softmax")
    golden.mechanism = lowatt::Softmax{.scale = scale};
  else if (mechanism == "inhibitor")
    golden.mechanism = inhibitor;
  else if (mechanism == "latte")
    golden.mechanism = latte;
  else if (mechanism == "bitformer")
    golden.mechanism = bitformer;
  else
    throw std::runtime_error("golden case " + golden.name + " has no known mechanism");
  return golden;
}

// All cases of `folder`/cases.json.
inline std::vector<GoldenCase> load_golden_cases(const std::string& folder) {
  std::ifstream file(folder + "/cases.json");
  std::vector<GoldenCase> cases;
  for (const nlohmann::json& json : nlohmann::json::parse(file))
    cases.push_back(parse_golden_case(json));
  for (GoldenCase& golden : cases) set_theta(golden);
  return cases;
}

inline Tensor<> load_tensor(const std::string& path) {
  support::FloatArray array = support::read_npy(path);
  if (array.shape.size() == 2) array.shape.insert(array.shape.begin(), 1);
  Tensor<> tensor(1, array.shape.at(0), array.shape.at(1), array.shape.at(2));
  tensor.data = std::move(array.data);
  return tensor;
}

inline GoldenTensors load_golden_tensors(const std::string& folder, const GoldenCase& golden) {
  const std::string path = folder + "/" + golden.name;
  return {load_tensor(path + ".q.npy"), load_tensor(path + ".k.npy"), load_tensor(path + ".v.npy"),
          load_tensor(path + ".o.npy")};
}

// How test names and failures show a case.
inline std::ostream& operator<<(std::ostream& out, const GoldenCase& golden) {
  return out << golden.name;
}

inline std::string identifier(std::string name) {
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}

}  // namespace test
