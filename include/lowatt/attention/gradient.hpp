// Training: outputs of a mechanism's training form, and gradients through it, at fp32.
#pragma once

#include "../simd/gradient.hpp"
#include "adapter.hpp"
#include "workspace.hpp"

LOWATT_API_BEGIN

// What the training form gives beside its outputs; pointers may be null.
struct TrainingOutputs {
  double* survival = nullptr;  // SoftLatte: [batch * query_heads], mean of the soft mask
};

// Gradients of one call. Tensors are overwritten; shapes are those of what they are the gradient
// of. Parameters have one entry per (batch, query head), [batch * query_heads], to be summed by the
// caller as his parameters are shared; null where not wanted.
struct Gradients {
  View<float> q, k, v;
  double* scale = nullptr;        // Inhibitor
  double* alpha = nullptr;        // Inhibitor
  double* beta = nullptr;         // Inhibitor
  double* theta = nullptr;        // SoftLatte
  double* temperature = nullptr;  // Bitformer

  const double* survival = nullptr;  // SoftLatte, an input: gradient of TrainingOutputs.survival
};

// Which members of Gradients and TrainingOutputs a mechanism has.
struct TrainingParameters {
  bool scale = false, alpha = false, beta = false, theta = false, temperature = false;
  bool survival = false;
};

// One specialisation per mechanism, in <mechanism>_gradient.hpp beside this file.
// template <> struct GradientAdapter<M> {
//   static constexpr TrainingParameters parameters;
//   static Status validate(const M&, const Shape&) noexcept;
//   static Status calibrate(const M&, View<const float> q, k, v, const Mask&,
//                           Calibration&) noexcept;
//       What depends on whole tensors.
//   static Index workspace_bytes(const M&, const Shape&) noexcept;  per worker, a multiple of 64
//   static void forward(const KernelTable&, const M&, const Calibration&, const HeadPosition&,
//                       const GradientArguments&, const TrainingOutputs&) noexcept;
//   static void gradient(const KernelTable&, const M&, const Calibration&, const HeadPosition&,
//                        const GradientArguments&, const Gradients&) noexcept;
//       One query head.
// };
template <class M>
struct GradientAdapter;

namespace detail {

template <class T>
auto rows_of(View<T> x, Index b, Index head) noexcept {
  using Rows = std::conditional_t<std::is_const_v<T>, ConstFloatRows, FloatRows>;
  return Rows{x.row(b, head, 0), x.token_stride};
}

// A tensor of given extents.
inline Status check_like(const char* name, View<const float> x, const char* like_name,
                         View<const float> like, Index dim, const char* dim_name) noexcept {
  if (Status status = check_view(name, x); !status.ok()) return status;
  const struct {
    const char* what;
    Index value, wanted;
  } extents[] = {{"batch", x.batch, like.batch},
                 {"heads", x.heads, like.heads},
                 {"tokens", x.tokens, like.tokens}};
  for (const auto& extent : extents)
    if (extent.value != extent.wanted)
      return failure(StatusCode::invalid_shape, "%s.%s is %td but %s.%s is %td", name, extent.what,
                     extent.value, like_name, extent.what, extent.wanted);
  if (x.dim != dim)
    return failure(StatusCode::invalid_shape, "%s.dim is %td but %s is %td", name, x.dim, dim_name,
                   dim);
  return {};
}

inline Status check_absent(const char* mechanism_has_no, const void* given, bool has) noexcept {
  if (given != nullptr && !has)
    return failure(StatusCode::invalid_argument, "%s is given, but this mechanism has none",
                   mechanism_has_no);
  return {};
}

inline Status check_trains(Precision precision) noexcept {
  if (precision == Precision::fp32) return {};
  return failure(StatusCode::unsupported, "precision is %s; training is in fp32",
                 precision_name(precision));
}

// Of masks and what else changes scores training takes causal order.
inline Status check_causal_alone(const Options& options) noexcept {
  const struct {
    const char* name;
    bool given;
  } masks[] = {{"window_left", options.window_left >= 0},
               {"window_right", options.window_right >= 0},
               {"key_lengths", options.key_lengths != nullptr},
               {"mask", options.mask.data != nullptr},
               {"mask_bits", options.mask_bits.data != nullptr},
               {"bias", options.bias.data != nullptr},
               {"alibi_slopes", options.alibi_slopes != nullptr},
               {"sinks", options.sinks != nullptr}};
  for (const auto& mask : masks)
    if (mask.given)
      return failure(StatusCode::unsupported,
                     "options.%s is given; training knows causal order only", mask.name);
  return {};
}

// The arguments of one query head that both directions share.
inline GradientArguments head_arguments(View<const float> q, View<const float> k,
                                        View<const float> v, const HeadPosition& head, bool causal,
                                        std::byte* workspace) noexcept {
  GradientArguments arguments{};
  arguments.query = rows_of(q, head.batch, head.query_head);
  arguments.key = rows_of(k, head.batch, head.kv_head);
  arguments.value = rows_of(v, head.batch, head.kv_head);
  arguments.queries = q.tokens;
  arguments.keys = k.tokens;
  arguments.head_dim = k.dim;
  arguments.value_dim = v.dim;
  arguments.causal = causal;
  arguments.workspace = workspace;
  return arguments;
}

// Bytes for so many workers.
template <class M>
Status training_workspace(const M& mechanism, const Shape& shape, int workers,
                          Index& bytes) noexcept {
  if (Status status = GradientAdapter<M>::validate(mechanism, shape); !status.ok()) return status;
  if (Status status = check_workers(workers); !status.ok()) return status;
  // No workspace takes more bytes, but for copies of the keys in float32, which are in memory too.
  constexpr Index per_dim = 1 << 10, per_key = 1 << 10;
  if (!fits_memory(shape.keys, per_key) ||
      !fits_memory(shape.head_dim + shape.value_dim, per_dim) ||
      __builtin_mul_overflow(GradientAdapter<M>::workspace_bytes(mechanism, shape), workers,
                             &bytes))
    return failure(StatusCode::invalid_shape,
                   "k.tokens is %td and dims %td and %td: more than memory "
                   "can hold",
                   shape.keys, shape.head_dim, shape.value_dim);
  return {};
}

inline Shape training_shape(View<const float> q, View<const float> k,
                            View<const float> v) noexcept {
  return {k.batch, q.heads, k.heads, q.tokens, k.tokens, k.dim, v.dim};
}

// One task per KV head: begin(batch entry, KV head), then each(kernels, Calibration, head,
// arguments) for its query heads one after the other, so that no two tasks write the same gradient,
// and sums do not depend on the number of workers.
template <class M, class Begin, class Each>
Status run_heads(const M& mechanism, View<const float> q, View<const float> k, View<const float> v,
                 const Options& options, Begin begin, Each each) noexcept {
  if (options.kept != nullptr)
    return failure(StatusCode::invalid_argument,
                   "options.kept is given; training has no kept pairs");
  if (options.log_sum_exp != nullptr)
    return failure(StatusCode::unsupported,
                   "options.log_sum_exp is given; training does not report it");
  if (Status status = check_causal_alone(options); !status.ok()) return status;
  const int workers = options.executor.workers();
  Index needed = 0;
  if (Status status = training_workspace(mechanism, training_shape(q, k, v), workers, needed);
      !status.ok())
    return status;
  const KernelTable* table = nullptr;
  if (Status status = try_find_kernels(options.level, table); !status.ok()) return status;
  Calibration calibration;
  if (Status status =
          GradientAdapter<M>::calibrate(mechanism, q, k, v, options.visibility(), calibration);
      !status.ok())
    return status;
  Workspace workspace{};
  if (Status status = take_workspace(options, needed, workspace); !status.ok()) return status;
  options.executor.run(k.batch * k.heads, [&](Index task, Index worker) {
    const Index b = task / k.heads, kv_head = task % k.heads, group = q.heads / k.heads;
    begin(b, kv_head);
    for (Index h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const HeadPosition head{b, h, kv_head, q.heads, k.heads};
      each(*table, calibration, head,
           head_arguments(q, k, v, head, options.causal,
                          workspace.data + worker * (needed / workers)));
    }
  });
  return {};
}

// What is written has rows apart from each other, from all inputs and from what else is written.
inline Status check_written(View<const float> q, View<const float> k, View<const float> v,
                            View<const float> out, View<const float> out_gradient,
                            const Gradients& result) noexcept {
  const struct {
    const char* name;
    View<const float> view;
  } tensors[] = {{"q", q},
                 {"k", k},
                 {"v", v},
                 {"out", out},
                 {"out_gradient", out_gradient},
                 {"gradients.q", result.q},
                 {"gradients.k", result.k},
                 {"gradients.v", result.v}};
  constexpr int inputs = 5, all = 8;
  const View<float> written[] = {result.q, result.k, result.v};
  for (int i = inputs; i < all; ++i) {
    if (Status status = check_output_rows(tensors[i].name, written[i - inputs]); !status.ok())
      return status;
    for (int j = 0; j < i; ++j)
      if (Status status = check_apart(tensors[i].name, bytes_of(tensors[i].view), tensors[j].name,
                                      bytes_of(tensors[j].view));
          !status.ok())
        return status;
  }
  return {};
}

}  // namespace detail

// Writes how many bytes at 64-byte alignment options.workspace must have for try_attend_training()
// and try_attend_gradient() on such tensors with this executor.
template <class M>
Status try_training_workspace_bytes(const M& mechanism, View<const float> q, View<const float> k,
                                    View<const float> v, const Options& options,
                                    Index& bytes) noexcept {
  if (Status status = detail::check_samples(q, k, v); !status.ok()) return status;
  Index needed = 0;
  Status status = detail::training_workspace(mechanism, detail::training_shape(q, k, v),
                                             options.executor.workers(), needed);
  if (status.ok()) bytes = needed;
  return status;
}

// out = the mechanism's training form, in fp32: what try_attend_gradient() differentiates. Shapes
// as for try_attend(). Nothing is written on failure.
template <class M>
Status try_attend_training(const M& mechanism, View<const float> q, View<const float> k,
                           View<const float> v, View<float> out, const TrainingOutputs& more = {},
                           const Options& options = {}) noexcept {
  if (Status status = detail::check_keys_values(k, v); !status.ok()) return status;
  if (Status status = detail::check_queries(q, out, k.batch, k.heads, k.dim, v.dim); !status.ok())
    return status;
  if (Status status = detail::first_failure(
          detail::check_apart(out, "k", k), detail::check_apart(out, "v", v),
          detail::check_absent("survival", more.survival, GradientAdapter<M>::parameters.survival));
      !status.ok())
    return status;
  return detail::run_heads(
      mechanism, q, k, v, options, [](Index, Index) {},
      [&](const KernelTable& table, const Calibration& calibration, const HeadPosition& head,
          GradientArguments arguments) {
        arguments.result = detail::rows_of(out, head.batch, head.query_head);
        GradientAdapter<M>::forward(table, mechanism, calibration, head, arguments, more);
      });
}

// Gradients of a loss through try_attend_training(), given its `out` and the loss's gradient to it,
// both [batch, query_heads, queries, value_dim]. The same bits for any number of workers. Nothing
// is written on failure.
template <class M>
Status try_attend_gradient(const M& mechanism, View<const float> q, View<const float> k,
                           View<const float> v, View<const float> out,
                           View<const float> out_gradient, const Gradients& result,
                           const Options& options = {}) noexcept {
  if (Status status = detail::check_samples(q, k, v); !status.ok()) return status;
  if (Status status = detail::first_failure(
          detail::check_like("out", out, "q", q, v.dim, "v.dim"),
          detail::check_like("out_gradient", out_gradient, "q", q, v.dim, "v.dim"),
          detail::check_like("gradients.q", result.q, "q", q, q.dim, "q.dim"),
          detail::check_like("gradients.k", result.k, "k", k, k.dim, "k.dim"),
          detail::check_like("gradients.v", result.v, "v", v, v.dim, "v.dim"));
      !status.ok())
    return status;
  if (Status status = detail::check_written(q, k, v, out, out_gradient, result); !status.ok())
    return status;
  constexpr TrainingParameters has = GradientAdapter<M>::parameters;
  if (Status status = detail::first_failure(
          detail::check_absent("gradients.scale", result.scale, has.scale),
          detail::check_absent("gradients.alpha", result.alpha, has.alpha),
          detail::check_absent("gradients.beta", result.beta, has.beta),
          detail::check_absent("gradients.theta", result.theta, has.theta),
          detail::check_absent("gradients.temperature", result.temperature, has.temperature),
          detail::check_absent("gradients.survival", result.survival, has.survival));
      !status.ok())
    return status;
  return detail::run_heads(
      mechanism, q, k, v, options,
      [&](Index b, Index kv_head) {
        clear_rows(detail::rows_of(result.k, b, kv_head), k.tokens, k.dim);
        clear_rows(detail::rows_of(result.v, b, kv_head), v.tokens, v.dim);
      },
      [&](const KernelTable& table, const Calibration& calibration, const HeadPosition& head,
          GradientArguments arguments) {
        arguments.out = detail::rows_of(out, head.batch, head.query_head);
        arguments.out_gradient = detail::rows_of(out_gradient, head.batch, head.query_head);
        arguments.query_gradient = detail::rows_of(result.q, head.batch, head.query_head);
        arguments.key_gradient = detail::rows_of(result.k, head.batch, head.kv_head);
        arguments.value_gradient = detail::rows_of(result.v, head.batch, head.kv_head);
        GradientAdapter<M>::gradient(table, mechanism, calibration, head, arguments, result);
      });
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
Index training_workspace_bytes(const M& mechanism, View<const float> q, View<const float> k,
                               View<const float> v, const Options& options = {}) {
  Index bytes = 0;
  throw_if_failed(try_training_workspace_bytes(mechanism, q, k, v, options, bytes));
  return bytes;
}

template <class M>
void attend_training(const M& mechanism, View<const float> q, View<const float> k,
                     View<const float> v, View<float> out, const TrainingOutputs& more = {},
                     const Options& options = {}) {
  throw_if_failed(try_attend_training(mechanism, q, k, v, out, more, options));
}

template <class M>
void attend_gradient(const M& mechanism, View<const float> q, View<const float> k,
                     View<const float> v, View<const float> out, View<const float> out_gradient,
                     const Gradients& result, const Options& options = {}) {
  throw_if_failed(try_attend_gradient(mechanism, q, k, v, out, out_gradient, result, options));
}
#endif

LOWATT_API_END
