// Slow builds run a part of what tests would: LOWATT_TEST_SAMPLE percent, chosen by
// LOWATT_TEST_SEED (default 1).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>

namespace test {

inline int environment_number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const long number = std::strtol(text, &end, 10);
  if (*end != '\0' || number < 1 || number > 1'000'000'000) {
    std::fprintf(stderr, "%s is '%s'; it must be a whole number from 1 to 1000000000\n", name,
                 text);
    std::exit(1);
  }
  return static_cast<int>(number);
}

// Says of each of many cases that are alike whether it is in the sample; of all without a sample.
class Sampler {
 public:
  bool operator()() { return static_cast<int>(random_() % 100) < percent; }
  const int percent = environment_number("LOWATT_TEST_SAMPLE", 100);
  const unsigned seed = static_cast<unsigned>(environment_number("LOWATT_TEST_SEED", 1));

 private:
  std::mt19937 random_{seed};
};

}  // namespace test
