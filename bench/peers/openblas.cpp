// Attention as sgemm, softmax, sgemm.
#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "attention.hpp"
#include "softmax_rows.hpp"

namespace bench {
namespace {

class OpenBlas final : public Attention {
 public:
  explicit OpenBlas(Inputs& inputs)
      : in_(inputs),
        block_(std::min<Index>(inputs.queries, largest_block)),
        scores_(static_cast<std::size_t>(block_ * inputs.keys)),
        inverse_sums_(static_cast<std::size_t>(block_)) {}

  void attend() override {
    for (Index head = 0; head < in_.heads; ++head)
      for (Index first = 0; first < in_.queries; first += block_)
        attend_block(head, first, std::min(block_, in_.queries - first));
  }

 private:
  // The best of 64, 128, 256 and 512 up to 2048 keys.
  static constexpr Index largest_block = 256;

  void attend_block(Index head, Index first, Index rows) {
    const Index queries_before = head * in_.queries + first, keys_before = head * in_.keys;
    const float* q = in_.q_data.data() + queries_before * in_.dim;
    const float* k = in_.k_data.data() + keys_before * in_.dim;
    const float* v = in_.v_data.data() + keys_before * in_.dim;
    float* out = in_.out_data.data() + queries_before * in_.dim;
    const auto m = static_cast<blasint>(rows), n = static_cast<blasint>(in_.keys),
               d = static_cast<blasint>(in_.dim);
    const float scale = 1 / std::sqrt(static_cast<float>(in_.dim));
    float* scores = scores_.data();
    if (rows == 1)  // sgemm copies its operands first, which does not pay for one row
      cblas_sgemv(CblasRowMajor, CblasNoTrans, n, d, scale, k, d, q, 1, 0, scores, 1);
    else
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, d, scale, q, d, k, d, 0, scores,
                  n);
    weigh_rows(scores, rows, in_.keys, inverse_sums_.data());
    if (rows == 1)
      cblas_sgemv(CblasRowMajor, CblasTrans, n, d, 1, v, d, scores, 1, 0, out, 1);
    else
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, n, 1, scores, n, v, d, 0, out,
                  d);
    scale_rows(out, rows, in_.dim, inverse_sums_.data());
  }

  Inputs& in_;
  Index block_;
  std::vector<float> scores_, inverse_sums_;
};

}  // namespace

std::vector<Contender> openblas_contenders() {
  openblas_set_num_threads(1);
  return {{"openblas/fp32", "-", false, 1e-4,
           [](Inputs& inputs) { return std::make_unique<OpenBlas>(inputs); }}};
}

std::string openblas_version() {
  return openblas_get_config();
}

}  // namespace bench
