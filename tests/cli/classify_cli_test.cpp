// The command line of `lowatt_classify` as a contract: bad input ends with status 2 and one line on
// stderr; reports have exactly the documented keys; an image is drawn with its answer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <lowatt/arch/tags.hpp>
#include <nlohmann/json.hpp>

#include "picture.hpp"
#include "program.hpp"
#include "safetensors.hpp"
#include "support/tiny_model.hpp"

namespace {

using nlohmann::json;
using Arguments = std::vector<std::string>;

constexpr std::uint32_t images = 40;

class ClassifyCli : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* attention : {"softmax", "inhibitor", "latte", "bitformer"})
      support::write_safetensors(folder_ / attention, test::tiny_model(attention));
    write("images", test::tiny_images(images));
    write("labels", test::tiny_labels(images));
  }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  Outcome run(const std::string& model, const Arguments& more = {},
              const std::string& image_file = "images",
              const std::string& label_file = "labels") const {
    Arguments arguments{"--model",  folder_ / model,     "--images", folder_ / image_file,
                        "--labels", folder_ / label_file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(LOWATT_CLASSIFY, arguments);
  }

  json report(const std::string& model, Arguments more = {}) const {
    more.push_back("--json");
    const Outcome outcome = run(model, more);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
    return json::parse(outcome.out);
  }

  static void expect_refused(const Outcome& outcome, const std::string& because) {
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(because), std::string::npos)
        << outcome.err << "should say: " << because;
  }

  TemporaryFolder folder_;
};

TEST_F(ClassifyCli, ReportsAccuracyAndTime) {
  for (const std::string mechanism : {"softmax", "inhibitor", "latte", "bitformer"}) {
    const json found = report(mechanism);
    std::vector<std::string> keys;
    for (const auto& [key, value] : found.items()) keys.push_back(key);
    EXPECT_EQ(keys, (std::vector<std::string>{"accuracy", "arch", "filtered", "images", "mechanism",
                                              "precision", "seconds", "seconds_in_attention",
                                              "threads"}));
    EXPECT_EQ(found["mechanism"], mechanism);
    EXPECT_EQ(found["precision"], "int8");
    EXPECT_EQ(found["images"], images);
    EXPECT_EQ(found["arch"], runnable_levels().back());
    EXPECT_GT(found["seconds"], 0);
    EXPECT_LT(found["seconds_in_attention"], found["seconds"]);
    // A whole number of images.
    const double right = found["accuracy"].get<double>() * images;
    EXPECT_NEAR(right, std::round(right), 1e-9);
    if (mechanism == "latte") {
      EXPECT_GT(found["filtered"], 0.1);
      EXPECT_LT(found["filtered"], 0.9);
    } else {
      EXPECT_EQ(found["filtered"], 0);
    }
  }
}

TEST_F(ClassifyCli, CountsRightAnswers) {
  // The labels are the answers that the pictures of all images point at.
  std::string labels;
  for (std::uint32_t i = 0; i < images; ++i) {
    const std::string out = run("latte", {"--index", std::to_string(i)}).out;
    const std::size_t answer = out.find("<- the answer");
    ASSERT_NE(answer, std::string::npos);
    const std::size_t bar = out.rfind(" |", out.rfind('|', answer) - 2);
    labels += static_cast<char>(out[bar - 1] - '0');
  }
  write("labels", test::idx_bytes({images}, labels));
  EXPECT_EQ(report("latte")["accuracy"], 1);
  for (const std::size_t wrong : {0U, 5U, 39U})
    labels[wrong] = static_cast<char>((labels[wrong] + 1) % test::TinyModel::classes);
  write("labels", test::idx_bytes({images}, labels));
  EXPECT_EQ(report("latte")["accuracy"], 37.0 / images);
  EXPECT_EQ(report("latte", {"--limit", "5"})["accuracy"], 4.0 / 5);
  EXPECT_EQ(report("latte", {"--limit", "5"})["images"], 5);
  EXPECT_EQ(report("latte", {"--limit", "1000"})["images"], images);
}

TEST_F(ClassifyCli, TakesMechanismPrecisionThreadsAndLevel) {
  const std::string lowest = lowatt::level_name(lowatt::arch::lowest::level);
  const json latte = report("latte", {"--precision", "fp32", "--threads", "3", "--arch", lowest});
  EXPECT_EQ(latte["precision"], "fp32");
  EXPECT_EQ(latte["threads"], 3);
  EXPECT_EQ(latte["arch"], lowest);
  EXPECT_EQ(run("latte").err, "");
  const Outcome other = run("softmax", {"--mechanism", "latte"});
  EXPECT_EQ(other.status, 0);
  EXPECT_EQ(other.err,
            "note: the model was trained with softmax; latte runs with theta 5 for every head\n");
  EXPECT_EQ(report("softmax", {"--mechanism", "bitformer"})["mechanism"], "bitformer");
}

TEST_F(ClassifyCli, DrawsAnImageAndItsAnswer) {
  const Outcome outcome = run("latte", {"--index", "7", "--limit", "10"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.find("+---------+") != std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("<- the answer"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("10 images: "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("attention: latte, int8, level "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("% of the query-key pairs dropped\n"), std::string::npos)
      << outcome.out;
  for (const char c : outcome.out) EXPECT_TRUE((c >= ' ' && c <= '~') || c == '\n');
}

TEST_F(ClassifyCli, RefusesOptions) {
  expect_refused(run_program(LOWATT_CLASSIFY, {}), "--model is required");
  expect_refused(run("softmax", {"--mechanism", "linear"}), "--mechanism");
  expect_refused(run("softmax", {"--precision", "int4"}), "--precision");
  expect_refused(run("bitformer", {"--precision", "fp32"}), "bitformer has no fp32");
  for (const char* limit : {"0", "-1", "x"})
    expect_refused(run("softmax", {"--limit", limit}), "--limit");
  expect_refused(run("softmax", {"--index", "-1"}), "--index");
  expect_refused(run("softmax", {"--index", "40"}), "--index: there is no image 40 among 40");
  expect_refused(run("softmax", {"--index", "0", "--json"}), "--index and --json exclude");
  expect_refused(run("softmax", {"--threads", "0"}), "--threads");
  expect_refused(run("softmax", {"--arch", "avx3"}), "--arch: no level is called 'avx3'");
}

TEST_F(ClassifyCli, RefusesFiles) {
  expect_refused(run("none"), "none' does not exist");
  expect_refused(run("images"), "images' ");
  expect_refused(run("softmax", {}, "none"), "none' does not exist");
  expect_refused(run("softmax", {}, "images", "none"), "none' does not exist");
  expect_refused(run("softmax", {}, "images", "images"), "labels are one row of bytes");
  write("other", test::idx_bytes({images, 1, 1}, std::string(images, 'x')));
  expect_refused(run("softmax", {}, "other"), "images are 1 x 1; the model is for 6 patches of");
  write("labels", test::idx_bytes({images}, std::string(images, '\5')));
  expect_refused(run("softmax"), "labels image 0 as 5; the model knows 5 classes, from 0 on");
}

TEST_F(ClassifyCli, PrintsHelp) {
  const Outcome outcome = run_program(LOWATT_CLASSIFY, {"--help"});
  EXPECT_EQ(outcome.status, 0);
  for (const char* option : {"--model", "--images", "--labels", "--mechanism", "--precision",
                             "--limit", "--index", "--threads", "--arch", "--json"})
    EXPECT_NE(outcome.out.find(option), std::string::npos) << option;
}

TEST(Picture, ShowsShadesBarsAndTheLabel) {
  // Four columns, three rows: the last line of characters has one row of pixels under it.
  const support::LabelledImages one{1, 3, 4, {0, 255, 110, 0, 0, 255, 0, 0, 255, 0, 0, 26}, {2}};
  EXPECT_EQ(support::picture(one, 0, {0.25, 0.75, 0}),
            "+----+    0 |######                  |  25.0%\n"
            "| @: |    1 |##################      |  75.0%  <- the answer, wrong\n"
            "|@  .|    2 |                        |   0.0%  <- the label\n"
            "+----+\n");
  EXPECT_EQ(support::picture(one, 0, {0, 0, 1}).find("wrong"), std::string::npos);
}

TEST(Picture, ShrinksWideImages) {
  const support::LabelledImages one{1, 100, 100, std::vector<std::uint8_t>(10000, 255), {0}};
  const std::string text = support::picture(one, 0, {1});
  // 100 columns in cells of 3 x 6, and the frame.
  EXPECT_EQ(text.substr(0, text.find('\n')), "+" + std::string(34, '-') + "+");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 19);
}

}  // namespace
