// What CUDA devices there are, and whether this build has code for them. Nothing here throws.
#pragma once

namespace pydream {

// 0 also where there is no driver.
int device_count();

// Whether a device can run this module's kernels: their machine code for it, or PTX.
bool carries(int device);

// As CUDA counts, 13000 for 13.0; the driver's is 0 where there is none.
int driver_version();
int runtime_version();

}  // namespace pydream
