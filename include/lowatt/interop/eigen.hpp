// Views of Eigen's matrices. The only header here that includes Eigen; the umbrella header does not
// include it.
//
//   lowatt::view(m)         one head: rows are tokens, columns are channels
//   lowatt::view(m, heads)  token-major heads side by side: row t is [head 0 | head 1 | ...], as a
//                           projection of hidden states leaves them; strides do it, nothing is
//                           copied
//
// `m` is a matrix, Map, Ref or Block of float that is row-major with contiguous rows; rows may lie
// apart by any outer stride. For several heads one after the other in memory, give pointer and
// extents to View itself.
#pragma once

#include <Eigen/Core>
#include <type_traits>

#include "../core/view.hpp"

namespace lowatt {

// Whether memory of type M outlives the expression that a view is made in: a temporary matrix would
// not, a temporary Map or Block only refers to memory.
template <class M>
concept EigenViewable =
    std::is_base_of_v<Eigen::DenseBase<std::remove_cvref_t<M>>, std::remove_cvref_t<M>> &&
    (std::is_lvalue_reference_v<M> ||
     !std::is_base_of_v<Eigen::PlainObjectBase<std::remove_cvref_t<M>>, std::remove_cvref_t<M>>);

// `heads` must divide the number of columns; otherwise the view has no channels, which
// every entry point refuses.
template <EigenViewable M>
LOWATT_ALWAYS_INLINE auto view(M&& m, Index heads = 1) noexcept {
  using Dense = std::remove_cvref_t<M>;
  static_assert((Dense::Flags & Eigen::DirectAccessBit) != 0,
                "lowatt::view: an expression has no memory; evaluate it into a matrix first");
  static_assert(Dense::IsRowMajor, "lowatt::view: the matrix must be row-major");
  static_assert(Dense::InnerStrideAtCompileTime == 1, "lowatt::view: rows must be contiguous");
  using Element = std::remove_pointer_t<decltype(m.data())>;

  const Index dim = heads > 0 && m.cols() % heads == 0 ? m.cols() / heads : 0;
  return View<Element>(m.data(), 1, heads, m.rows(), dim, m.rows() * m.outerStride(), dim,
                       m.outerStride());
}

}  // namespace lowatt
