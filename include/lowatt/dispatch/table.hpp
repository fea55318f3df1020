// What a level offers: one table of functions, the same for every level.
#pragma once

#include "../arch/tags.hpp"
#include "../bitformer/gradient.hpp"
#include "../bitformer/kernel.hpp"
#include "../bitformer/tile_amx.hpp"
#include "../inhibitor/gradient.hpp"
#include "../inhibitor/kernel.hpp"
#include "../inhibitor/kernel_fp32.hpp"
#include "../inhibitor/kernel_int16.hpp"
#include "../latte/dense.hpp"
#include "../latte/gradient.hpp"
#include "../latte/kernel.hpp"
#include "../latte/scores_amx.hpp"
#include "../softmax/gradient.hpp"
#include "../softmax/kernel.hpp"
#include "../softmax/tile_amx.hpp"

namespace lowatt {

// The functions of one mechanism and precision. A block of queries is run as prepare, statistic
// (null when rows need none), accumulate, finish. Statistic and accumulate take a range of tiles;
// those of LATTE and Bitformer must be given the same one, since scores are handed on. Where keys
// are split, what parts have found out leaves and enters workspaces as numbers (core/part.hpp):
// store_statistic, then load_statistic of the merged one before accumulate; store_part, then
// finish_part of the merged one in place of finish.
template <class PackArgumentsOf, class ArgumentsOf>
struct Kernel {
  using Arguments = ArgumentsOf;
  void (*pack)(const PackArgumentsOf&) noexcept;
  void (*prepare)(const ArgumentsOf&) noexcept;
  void (*statistic)(const ArgumentsOf&) noexcept;
  void (*accumulate)(const ArgumentsOf&) noexcept;
  void (*finish)(const ArgumentsOf&) noexcept;
  void (*store_statistic)(const ArgumentsOf&, double*) noexcept;
  void (*load_statistic)(const ArgumentsOf&, const double*) noexcept;
  void (*store_part)(const ArgumentsOf&, PartRows<double>) noexcept;
  void (*finish_part)(const ArgumentsOf&, PartRows<const double>) noexcept;
};

// The training form of one mechanism: outputs of all queries of one query head, and gradients.
template <class ArgumentsOf>
struct TrainingKernel {
  using Arguments = ArgumentsOf;
  void (*forward)(const ArgumentsOf&) noexcept;
  void (*gradient)(const ArgumentsOf&) noexcept;
};

struct KernelTable {
  Level level;
  Kernel<InhibitorPackArguments, InhibitorArguments> inhibitor_int8;
  Kernel<InhibitorInt16PackArguments, InhibitorArguments> inhibitor_int16;
  Kernel<PackArguments, InhibitorFp32Arguments> inhibitor_fp32;
  Kernel<PackArguments, SoftmaxArguments> softmax_fp32;
  Kernel<PackArguments, SoftmaxArguments> softmax_bf16;
  Kernel<PackArguments, SoftmaxArguments> softmax_f16;
  Kernel<SoftmaxInt8PackArguments, SoftmaxArguments> softmax_int8;
  Kernel<LattePackArguments, LatteArguments> latte;
  LatteDenseKernel
      latte_dense;  // in the place of accumulate and finish, together with softmax_int8
  Kernel<BitformerPackArguments, BitformerArguments> bitformer;
  TrainingKernel<InhibitorTrainingArguments> inhibitor_training;
  TrainingKernel<SoftmaxTrainingArguments> softmax_training;
  TrainingKernel<SoftLatteTrainingArguments> soft_latte_training;
  TrainingKernel<BitformerTrainingArguments> bitformer_training;
};

// The table of level L; needs a unit whose flags allow L.
template <class L>
inline constexpr KernelTable kernel_table = {
    L::level,
    {inhibitor_pack<L>, inhibitor_prepare<L>, inhibitor_statistic<L>, inhibitor_accumulate<L>,
     inhibitor_finish<L>, inhibitor_store_sums<L>, inhibitor_load_sums<L>, inhibitor_store_part<L>,
     inhibitor_finish_part<L>},
    {inhibitor_int16_pack<L>, inhibitor_int16_prepare<L>, inhibitor_int16_statistic<L>,
     inhibitor_int16_accumulate<L>, inhibitor_int16_finish<L>, inhibitor_int16_store_sums<L>,
     inhibitor_int16_load_sums<L>, inhibitor_int16_store_part<L>, inhibitor_finish_part<L>},
    {inhibitor_fp32_pack<L>, inhibitor_fp32_prepare<L>, inhibitor_fp32_statistic<L>,
     inhibitor_fp32_accumulate<L>, inhibitor_fp32_finish<L>, inhibitor_fp32_store_sums<L>,
     inhibitor_fp32_load_sums<L>, inhibitor_fp32_store_part<L>, inhibitor_fp32_finish_part<L>},
    {softmax_pack<L>, softmax_prepare<L, SoftmaxFp32>, nullptr, softmax_accumulate<L, SoftmaxFp32>,
     softmax_finish<L, SoftmaxFp32>, nullptr, nullptr, softmax_store_part<L, SoftmaxFp32>,
     softmax_finish_part<L, SoftmaxFp32>},
    {softmax_bf16_pack<L>, softmax_prepare<L, SoftmaxBf16>, nullptr,
     softmax_accumulate<L, SoftmaxBf16>, softmax_finish<L, SoftmaxBf16>, nullptr, nullptr,
     softmax_store_part<L, SoftmaxBf16>, softmax_finish_part<L, SoftmaxBf16>},
    {softmax_f16_pack<L>, softmax_prepare<L, SoftmaxF16>, nullptr,
     softmax_accumulate<L, SoftmaxF16>, softmax_finish<L, SoftmaxF16>, nullptr, nullptr,
     softmax_store_part<L, SoftmaxF16>, softmax_finish_part<L, SoftmaxF16>},
    {softmax_int8_pack<L>, softmax_prepare<L, SoftmaxInt8>, nullptr,
     softmax_accumulate<L, SoftmaxInt8>, softmax_finish<L, SoftmaxInt8>, nullptr, nullptr,
     softmax_store_part<L, SoftmaxInt8>, softmax_finish_part<L, SoftmaxInt8>},
    {latte_pack<L>, latte_prepare<L>, latte_statistic<L>, latte_accumulate<L>, latte_finish<L>,
     latte_store_statistic<L>, latte_load_statistic<L>, latte_store_part<L>, latte_finish_part<L>},
    latte_dense_kernel<L>,
    {bitformer_pack<L>, bitformer_prepare<L>, bitformer_statistic<L>, bitformer_accumulate<L>,
     bitformer_finish<L>, bitformer_store_statistic<L>, bitformer_load_statistic<L>,
     bitformer_store_part<L>, bitformer_finish_part<L>},
    {inhibitor_training_forward<L>, inhibitor_training_gradient<L>},
    {softmax_training_forward<L>, softmax_training_gradient<L>},
    {soft_latte_training_forward<L>, soft_latte_training_gradient<L>},
    {bitformer_training_forward<L>, bitformer_training_gradient<L>},
};

}  // namespace lowatt
