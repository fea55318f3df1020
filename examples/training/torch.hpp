// libtorch, in one place: the precompiled header of the units that use it.
#pragma once

#include <torch/torch.h>
