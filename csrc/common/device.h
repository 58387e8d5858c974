// The CUDA devices of the machine, and whether this build has code for them. Nothing here throws.
#pragma once

namespace pydream {

// 0 also without a driver.
int device_count();

// Whether this module's kernels run on a device, as its machine code or as PTX.
bool has_code_for(int device);

// CUDA's own numbers, 13000 for 13.0; 0 without a driver.
int driver_version();
int runtime_version();

}  // namespace pydream
