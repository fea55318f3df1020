// Where a call's workspace comes from: the caller's memory, or an allocation for the time of the
// call.
#pragma once

#include "../core/array.hpp"
#include "options.hpp"

LOWATT_API_BEGIN

namespace detail {

inline Status check_workers(int workers) noexcept {
  if (workers < 1)
    return failure(StatusCode::invalid_argument, "executor.workers() is %d; it must be at least 1",
                   workers);
  return {};
}

struct Workspace {
  std::byte* data = nullptr;
  Array<std::byte> allocated;  // empty where the caller gives memory
};

inline Status take_workspace(const Options& options, Index needed, Workspace& workspace) noexcept {
  if (options.workspace == nullptr) {
    workspace.allocated = Array<std::byte>::unfilled(needed);
    if (workspace.allocated.size() != needed)
      return failure(StatusCode::out_of_memory, "no memory for a workspace of %td bytes", needed);
    workspace.data = workspace.allocated.data();
    return {};
  }
  if (options.workspace_bytes < needed)
    return failure(StatusCode::invalid_argument, "workspace_bytes is %td; this call needs %td",
                   options.workspace_bytes, needed);
  if (reinterpret_cast<std::uintptr_t>(options.workspace) % Array<std::byte>::alignment != 0)
    return failure(StatusCode::invalid_argument, "workspace is at %p; it needs 64-byte alignment",
                   static_cast<void*>(options.workspace));
  workspace.data = options.workspace;
  return {};
}

}  // namespace detail

LOWATT_API_END
