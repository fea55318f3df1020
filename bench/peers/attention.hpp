// One row of the benchmark: an attention that may keep keys and values in a form of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/inputs.hpp"

namespace bench {

class Attention {
 public:
  virtual ~Attention() = default;
  // Brings the plain inputs into the form that attend() reads.
  virtual void pack() {}
  // Writes the inputs' out.
  virtual void attend() = 0;
};

struct Contender {
  std::string kernel;  // mechanism/precision
  std::string level;   // "-" for a peer, which chooses by itself
  bool packs_in_clock;
  double tolerance;  // largest relative L2 distance to exact softmax; infinite if it is none
  std::function<std::unique_ptr<Attention>(Inputs&)> make;
};

// All on one thread.
std::vector<Contender> onednn_contenders();
std::vector<Contender> openblas_contenders();
std::string onednn_version();
std::string openblas_version();

}  // namespace bench
