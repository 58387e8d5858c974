// The division of a kernel's work among threads, unless the kernel says otherwise.
#pragma once

namespace pydream {

constexpr int kThreads = 256;  // in a block
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

}  // namespace pydream
