// What threads gain where only keys can be split: one query of one head over many keys.
#pragma once

namespace bench {

void add_threads();

}  // namespace bench
