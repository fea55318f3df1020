// What masks save and cost: causal order, a window and booleans beside full attention.
#pragma once

namespace bench {

void add_masks();

}  // namespace bench
