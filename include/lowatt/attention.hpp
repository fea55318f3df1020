// The attention layer: caches, plans and calls for every mechanism.
#pragma once

#include "attention/attend.hpp"              // IWYU pragma: export
#include "attention/bitformer.hpp"           // IWYU pragma: export
#include "attention/bitformer_gradient.hpp"  // IWYU pragma: export
#include "attention/gradient.hpp"            // IWYU pragma: export
#include "attention/inhibitor.hpp"           // IWYU pragma: export
#include "attention/inhibitor_gradient.hpp"  // IWYU pragma: export
#include "attention/latte.hpp"               // IWYU pragma: export
#include "attention/latte_gradient.hpp"      // IWYU pragma: export
#include "attention/latte_report.hpp"        // IWYU pragma: export
#include "attention/part.hpp"                // IWYU pragma: export
#include "attention/saved_cache.hpp"         // IWYU pragma: export
#include "attention/softmax.hpp"             // IWYU pragma: export
#include "attention/softmax_gradient.hpp"    // IWYU pragma: export
#include "attention/weights.hpp"             // IWYU pragma: export
