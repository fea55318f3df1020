// The program `train`: a killed run that is resumed gives the same bits as one that was not, and
// bad input ends with one sentence.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "../cli/program.hpp"
#include "mails.hpp"
#include "safetensors.hpp"

namespace {

std::vector<std::string> adding(const std::string& out, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"--task",
                                     "adding",
                                     "--attention",
                                     "latte",
                                     "--seed",
                                     "3",
                                     "--out",
                                     out,
                                     "--steps",
                                     "12",
                                     "--batch",
                                     "4",
                                     "--log-every",
                                     "2",
                                     "--checkpoint-every",
                                     "4",
                                     "--warmup",
                                     "3",
                                     "--test-limit",
                                     "20"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// All columns but the last, which is time.
std::string without_seconds(const std::string& csv) {
  std::istringstream lines(csv);
  std::string result;
  for (std::string line; std::getline(lines, line);)
    result += line.substr(0, line.rfind(',')) + "\n";
  return result;
}

TEST(Train, ResumedAfterAKillGivesTheSameBits) {
  const TemporaryFolder folder;
  const std::string whole = folder / "whole", killed = folder / "killed";
  ASSERT_EQ(run_program(LOWATT_TRAIN, adding(whole, {})).status, 0);
  // Ends behind its last checkpoint: rows of metrics are there that must come again.
  ASSERT_EQ(run_program(LOWATT_TRAIN, adding(killed, {"--stop-after", "10"})).status, 0);
  EXPECT_FALSE(std::filesystem::exists(killed + "/model.safetensors"));
  const Outcome resumed = run_program(LOWATT_TRAIN, adding(killed, {"--resume"}));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(resumed.err.find("step 8 "), std::string::npos);
  EXPECT_NE(resumed.err.find("step 10 "), std::string::npos);
  EXPECT_EQ(read_text(killed + "/model.safetensors"), read_text(whole + "/model.safetensors"));
  EXPECT_EQ(without_seconds(read_text(killed + "/metrics.csv")),
            without_seconds(read_text(whole + "/metrics.csv")));
}

TEST(Train, WritesWhatAReaderNeeds) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_program(LOWATT_TRAIN, adding(folder / "run", {})).status, 0);
  const support::Safetensors model = support::read_safetensors(folder / "run/model.safetensors");
  EXPECT_EQ(model.metadata.at("format"), "lowatt-transformer");
  EXPECT_EQ(model.metadata.at("attention"), "latte");
  EXPECT_EQ(model.tensors.at("position").shape, (std::vector<lowatt::Index>{100, 32}));
  EXPECT_EQ(model.tensors.at("layers.0.attention.theta").data.size(), 1U);
  EXPECT_GT(model.tensors.at("layers.0.attention.scale").data[0], 0);
}

TEST(Train, TheModelSaysThatKeysAreCentred) {
  const TemporaryFolder folder;
  const Outcome outcome = run_program(
      LOWATT_TRAIN, {"--task", "adding", "--attention", "bitformer", "--center", "--out",
                     folder / "run", "--steps", "2", "--batch", "4", "--test-limit", "20"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const support::Safetensors model = support::read_safetensors(folder / "run/model.safetensors");
  EXPECT_EQ(model.metadata.at("center"), "1");
}

TEST(Train, StartsFromACheckpointOfAnotherMechanism) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_program(LOWATT_TRAIN, adding(folder / "first", {})).status, 0);
  const Outcome second =
      run_program(LOWATT_TRAIN, {"--task", "adding", "--attention", "inhibitor", "--out",
                                 folder / "second", "--steps", "2", "--batch", "4", "--from",
                                 folder / "first/checkpoint.pt", "--test-limit", "20"});
  EXPECT_EQ(second.status, 0) << second.err;
}

void expect_refusal(const std::vector<std::string>& arguments, const std::string& sentence) {
  const Outcome outcome = run_program(LOWATT_TRAIN, arguments);
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "error: " + sentence + "\n");
}

TEST(Train, RefusesBadInputInOneSentence) {
  const TemporaryFolder folder;
  const std::string broken = folder / "broken.pt";
  std::ofstream(broken) << "not a checkpoint";
  expect_refusal(adding(folder / "a", {"--from", broken}), "'" + broken + "' is not a checkpoint");
  expect_refusal(adding(folder / "a", {"--from", folder / "none.pt"}),
                 "'" + (folder / "none.pt") + "' does not exist");
  expect_refusal({"--task", "mnist", "--attention", "softmax", "--out", folder / "b", "--data",
                  folder / "none"},
                 "'" + (folder / "none/mnist/train-images-idx3-ubyte") + "' does not exist");
  expect_refusal({"--task", "prose", "--attention", "softmax", "--out", folder / "b", "--data",
                  folder / "none"},
                 "'" + (folder / "none/prose/data.txt") + "' does not exist");
  expect_refusal({"--task", "mails", "--attention", "softmax", "--out", folder / "b", "--data",
                  folder / "none"},
                 "'" + (folder / "none/mails/easy-ham-1") +
                     "' holds no mails; examples/training/fetch.sh gets them");
  expect_refusal({"--task", "adding", "--attention", "softmax", "--out", folder / "b",
                  "--log-every", "3", "--checkpoint-every", "4"},
                 "--checkpoint-every is 4; it must be a multiple of --log-every 3");
  expect_refusal(
      {"--task", "adding", "--attention", "softmax", "--out", folder / "b", "--batch", "100001"},
      "--batch is 100001; the task has 100000 examples");
}

TEST(Train, RefusesToResumeWithOtherOptions) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_program(LOWATT_TRAIN, adding(folder / "run", {})).status, 0);
  const Outcome outcome =
      run_program(LOWATT_TRAIN, adding(folder / "run", {"--resume", "--rate", "0.5"}));
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("was made with other options"), std::string::npos) << outcome.err;
}

TEST(Mails, OnlySubjectAndBodyAreRead) {
  const std::string mail =
      "From a@b\nReceived: from spam.example\nSubject: Win $100 NOW!\nX-Mailer: x\n\n"
      "Click <a href=\"http://x\">here</a>, it's 50% off.\n\nSubject: not this";
  const std::vector<std::string> expected{"win",  "$", "0", "now", "!",       "click", "here",
                                          "it's", "0", "%", "off", "subject", "not",   "this"};
  EXPECT_EQ(training::words_of(training::visible_text(mail)), expected);
}

TEST(Mails, VocabularyIsOfTheTrainingPart) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << "{\"text\": \"A: b\\n\\n" << text << "\"}";
  };
  for (const char* group : {"easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"})
    write(std::string(group) + "/00001.x.json", "common common");
  write("spam-1/00005.x.json", "rare common");
  const training::Mails mails = training::read_mails(folder.path(), 3, 100);
  EXPECT_EQ(mails.train.spam, (std::vector<std::int64_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(mails.test.spam, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(mails.test.words, (std::vector<std::int64_t>{1, 2, 0}));  // unknown, common, padding
  std::ofstream(folder / "spam-2/00002.x.json") << "[]";
  EXPECT_THROW(training::read_mails(folder.path(), 3, 100), support::InputError);
}

}  // namespace
