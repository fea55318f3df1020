// The image Transformer of lowatt_classify against the same model written plainly in double, and
// that a file which is no such model is refused with one sentence.
#include "classifier.hpp"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <sstream>

#include "lowatt/bitformer/reference.hpp"
#include "lowatt/inhibitor/reference.hpp"
#include "lowatt/latte/reference.hpp"
#include "lowatt/softmax/reference.hpp"
#include "support/tiny_model.hpp"

namespace {

using lowatt::Index, lowatt::Precision, lowatt::View;
using support::InputError;
using support::Safetensors;
using Doubles = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using M = test::TinyModel;

support::LabelledImages tiny_images(std::uint32_t count) {
  const std::string bytes = test::tiny_images(count);
  std::istringstream in(bytes);
  support::LabelledImages images{count, M::rows, M::columns, {}, {}};
  images.pixels = support::parse_idx(in, bytes.size(), "images").data;
  images.labels.assign(count, 0);
  return images;
}

// What the mechanism computes for one image, from its reference; and LATTE's pairs.
using Reference = void (*)(const Safetensors& file, const std::string& layer, View<const float> q,
                           View<const float> k, View<const float> v, View<double> out,
                           std::vector<lowatt::LatteCounts>& counts);

// The model in double on one image, straight from the file.
class PlainModel {
 public:
  PlainModel(const Safetensors& file, Reference reference) : file_(file), reference_(reference) {}

  Eigen::RowVectorXd logits(const std::uint8_t* image) {
    Doubles patches(M::tokens, M::patch * M::patch);
    for (Index y = 0; y < M::rows; ++y)
      for (Index x = 0; x < M::columns; ++x)
        patches(y / M::patch * (M::columns / M::patch) + x / M::patch,
                y % M::patch * M::patch + x % M::patch) =
            (image[y * M::columns + x] / 255.0 - 0.1307) / 0.3081;
    Doubles x = linear("embed", patches) + matrix("position");
    for (int i = 0; i < M::layers; ++i) {
      const std::string layer = "layers." + std::to_string(i) + ".";
      x += linear(layer + "attention.output", attend(layer, norm(layer + "norm1", x)));
      const Doubles hidden = linear(layer + "feed_forward.up", norm(layer + "norm2", x));
      x += linear(layer + "feed_forward.down", hidden.cwiseMax(0.0));
    }
    return linear("head", norm("norm", x).colwise().mean());
  }

  std::vector<lowatt::LatteCounts> counts;

 private:
  Doubles matrix(const std::string& name) const {
    const support::FloatArray& array = file_.tensors.at(name);
    const bool is_vector = array.shape.size() == 1;
    return Eigen::Map<const support::Matrix>(array.data.data(), is_vector ? 1 : array.shape[0],
                                             array.shape.back())
        .cast<double>();
  }
  Doubles linear(const std::string& name, const Doubles& x) const {
    return (x * matrix(name + ".weight").transpose()).rowwise() +
           Eigen::RowVectorXd(matrix(name + ".bias"));
  }
  Doubles norm(const std::string& name, const Doubles& x) const {
    Doubles y = x.colwise() - x.rowwise().mean();
    for (Index i = 0; i < y.rows(); ++i)
      y.row(i) = (y.row(i) / std::sqrt(y.row(i).squaredNorm() / M::dim + 1e-5))
                     .cwiseProduct(matrix(name + ".weight").row(0)) +
                 matrix(name + ".bias").row(0);
    return y;
  }
  Doubles attend(const std::string& layer, const Doubles& x) {
    const auto part = [&](const char* name) {
      return support::Matrix(linear(layer + "attention." + name, x).cast<float>());
    };
    const support::Matrix q = part("query"), k = part("key"), v = part("value");
    const auto view = [](auto& matrix) {
      return View(matrix.data(), 1, M::heads, M::tokens, M::head_dim, 0, M::head_dim, M::dim);
    };
    Doubles out(M::tokens, M::dim);
    reference_(file_, layer + "attention.", view(q), view(k), view(v), view(out), counts);
    return out;
  }

  const Safetensors& file_;
  Reference reference_;
};

double learned(const Safetensors& file, const std::string& name, std::size_t i = 0) {
  return static_cast<double>(file.tensors.at(name).data.at(i));
}

template <Precision precision>
void softmax(const Safetensors& file, const std::string& layer, View<const float> q,
             View<const float> k, View<const float> v, View<double> out,
             std::vector<lowatt::LatteCounts>&) {
  lowatt::Softmax mechanism;
  mechanism.scale = learned(file, layer + "scale");
  mechanism.precision = precision;
  ASSERT_TRUE(lowatt::softmax_reference(mechanism, q, k, v, out).ok());
}

template <Precision precision>
void inhibitor(const Safetensors& file, const std::string& layer, View<const float> q,
               View<const float> k, View<const float> v, View<double> out,
               std::vector<lowatt::LatteCounts>&) {
  lowatt::Inhibitor mechanism;
  mechanism.scale = learned(file, layer + "scale");
  mechanism.alpha = learned(file, layer + "alpha");
  mechanism.beta = learned(file, layer + "beta");
  mechanism.is_signed = file.metadata.at("signed") == "1";
  mechanism.center = file.metadata.at("center") == "1";
  mechanism.normalize = file.metadata.at("normalize") == "1";
  mechanism.precision = precision;
  const lowatt::Status status = precision == Precision::fp32
                                    ? lowatt::inhibitor_reference_real(mechanism, q, k, v, out)
                                    : lowatt::inhibitor_reference(mechanism, q, k, v, out);
  ASSERT_TRUE(status.ok());
}

template <Precision precision>
void latte(const Safetensors& file, const std::string& layer, View<const float> q,
           View<const float> k, View<const float> v, View<double> out,
           std::vector<lowatt::LatteCounts>& counts) {
  const double theta[] = {learned(file, layer + "theta", 0), learned(file, layer + "theta", 1)};
  lowatt::Latte mechanism;
  mechanism.scale = learned(file, layer + "scale");
  mechanism.theta = {theta, M::heads};
  mechanism.value_precision = precision;
  lowatt::LatteCounts of_heads[M::heads];
  ASSERT_TRUE(lowatt::latte_reference(mechanism, q, k, v, out, false, of_heads).ok());
  counts.insert(counts.end(), of_heads, of_heads + M::heads);
}

void bitformer(const Safetensors& file, const std::string& layer, View<const float> q,
               View<const float> k, View<const float> v, View<double> out,
               std::vector<lowatt::LatteCounts>&) {
  lowatt::Bitformer mechanism;
  mechanism.planes = std::stoi(file.metadata.at("planes"));
  mechanism.center_keys = file.metadata.contains("center");
  mechanism.temperature = learned(file, layer + "temperature");
  if (mechanism.planes > 1) mechanism.clip = learned(file, layer + "clip");
  ASSERT_TRUE(lowatt::bitformer_reference(mechanism, q, k, v, out).ok());
}

struct Case {
  const char* mechanism;
  Precision precision;
  Reference reference;
  double tolerance;  // of all logits' relative L2 distance
};
// Integers are exact once they are made: of floats that, summed in another order, may round to the
// next one.
const Case cases[] = {
    {"softmax", Precision::fp32, softmax<Precision::fp32>, 1e-5},
    {"softmax", Precision::int8, softmax<Precision::int8>, 5e-3},
    {"inhibitor", Precision::fp32, inhibitor<Precision::fp32>, 1e-5},
    {"inhibitor", Precision::int8, inhibitor<Precision::int8>, 1e-3},
    {"latte", Precision::fp32, latte<Precision::fp32>, 2e-3},
    {"latte", Precision::int8, latte<Precision::int8>, 2e-3},
    {"bitformer", Precision::int8, bitformer, 1e-3},
};

void expect_plain_models_logits(const Case& one, const Safetensors& file) {
  const Index count = 70;  // more than two batches
  const auto images = tiny_images(count);
  const auto model = support::make_transformer(file, "m");
  const auto attention = support::layer_attention(model, one.mechanism, one.precision);
  EXPECT_EQ(attention.note, "");

  PlainModel plain(file, one.reference);
  Doubles expected(count, M::classes);
  for (Index i = 0; i < count; ++i) expected.row(i) = plain.logits(images.image(i));
  double filtered = 0;
  for (const lowatt::LatteCounts& pairs : plain.counts)
    filtered += 1 - static_cast<double>(pairs.kept) / static_cast<double>(pairs.visible);
  if (!plain.counts.empty()) filtered /= static_cast<double>(plain.counts.size());

  for (const std::string& level : support::runnable_levels()) {
    SCOPED_TRACE(std::string(one.mechanism) + " at level " + level);
    const auto result = support::classify(model, attention, images, 0, count, {level, 1});
    EXPECT_EQ(result.level, level);
    const Doubles logits = result.logits.cast<double>();
    EXPECT_LT((logits - expected).norm() / expected.norm(), one.tolerance);
    EXPECT_NEAR(result.filtered, filtered, 1e-12);
    EXPECT_GT(result.seconds, 0);
    EXPECT_LE(result.seconds_in_attention, result.seconds);
  }
}

TEST(Classifier, MatchesThePlainModel) {
  for (const Case& one : cases) expect_plain_models_logits(one, test::tiny_model(one.mechanism));
}

TEST(Classifier, MatchesThePlainModelInEveryVariant) {
  for (const char* flag : {"signed", "center", "normalize"}) {
    Safetensors file = test::tiny_model("inhibitor");
    char& value = file.metadata.at(flag).front();
    value = value == '1' ? '0' : '1';
    expect_plain_models_logits(cases[3], file);
  }
  Safetensors file = test::tiny_model("bitformer");
  file.metadata["center"] = "1";
  expect_plain_models_logits(cases[6], file);
  file.metadata["planes"] = "1";
  for (const char* layer : {"layers.0.", "layers.1."})
    file.tensors.erase(std::string(layer) + "attention.clip");
  expect_plain_models_logits(cases[6], file);
}

TEST(Classifier, DoesNotDependOnThreadsOrOtherImages) {
  const auto images = tiny_images(100);
  for (const Case& one : cases) {
    const auto model = support::make_transformer(test::tiny_model(one.mechanism), "m");
    const auto attention = support::layer_attention(model, one.mechanism, one.precision);
    const auto all = support::classify(model, attention, images, 0, 100, {{}, 1});
    const auto threads = support::classify(model, attention, images, 0, 100, {{}, 3});
    EXPECT_TRUE((threads.logits.array() == all.logits.array()).all()) << one.mechanism;
    EXPECT_EQ(threads.filtered, all.filtered);
    const auto alone = support::classify(model, attention, images, 41, 1, {{}, 1});
    EXPECT_LT((alone.logits - all.logits.row(41)).norm(), 1e-5F * all.logits.row(41).norm())
        << one.mechanism;
  }
}

TEST(Classifier, RunsMechanismsThatTheModelWasNotTrainedWith) {
  const auto images = tiny_images(20);
  const auto run = [&](const Safetensors& file, const char* mechanism, const std::string& note) {
    const auto model = support::make_transformer(file, "m");
    const auto attention = support::layer_attention(model, mechanism, Precision::int8);
    EXPECT_EQ(attention.note, note);
    return support::classify(model, attention, images, 0, 20, {{}, 1});
  };
  const Safetensors softmax_file = test::tiny_model("softmax");
  const auto exact = run(softmax_file, "softmax", "");
  const auto approximate =
      run(softmax_file, "latte",
          "the model was trained with softmax; latte runs with theta 5 for every head");
  EXPECT_LT((approximate.logits - exact.logits).norm(), 0.05F * exact.logits.norm());
  run(softmax_file, "inhibitor",
      "the model was trained with softmax; inhibitor runs with alpha 0, beta 1 and scale "
      "1/head_dim");
  run(softmax_file, "bitformer",
      "the model was trained with softmax; bitformer runs with 4 planes, clip and temperature "
      "calibrated on each image");
  run(test::tiny_model("latte"), "softmax", "the model was trained with latte; softmax runs");

  // What another mechanism has learned counts where the file has it.
  Safetensors both = test::tiny_model("latte");
  const auto filtered = run(both, "latte", "").filtered;
  both.metadata["attention"] = "softmax";
  EXPECT_EQ(run(both, "latte", "the model was trained with softmax; latte runs").filtered,
            filtered);
}

TEST(Classifier, ProbabilitiesAndAnswersComeFromLogits) {
  support::Matrix logits(2, 3);
  logits << 0, std::log(3.0F), 0, 1000, -1000, 1000;
  EXPECT_EQ(support::answer(logits, 0), 1);
  EXPECT_EQ(support::answer(logits, 1), 0);
  EXPECT_NEAR(support::probabilities(logits, 0)[1], 0.6, 1e-7);
  EXPECT_EQ(support::probabilities(logits, 1), (std::vector<double>{0.5, 0, 0.5}));
}

template <class Call>
void expect_refused(Call&& call, const std::string& because) {
  try {
    call();
    ADD_FAILURE() << "accepted, should say: " << because;
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()), because);
  }
}

TEST(Classifier, RefusesPrecisionsThatThereAreNot) {
  const auto model = support::make_transformer(test::tiny_model("softmax"), "m");
  expect_refused([&] { support::layer_attention(model, "bitformer", Precision::fp32); },
                 "--precision: bitformer has no fp32; it attends with bits and values of int8");
  expect_refused([&] { support::layer_attention(model, "softmax", Precision::bf16); },
                 "--precision: fp32 and int8 are offered, not bf16");
}

TEST(Classifier, RefusesImagesOfAnotherSize) {
  const auto model = support::make_transformer(test::tiny_model("softmax"), "m");
  const auto attention = support::layer_attention(model, "softmax", Precision::int8);
  for (const auto& [rows, columns] : {std::pair{6, 6}, {7, 9}, {6, 10}}) {
    support::LabelledImages images{1, rows, columns, std::vector<std::uint8_t>(100), {0}};
    expect_refused([&] { support::classify(model, attention, images, 0, 1, {}); },
                   "images are " + std::to_string(rows) + " x " + std::to_string(columns) +
                       "; the model is for 6 patches of 3 x 3");
  }
  const auto images = tiny_images(1);
  expect_refused(
      [&] {
        support::classify(model, attention, images, 0, 1, {"avx3", 1});
      },
      "--arch: no level is called 'avx3'");
}

// Refusals of a model whose metadata or tensors were changed.
class ModelFile : public testing::Test {
 protected:
  template <class Change>
  void expect_model_refused(const std::string& attention, Change&& change,
                            const std::string& because) {
    Safetensors file = test::tiny_model(attention);
    change(file);
    expect_refused([&] { support::make_transformer(file, "m"); }, because);
  }
  void expect_value_refused(const std::string& key, const std::string& value,
                            const std::string& because) {
    expect_model_refused(
        "bitformer", [&](Safetensors& file) { file.metadata[key] = value; },
        "'m' has " + key + " = '" + value + "'; " + because);
  }
};

TEST_F(ModelFile, RefusesMetadata) {
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.metadata.clear(); },
      "'m' has no 'format' in its metadata");
  expect_model_refused(
      "inhibitor", [](Safetensors& file) { file.metadata.erase("center"); },
      "'m' has no 'center' in its metadata");
  expect_value_refused("format", "pt", "known here: lowatt-transformer");
  expect_value_refused("version", "2", "known here: 1");
  expect_value_refused("task", "prose", "known here: mnist");
  expect_value_refused("attention", "linear", "known here: softmax, inhibitor, latte, bitformer");
  for (const char* value : {"0", "-1", "2.0", " 2", "", "two", "99999999999999999999", "1048577"})
    expect_value_refused("layers", value, "a whole number from 1 to 1048576 is wanted");
  expect_value_refused("patch", "1025", "a whole number from 1 to 1024 is wanted");
  expect_value_refused("classes", "257", "a whole number from 1 to 256 is wanted");
  expect_value_refused("planes", "65", "a whole number from 1 to 64 is wanted");
  expect_model_refused(
      "inhibitor", [](Safetensors& file) { file.metadata["signed"] = "yes"; },
      "'m' has signed = 'yes'; known here: 0, 1");
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.metadata["heads"] = "3"; },
      "'m' has dim = 8, which its heads = 3 do not divide");
}

TEST_F(ModelFile, RefusesTensors) {
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.tensors.erase("layers.1.norm2.bias"); },
      "'m' has no tensor 'layers.1.norm2.bias'");
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.metadata["layers"] = "3"; },
      "'m' has no tensor 'layers.2.norm1.weight'");
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.metadata["layers"] = "1"; },
      "'m' has the tensor 'layers.1.attention.key.bias', which its metadata do not ask for");
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.metadata["feed_forward"] = "13"; },
      "'m' tensor 'layers.0.feed_forward.up.weight' has shape 12 x 8; its metadata ask for 13 x 8");
  expect_model_refused(
      "softmax", [](Safetensors& file) { file.tensors["head.bias"].data[2] = std::nanf(""); },
      "'m' tensor 'head.bias' holds nan; numbers must be finite");
}

TEST_F(ModelFile, RefusesWhatAttentionHasNotLearned) {
  const auto without = [](const char* name) {
    return [name](Safetensors& file) {
      file.tensors.erase(std::string("layers.1.attention.") + name);
    };
  };
  const auto expect_needed = [&](const char* attention, const char* name) {
    expect_model_refused(attention, without(name),
                         std::string("'m' has no tensor 'layers.1.attention.") + name +
                             "', which " + attention + " needs");
  };
  for (const char* attention : {"softmax", "inhibitor", "latte", "bitformer"})
    expect_needed(attention, "scale");
  expect_needed("inhibitor", "alpha");
  expect_needed("inhibitor", "beta");
  expect_needed("latte", "theta");
  expect_needed("bitformer", "temperature");
  expect_needed("bitformer", "clip");

  const auto set = [](const char* name, float value) {
    return [=](Safetensors& file) { file.tensors[name].data.back() = value; };
  };
  expect_model_refused("softmax", set("layers.0.attention.scale", 0),
                       "'m' tensor 'layers.0.attention.scale' holds 0.000000; it must be above 0");
  expect_model_refused(
      "latte", set("layers.0.attention.theta", -0.5F),
      "'m' tensor 'layers.0.attention.theta' holds -0.500000; it must not be negative");
  expect_model_refused(
      "bitformer", set("layers.0.attention.clip", -0.5F),
      "'m' tensor 'layers.0.attention.clip' holds -0.500000; it must not be negative");
}

}  // namespace
