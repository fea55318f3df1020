// Lowatt: attention kernels that do without most of the arithmetic. Attention calls, caches and
// plans; the references and QuantizedTensor have headers of their own.
#pragma once

#include "attention.hpp"  // IWYU pragma: export
