// Clips of the Inhibitor over thermometer codes.
#pragma once

#include "../quant/calibration.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

// The clip of every KV head, given or derived: [batch * kv_heads]. Empty when memory runs out.
inline Array<float> inhibitor_clips(const Inhibitor& mechanism, View<const float> q,
                                    View<const float> k) noexcept {
  if (mechanism.clip.given)
    return Array<float>(k.batch * k.heads, static_cast<float>(mechanism.clip.value));
  const Index group = q.heads / k.heads;
  const Array<float> query_absmax = absmax_per_head(q);
  Array<float> clips = absmax_per_head(k);
  if (query_absmax.empty()) return {};
  for (Index i = 0; i < clips.size(); ++i)
    clips[i] = inhibitor_shared_absmax(query_absmax.data() + i * group, group, clips[i]);
  return clips;
}

LOWATT_API_END
